"""The vision transformers of arcface_torch and CVLFace, key-compatible.

Source: Dosovitskiy et al., "An Image Is Worth 16x16 Words", 2021, as insightface's arcface_torch
builds it for faces: no class token, ReLU6, and one linear layer over all tokens together. LVFace
and TransFace have the same layers and names; CVLFace has other patches and, with KP-RPE, attention
that knows where five landmarks lie (`keypoint_bias`).
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError
from faceguide.train.models.backbones.backbone import FaceBackbone, LinearTail, batch_norm_affine
from faceguide.train.models.backbones.keypoint_bias import CLASSES, keypoint_bias, offsets
from faceguide.train.models.input_spec import ARCFACE_INPUT
from faceguide.train.models.matchers.correlation import cell_visibility

SIZE = 112
_SEEN = 0.5  # mean visibility of a token that is not left out


class _Attention(nn.Module):
    """Multi-head self-attention; written out where its matrix is wanted, else fused."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, bias: Tensor | None, keep: list[Tensor] | None) -> Tensor:
        # (N, T, 3·D) -> three of (N, heads, T, D / heads)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(tokens).chunk(3, dim=2)
        )
        if keep is None:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            logits = q @ k.transpose(2, 3) * self.scale
            keep.append(torch.softmax(logits if bias is None else logits + bias, dim=3))
            mixed = keep[-1] @ v
        # (N, heads, T, D / heads) -> (N, T, D)
        found: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return found


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.fc2(nn.functional.relu6(self.fc1(tokens)))
        return found


class _Block(nn.Module):
    """Attention and a two-layer network, each after LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), _Attention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), _MLP(width, hidden)

    def forward(self, tokens: Tensor, bias: Tensor | None, keep: list[Tensor] | None) -> Tensor:
        tokens = tokens + self.attn(self.norm1(tokens), bias, keep)
        found: Tensor = tokens + self.mlp(self.norm2(tokens))
        return found


class ViT(FaceBackbone):
    """A vision transformer on 112×112 faces; its map is the grid of normalised tokens.

    Args:
        width: numbers per token, D.
        heads: per block; must divide the width.
        patch: side of a patch in pixels; what is left at the right and the lower edge is not seen.
        mlp_ratio: hidden numbers of the two-layer networks per number of a token.
        mask_token: whether there is a token that stands for hidden ones after the last block.
    """

    input_spec = ARCFACE_INPUT
    cam_layers = ("grid",)

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int = 9,
        mlp_ratio: int = 4,
        mask_token: bool = True,
        keypoints: bool = False,
        embedding_size: int = 512,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"heads must divide the width, found {heads} and {width}")
        self.embedding_size, self.needs_keypoints = embedding_size, keypoints
        self.heads = heads
        self.map_side = SIZE // patch
        self.map_channels = {self.map_side: width}
        self.extent = self.map_side * patch / SIZE
        cells = self.map_side**2
        self.pos_embed = nn.Parameter(torch.empty(1, cells, width))
        if mask_token:
            self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.patch_embed = nn.Sequential()
        self.patch_embed.add_module("proj", nn.Conv2d(3, width, patch, patch))
        self.blocks = nn.ModuleList(_Block(width, heads, width * mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.grid = nn.Identity()  # where the map passes, for whoever looks at layers
        self.feature = nn.Sequential(
            nn.Linear(cells * width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )
        if keypoints:
            self.keypoint_linear = nn.Linear(10, CLASSES**2 * heads * depth)
            self.register_buffer("offsets", offsets(self.map_side), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1 and "proj.weight" not in name:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def tokens(
        self,
        images: Tensor,
        keep: list[Tensor] | None = None,
        keypoints: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Normalised tokens (N, T, D), row by row.

        Args:
            images: (N, 3, 112, 112).
            keep: receives each block's attention, (N, heads, T, T).
            keypoints: (N, 5, 2), for KP-RPE.
            seen: (N, T) bool; the others are left out before the first block, and `mask_token`
                or zeros stand in their place after the last. A face that shows nothing is seen.
        """
        # (N, D, s, s) -> (N, T, D)
        found = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        hidden = None
        if seen is not None:
            seen = seen | ~seen.any(1, keepdim=True)
            # A key of −∞ gets no attention: whoever remains is what it would be without it.
            zero = torch.zeros((), dtype=found.dtype, device=found.device)
            hidden = torch.where(seen, zero, -torch.inf)[:, None, None]
        biases: Collection[Tensor | None] = [None] * len(self.blocks)
        if keypoints is not None:
            told = self.keypoint_linear
            depth, side = len(self.blocks), self.map_side
            biases = keypoint_bias(keypoints, told.weight, told.bias, depth, side)
        for block, bias in zip(self.blocks, biases, strict=True):
            if bias is not None:
                # (N, heads, T, K²) -> (N, heads, T, T)
                bias = bias.gather(3, self.get_buffer("offsets").expand(*bias.shape[:2], -1, -1))
                bias = bias if hidden is None else bias + hidden
            found = block(found, hidden if bias is None else bias, keep)
        found = self.norm(found)
        if seen is not None:
            instead = getattr(self, "mask_token", torch.zeros_like(found[:1, :1]))
            found = torch.where(seen[:, :, None], found, instead)
        return found

    def run(
        self, images: Tensor, sides: Collection[int] = (), **beside: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The raw embedding and the tokens as a map, see `FaceBackbone`; `seen` as in `tokens`."""
        grid = self._grid(self.tokens(images, None, **beside))
        # (N, D, s, s) -> (N, T·D), a token after the other
        return self.feature(grid.flatten(2).transpose(1, 2).flatten(1)), {self.map_side: grid}

    def feature_map(self, images: Tensor, map_size: int | None = None, **beside: Tensor) -> Tensor:
        """(N, 3, 112, 112) → (N, D, s, s)."""
        self._check(images, map_size, beside)
        return self._grid(self.tokens(images, None, **beside))

    def seen_cells(self, visible: Tensor) -> Tensor:
        """(N, T) bool, which tokens are at least half visible, of (N, g, g) visibility."""
        maps = visible.new_zeros(len(visible), 1, self.map_side, self.map_side)
        return cell_visibility(visible, maps, self.extent) >= _SEEN

    def attention_matrices(self, images: Tensor, **beside: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The raw embedding (N, E) and each block's attention (N, heads, T, T), for rollout."""
        self._check(images, None, beside)
        matrices: list[Tensor] = []
        tokens = self.tokens(images, matrices, **beside)
        return self.feature(tokens.flatten(1)), matrices

    def _grid(self, tokens: Tensor) -> Tensor:
        # (N, T, D) -> (N, D, s, s)
        side = self.map_side
        found: Tensor = self.grid(tokens.transpose(1, 2).unflatten(2, (side, side)))
        return found

    def linear_tail(self) -> LinearTail:
        """Linear, BatchNorm, linear, BatchNorm as one map per token."""
        inner_scale, inner_shift = batch_norm_affine(self.feature[1])
        outer_scale, outer_shift = batch_norm_affine(self.feature[3])
        matrix = outer_scale[:, None] * self.get_parameter("feature.2.weight")  # (E, D)
        joint = (matrix * inner_scale) @ self.get_parameter("feature.0.weight")  # (E, T·D)
        # (E, T·D) -> (T, D, E)
        weight = joint.unflatten(1, (self.map_side**2, -1)).permute(1, 2, 0).contiguous()
        return LinearTail(weight, matrix @ inner_shift + outer_shift, self.extent)
