"""A small vision transformer for faces: 49 patches of 16×16 pixels, no class token.

Source: Dosovitskiy et al., "An Image Is Worth 16x16 Words", 2021, in the tiny size of Touvron et
al., "DeiT", 2021 (width 192, 12 blocks, 3 heads). The embedding is a linear map of all normalised
tokens' mean. Attention is written out, not fused, so that its matrices can be read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError
from faceguide.train.models.backbones.backbone import BackboneOutput, FaceBackbone
from faceguide.train.models.input_spec import ADAFACE_INPUT

PATCH = 16
SIDE = 7


class _Attention(nn.Module):
    """Multi-head self-attention that also gives its matrix, (N, heads, T, T)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        # (N, T, 3·D) -> three of (N, heads, T, D / heads)
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(tokens).chunk(3, dim=2)
        )
        matrix = torch.softmax(q @ k.transpose(2, 3) * self.scale, dim=3)
        # (N, heads, T, D / heads) -> (N, T, D)
        mixed = (matrix @ v).transpose(1, 2).flatten(2)
        return self.proj(mixed), matrix


class _Block(nn.Module):
    """Attention and a two-layer network, each after LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        mixed, matrix = self.attn(self.norm1(tokens))
        tokens = tokens + mixed
        return tokens + self.mlp(self.norm2(tokens)), matrix


class ViT(FaceBackbone):
    """A vision transformer on 112×112 faces; its map is the 7×7 grid of normalised tokens.

    Args:
        width: numbers per token.
        depth: blocks.
        heads: per block; must divide the width.
        embedding_size: numbers in the embedding.
    """

    input_spec = ADAFACE_INPUT

    def __init__(
        self, width: int = 192, depth: int = 12, heads: int = 3, embedding_size: int = 512
    ) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"heads must divide the width, found {heads} and {width}")
        self.embedding_size = embedding_size
        self.map_channels = {SIDE: width}
        self.patch_embed = nn.Conv2d(3, width, PATCH, PATCH)
        self.pos_embed = nn.Parameter(torch.empty(1, SIDE * SIDE, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, embedding_size)  # `head.` is a training head in files
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def tokens(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Normalised tokens (N, 49, D) and each block's attention (N, heads, 49, 49)."""
        self._check(images, SIDE)
        # (N, D, 7, 7) -> (N, 49, D)
        tokens = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        matrices = []
        for block in self.blocks:
            tokens, matrix = block(tokens)
            matrices.append(matrix)
        return self.norm(tokens), matrices

    def attention_matrices(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The raw embedding (N, E) and the attention that led to it, for rollout."""
        tokens, matrices = self.tokens(images)
        raw: Tensor = self.project(tokens.mean(1))
        return raw, matrices

    def raw_embedding(self, images: Tensor) -> Tensor:
        """(N, 3, 112, 112) → (N, E) before it is scaled to length 1."""
        return self.attention_matrices(images)[0]

    def forward_all(self, images: Tensor, map_size: int = SIDE) -> BackboneOutput:
        """Embedding, norm and the tokens as a map, (N, D, 7, 7)."""
        self._check(images, map_size)
        tokens, _ = self.tokens(images)
        raw = self.project(tokens.mean(1)).float()
        norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        unit = raw / norm.clamp_min(torch.finfo(raw.dtype).tiny)
        # (N, 49, D) -> (N, D, 7, 7)
        grid = tokens.transpose(1, 2).unflatten(2, (SIDE, SIDE))
        return BackboneOutput(unit, norm, grid)

    def feature_map(self, images: Tensor, map_size: int = SIDE) -> Tensor:
        """(N, 3, 112, 112) → (N, D, 7, 7)."""
        return self.forward_all(images, map_size).feature_map
