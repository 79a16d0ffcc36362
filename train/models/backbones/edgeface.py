"""EdgeFace: EdgeNeXt for faces, key-compatible with its released weights and their gamma variants.

Source: George et al., "EdgeFace: Efficient Face Recognition Model for Edge Devices", 2024; Maaz et
al., "EdgeNeXt", 2022, in timm's layout. A gamma variant has each linear layer as a product of two
thin ones. Attention is between channels, so there are no matrices of tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.input_spec import ARCFACE_INPUT

# Channels of the four stages, blocks of each, heads.
SIZES = {
    "xxs": ((24, 48, 88, 168), (2, 2, 6, 2), 4),
    "xs": ((32, 64, 100, 192), (3, 3, 9, 3), 4),
    "s": ((48, 96, 160, 304), (3, 3, 9, 3), 8),
    "base": ((80, 160, 288, 584), (3, 3, 9, 3), 8),
}
_KERNELS = (3, 5, 7, 9)
_SCALES = (2, 2, 3, 4)  # groups of channels that see ever more
_EPS = 1e-6
_WAVES = 32  # per axis, of the positions


class _Thin(nn.Module):
    """A linear layer of low rank."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(inputs, rank, bias=False)
        self.linear2 = nn.Linear(rank, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(self.linear1(x))
        return y


def _linear(inputs: int, outputs: int, ratio: float | None) -> nn.Module:
    if ratio is None:
        return nn.Linear(inputs, outputs)
    return _Thin(inputs, outputs, max(2, int(min(inputs, outputs) * ratio)))


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map (N, C, h, w)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _MLP(nn.Module):
    def __init__(self, width: int, ratio: float | None) -> None:
        super().__init__()
        self.fc1, self.fc2 = _linear(width, 4 * width, ratio), _linear(4 * width, width, ratio)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(nn.functional.gelu(self.fc1(x)))
        return y


class _ConvBlock(nn.Module):
    """Depthwise convolution, LayerNorm, MLP; scaled and added to the input."""

    def __init__(self, width: int, kernel: int, ratio: float | None) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm, self.mlp = nn.LayerNorm(width, _EPS), _MLP(width, ratio)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1)))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class _Positions(nn.Module):
    """Sines and cosines of the places, projected: (1, width, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token_projection = nn.Conv2d(2 * _WAVES, width, 1)

    def forward(self, height: int, width: int) -> Tensor:
        weight = self.token_projection.weight
        lengths = 10000.0 ** (2 * (torch.arange(_WAVES, device=weight.device) // 2) / _WAVES)

        def waves(count: int) -> Tensor:
            place = torch.arange(1, count + 1, device=weight.device)
            angle = (place / (count + _EPS) * 2 * math.pi)[:, None] / lengths
            return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1)

        shape = (height, width, _WAVES)
        joint = [waves(height)[:, None].expand(shape), waves(width)[None].expand(shape)]
        found: Tensor = self.token_projection(torch.cat(joint, 2).permute(2, 0, 1)[None].to(weight))
        return found


class _ChannelAttention(nn.Module):
    """Cross-covariance attention: channels attend to channels."""

    def __init__(self, width: int, heads: int, ratio: float | None) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv, self.proj = _linear(width, 3 * width, ratio), _linear(width, width, ratio)

    def forward(self, x: Tensor) -> Tensor:
        # (N, T, 3·D) -> three of (N, heads, D / heads, T)
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 4, 1)
        q, k = nn.functional.normalize(q, dim=3), nn.functional.normalize(k, dim=3)
        matrix = torch.softmax(q @ k.transpose(2, 3) * self.temperature, dim=3)
        # (N, heads, D / heads, T) -> (N, T, D)
        found: Tensor = self.proj((matrix @ v).permute(0, 3, 1, 2).flatten(2))
        return found


class _SplitBlock(nn.Module):
    """Convolutions of growing reach on groups of channels, channel attention, MLP."""

    def __init__(
        self, width: int, heads: int, scales: int, positions: bool, ratio: float | None
    ) -> None:
        super().__init__()
        group = math.ceil(width / scales)
        self.convs = nn.ModuleList(
            nn.Conv2d(group, group, 3, padding=1, groups=group) for _ in range(scales - 1)
        )
        self.pos_embd = _Positions(width) if positions else None
        self.norm_xca, self.xca = nn.LayerNorm(width, _EPS), _ChannelAttention(width, heads, ratio)
        self.gamma_xca = nn.Parameter(torch.full((width,), 1e-6))
        self.norm, self.mlp = nn.LayerNorm(width, _EPS), _MLP(width, ratio)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        groups = x.chunk(len(self.convs) + 1, dim=1)
        parts: list[Tensor] = []
        for conv, group in zip(self.convs, groups, strict=False):
            parts.append(conv(group + parts[-1] if parts else group))
        y = torch.cat([*parts, groups[-1]], 1)
        if self.pos_embd is not None:
            y = y + self.pos_embd(*y.shape[2:])
        tokens = y.flatten(2).transpose(1, 2)  # (N, T, D)
        tokens = tokens + self.gamma_xca * self.xca(self.norm_xca(tokens))
        tokens = self.gamma * self.mlp(self.norm(tokens))
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class _Stage(nn.Module):
    def __init__(self, place: int, size: str, ratio: float | None) -> None:
        super().__init__()
        widths, depths, heads = SIZES[size]
        width = widths[place]
        self.downsample = nn.Identity() if place == 0 else nn.Sequential(
            _ChannelNorm(widths[place - 1], _EPS), nn.Conv2d(widths[place - 1], width, 2, 2)
        )  # fmt: skip
        blocks: list[nn.Module] = [
            _ConvBlock(width, _KERNELS[place], ratio) for _ in range(depths[place])
        ]
        if place:
            blocks[-1] = _SplitBlock(width, heads, _SCALES[place], place == 1, ratio)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks(self.downsample(x))
        return y


class EdgeFace(FaceBackbone):
    """Maps 14×14 and 7×7; what follows (a 3×3 stage, mean, LayerNorm) is not linear in cells.

    Args:
        size: "xxs", "xs", "s" or "base".
        rank_ratio: gamma, the rank of linear layers as a share of their lesser side; None = whole.
    """

    input_spec = ARCFACE_INPUT
    cam_layers = ("stages.0", "stages.1", "stages.2")

    def __init__(
        self, size: str, rank_ratio: float | None = None, embedding_size: int = 512
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        widths = SIZES[size][0]
        self.map_channels = {7: widths[2], 14: widths[1]}
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), _ChannelNorm(widths[0], _EPS))
        self.stages = nn.Sequential(*(_Stage(place, size, rank_ratio) for place in range(4)))
        self.head = nn.ModuleDict(
            {
                "norm": nn.LayerNorm(widths[3], _EPS),
                "fc": _linear(widths[3], embedding_size, rank_ratio),
            }
        )

    def to_map14(self, images: Tensor) -> Tensor:
        map14: Tensor = self.stages[:2](self.stem(images))
        return map14

    def map14_to_map7(self, map14: Tensor) -> Tensor:
        map7: Tensor = self.stages[2](map14)
        return map7

    def map7_to_embedding(self, map7: Tensor) -> Tensor:
        raw: Tensor = self.head["fc"](self.head["norm"](self.stages[3](map7).mean((2, 3))))
        return raw
