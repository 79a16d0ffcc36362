"""What every face backbone offers: embedding, norm and feature map out of one forward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError
from faceguide.train.models.input_spec import InputSpec


class BackboneOutput(NamedTuple):
    """One forward of a face backbone.

    Attributes:
        embedding: (N, E) float32 of length 1.
        norm: (N, 1) length of the raw embedding; embedding × norm is the raw embedding.
        feature_map: (N, C, 7, 7) or (N, C, 14, 14), as asked for.
    """

    embedding: Tensor
    norm: Tensor
    feature_map: Tensor


@dataclass(frozen=True)
class LinearTail:
    """The layers after the 7×7 map written as one linear map per cell.

    In eval mode the raw embedding is e = Σ_s x_s · weight_s + bias over the cells s, counted row
    by row.

    Attributes:
        weight: (S, C, E) for S cells, C channels and E embedding numbers.
        bias: (E,).
    """

    weight: Tensor
    bias: Tensor


@runtime_checkable
class HasLinearTail(Protocol):
    """A backbone whose layers after the 7×7 map are linear in eval mode."""

    def linear_tail(self) -> LinearTail:
        """The tail as one linear map per cell, from the current weights."""


class FaceBackbone(nn.Module):
    """A 112×112 face network that is cut at its 14×14 and its 7×7 map.

    A backbone defines `to_map14`, `map14_to_map7` and `map7_to_embedding`; everything that a
    trainer or an evaluation calls is here.
    """

    input_spec: InputSpec
    embedding_size: int
    map_channels: dict[int, int]

    def to_map14(self, images: Tensor) -> Tensor:
        """(N, 3, 112, 112) → (N, map_channels[14], 14, 14)."""
        raise NotImplementedError(f"{type(self).__name__} does not define to_map14")

    def map14_to_map7(self, map14: Tensor) -> Tensor:
        """(N, map_channels[14], 14, 14) → (N, map_channels[7], 7, 7)."""
        raise NotImplementedError(f"{type(self).__name__} does not define map14_to_map7")

    def map7_to_embedding(self, map7: Tensor) -> Tensor:
        """(N, map_channels[7], 7, 7) → the raw embedding (N, E)."""
        raise NotImplementedError(f"{type(self).__name__} does not define map7_to_embedding")

    def forward_all(self, images: Tensor, map_size: int = 7) -> BackboneOutput:
        """Embedding, norm and feature map in one pass.

        Args:
            images: (N, 3, 112, 112) float32 as `input_spec.prepare` makes them.
            map_size: 7 or 14, the side of the map that is returned.

        Raises:
            ModelError: for another image shape or map size.
        """
        self._check(images, map_size)
        map14 = self.to_map14(images)
        map7 = self.map14_to_map7(map14)
        raw = self.map7_to_embedding(map7).float()
        norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        # An embedding of zeros stays zeros: NaN would spread through a whole batch.
        unit = raw / norm.clamp_min(torch.finfo(raw.dtype).tiny)
        return BackboneOutput(unit, norm, map7 if map_size == 7 else map14)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 112, 112) → unit embedding (N, E) and norm (N, 1)."""
        output = self.forward_all(images)
        return output.embedding, output.norm

    def feature_map(self, images: Tensor, map_size: int = 7) -> Tensor:
        """(N, 3, 112, 112) → the map of side `map_size`, 7 or 14, without the layers after it."""
        self._check(images, map_size)
        map14 = self.to_map14(images)
        return map14 if map_size == 14 else self.map14_to_map7(map14)

    def _check(self, images: Tensor, map_size: int) -> None:
        size = self.input_spec.size
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ModelError(
                f"{type(self).__name__} expects images of (N, 3, {size}, {size}), "
                f"found {tuple(images.shape)}; cut or resize the crops to {size} pixels"
            )
        if map_size not in self.map_channels:
            raise ModelError(
                f"{type(self).__name__} has maps of side {sorted(self.map_channels)}, "
                f"asked for {map_size}"
            )


def batch_norm_affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A BatchNorm in eval mode as scale and shift per channel: y = scale · x + shift, (C,) each.

    Raises:
        ModelError: for another layer, or a BatchNorm without running statistics.
    """
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        raise ModelError(f"expected a BatchNorm, found {norm}")
    mean, var = norm.running_mean, norm.running_var
    if mean is None or var is None:
        raise ModelError(f"expected running statistics, found none in {norm}")
    scale = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale, shift
