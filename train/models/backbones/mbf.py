"""The MobileFaceNet of insightface's arcface_torch (`mbf`, `mbf_large`), key-compatible.

Source: Chen et al., "MobileFaceNets", 2018; wider stages and PReLU as arcface_torch has them. It
shares neither layers nor names with `mobilefacenet`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.train.models.backbones.backbone import FaceBackbone, LinearTail, batch_norm_affine
from faceguide.train.models.input_spec import ARCFACE_INPUT

# The layer that halves 14×14 to 7×7.
_LAST_STAGE = 6


class _Layers(nn.Module):
    """Layers in a row, under the name that files have for them; `residual` adds the input."""

    def __init__(self, *layers: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.layers, self.residual = nn.Sequential(*layers), residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, prelu: bool = True
) -> _Layers:
    padding = kernel // 2
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return _Layers(*layers, *([nn.PReLU(outputs)] if prelu else []))


def _bottleneck(
    inputs: int, outputs: int, hidden: int, stride: int = 1, residual: bool = False
) -> _Layers:
    """1×1 to `hidden` channels, 3×3 of each by itself, linear 1×1."""
    return _Layers(
        _conv(inputs, hidden),
        _conv(hidden, hidden, 3, stride, hidden),
        _conv(hidden, outputs, prelu=False),
        residual=residual,
    )


def _stage(channels: int, hidden: int, repeats: int) -> _Layers:
    return _Layers(
        *(_bottleneck(channels, channels, hidden, residual=True) for _ in range(repeats))
    )


class ArcFaceMobileFaceNet(FaceBackbone):
    """Maps 7×7×512 and 14×14×(128·scale).

    Args:
        blocks: residual blocks on the maps of 56, 28, 14 and 7 cells.
    """

    input_spec = ARCFACE_INPUT
    cam_layers = ("layers.3", f"layers.{_LAST_STAGE - 1}", "conv_sep")

    def __init__(
        self,
        blocks: tuple[int, int, int, int] = (1, 4, 6, 2),
        scale: int = 2,
        embedding_size: int = 512,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        narrow, wide = 64 * scale, 128 * scale
        self.map_channels = {7: 512, 14: wide}
        self.layers = nn.ModuleList(
            [
                _conv(3, narrow, 3, 2),
                _conv(narrow, narrow, 3, groups=64) if blocks[0] == 1
                else _stage(narrow, 128, blocks[0]),
                _bottleneck(narrow, narrow, 128, 2),
                _stage(narrow, 128, blocks[1]),
                _bottleneck(narrow, wide, 256, 2),
                _stage(wide, 256, blocks[2]),
                _bottleneck(wide, wide, 512, 2),
                _stage(wide, 256, blocks[3]),
            ]
        )  # fmt: skip
        self.conv_sep = _conv(wide, 512)
        weigh = nn.Conv2d(512, 512, 7, groups=512, bias=False)  # each cell by its own number
        self.features = _Layers(
            _Layers(weigh, nn.BatchNorm2d(512)),
            nn.Flatten(),
            nn.Linear(512, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def to_map14(self, images: Tensor) -> Tensor:
        x = images
        for layer in self.layers[:_LAST_STAGE]:
            x = layer(x)
        return x

    def map14_to_map7(self, map14: Tensor) -> Tensor:
        x = map14
        for layer in self.layers[_LAST_STAGE:]:
            x = layer(x)
        map7: Tensor = self.conv_sep(x)
        return map7

    def map7_to_embedding(self, map7: Tensor) -> Tensor:
        raw: Tensor = self.features(map7)
        return raw

    def linear_tail(self) -> LinearTail:
        """Global depthwise, BatchNorm, linear, BatchNorm as one map per cell."""
        layer = self.features.get_submodule
        cells = self.get_parameter("features.layers.0.layers.0.weight")[:, 0].flatten(1)  # (C, S)
        inner_scale, inner_shift = batch_norm_affine(layer("layers.0.layers.1"))
        outer_scale, outer_shift = batch_norm_affine(layer("layers.3"))
        matrix = self.get_parameter("features.layers.2.weight")  # (E, C)
        weight = torch.einsum("e,ec,c,cs->sce", outer_scale, matrix, inner_scale, cells)
        return LinearTail(weight, outer_scale * (matrix @ inner_shift) + outer_shift)
