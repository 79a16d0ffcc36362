"""What every face backbone offers: embedding, norm and feature map out of one forward."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError
from faceguide.core.faces.align import FIVE_POINTS
from faceguide.train.models.input_spec import InputSpec


class BackboneOutput(NamedTuple):
    """One forward of a face backbone.

    Attributes:
        embedding: (N, E) float32 of length 1.
        norm: (N, 1) length of the raw embedding; embedding × norm is the raw embedding.
        feature_map: (N, C, s, s) of the side that was asked for.
    """

    embedding: Tensor
    norm: Tensor
    feature_map: Tensor


@dataclass(frozen=True)
class LinearTail:
    """The layers after the last map written as one linear map per cell.

    In eval mode the raw embedding is e = Σ_s x_s · weight_s + bias over the cells s, counted row
    by row.

    Attributes:
        weight: (S, C, E) for S cells, C channels and E embedding numbers.
        bias: (E,).
        extent: share of the crop's side that the cells cover, from its left and upper edge.
    """

    weight: Tensor
    bias: Tensor
    extent: float = 1.0


@runtime_checkable
class HasLinearTail(Protocol):
    """A backbone whose layers after its last map are linear in eval mode."""

    def linear_tail(self) -> LinearTail:
        """The tail as one linear map per cell, from the current weights."""


def unit_and_norm(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings (N, E) as float32 of length 1, and their lengths (N, 1)."""
    raw = raw.float()
    norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
    # An embedding of zeros stays zeros: NaN would spread through a whole batch.
    return raw / norm.clamp_min(torch.finfo(raw.dtype).tiny), norm


def keypoints_of(landmarks: Tensor) -> Tensor:
    """(N, 478, 2 or 3) landmarks of a cache, in 0…1 of the crop → `keypoints`, (N, 5, 2)."""
    return landmarks[:, FIVE_POINTS, :2].float()


def mirrored_points(keypoints: Tensor) -> Tensor:
    """(N, 5, 2) landmarks in 0…1 of the mirrored crops: left and right change places."""
    flipped = torch.stack([1 - keypoints[..., 0], keypoints[..., 1]], dim=-1)
    return flipped[:, [1, 0, 2, 4, 3]]


class FaceBackbone(nn.Module):
    """A face network with one or more square maps on the way to its embedding.

    A convolutional network of 112 pixels defines `to_map14`, `map14_to_map7` and
    `map7_to_embedding`, another one `run`; everything that a trainer or an evaluation calls is
    here.

    Attributes:
        input_spec: the pixels.
        map_channels: side of a map → its channels.
        map_side: side of the map before the last layers.
        cam_layers: names of the layers whose outputs are the maps, fine to coarse; before them
            that of a finer one, if there is one.
        needs_keypoints: whether `keypoints` must be given too: (N, 5, 2) x and y in 0…1 of the
            crop, in the order of the five-point template.
    """

    input_spec: InputSpec
    embedding_size: int
    map_channels: dict[int, int]
    map_side = 7
    needs_keypoints = False

    def to_map14(self, images: Tensor) -> Tensor:
        """(N, 3, 112, 112) → (N, map_channels[14], 14, 14)."""
        raise NotImplementedError(f"{type(self).__name__} does not define to_map14")

    def map14_to_map7(self, map14: Tensor) -> Tensor:
        """(N, map_channels[14], 14, 14) → (N, map_channels[7], 7, 7)."""
        raise NotImplementedError(f"{type(self).__name__} does not define map14_to_map7")

    def map7_to_embedding(self, map7: Tensor) -> Tensor:
        """(N, map_channels[7], 7, 7) → the raw embedding (N, E)."""
        raise NotImplementedError(f"{type(self).__name__} does not define map7_to_embedding")

    def run(
        self, images: Tensor, sides: Collection[int] = (), **beside: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The raw embedding (N, E), and at least the maps of these sides."""
        map14 = self.to_map14(images)
        map7 = self.map14_to_map7(map14)
        return self.map7_to_embedding(map7), {14: map14, 7: map7}

    def forward_all(
        self, images: Tensor, map_size: int | None = None, **beside: Tensor
    ) -> BackboneOutput:
        """Embedding, norm and feature map in one pass.

        Args:
            images: (N, 3, S, S) float32 as `input_spec.prepare` makes them.
            map_size: the side of the map that is returned; None = the last one.
            beside: `keypoints`, where they are needed.

        Raises:
            ModelError: for another image shape or map size, or missing keypoints.
        """
        side = self._check(images, map_size, beside)
        raw, maps = self.run(images, (side,), **beside)
        return BackboneOutput(*unit_and_norm(raw), maps[side])

    def forward(self, images: Tensor, **beside: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) → unit embedding (N, E) and norm (N, 1)."""
        return unit_and_norm(self.raw_embedding(images, **beside))

    def raw_embedding(self, images: Tensor, **beside: Tensor) -> Tensor:
        """(N, 3, S, S) → (N, E) before it is scaled to length 1."""
        self._check(images, None, beside)
        return self.run(images, **beside)[0]

    def feature_map(self, images: Tensor, map_size: int | None = None, **beside: Tensor) -> Tensor:
        """(N, 3, S, S) → the map of this side, without the layers after it."""
        side = self._check(images, map_size, beside)
        map14 = self.to_map14(images)
        return map14 if side == 14 else self.map14_to_map7(map14)

    def seen_cells(self, visible: Tensor) -> Tensor:
        """(N, T) bool, which tokens are at least half visible, of (N, g, g); for `seen`.

        Raises:
            ModelError: for a network without tokens that could be left out.
        """
        raise ModelError(
            f"--hidden drop leaves out occluded tokens of a vision transformer, and "
            f"{type(self).__name__} has none; choose --hidden zero"
        )

    def _check(self, images: Tensor, map_size: int | None, beside: Mapping[str, Tensor]) -> int:
        """The side of the map that is meant; a ModelError for what does not fit."""
        size, kind = self.input_spec.size, type(self).__name__
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, size, size):
            raise ModelError(
                f"{kind} expects images of (N, 3, {size}, {size}), "
                f"found {tuple(images.shape)}; cut or resize the crops to {size} pixels"
            )
        if self.needs_keypoints:
            points = beside.get("keypoints")
            # `len` would fix the number of faces in a graph that is traced.
            if points is None or tuple(points.shape) != (images.shape[0], 5, 2):
                found = "none" if points is None else tuple(points.shape)
                raise ModelError(
                    f"{kind} needs the five landmarks of each face: keypoints=({len(images)}, 5, 2)"
                    f", x and y in 0 to 1 of the crop; found {found}"
                )
        if map_size is not None and map_size not in self.map_channels:
            raise ModelError(
                f"{kind} has maps of side {sorted(self.map_channels)}, asked for {map_size}"
            )
        return self.map_side if map_size is None else map_size


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
