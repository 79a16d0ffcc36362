"""The input and the output of a method, and the pictures that several need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.target import PairScore, Reference
from faceguide.train.models.input_spec import InputSpec

_FACES = 64  # that are averaged for the mean face
# Completeness errors are shares of the score's change, or of this where the score changes less:
# about the spread of the cosines of impostors. A share of almost nothing would say nothing.
LEAST_CHANGE = 0.1


@dataclass(frozen=True)
class Batch:
    """N pairs to be explained.

    Attributes:
        probe: (N, 3, S, S) prepared pixels.
        reference: described references, N rows each.
        pairs: numbers of the pairs.
        other: (N, 3, S, S) prepared pixels of the references, for methods that look at them.
        pictures: numbers of the probes, which key what is random about a map: pairs of one picture
            get the same noise and masks. Default: the pairs'.
        faces: of a count K, (N, K, 3, S, S) prepared pixels of other identities for each pair.
        regions: (N, R, S, S) 0 or 1, which landmark region of the probe a pixel is in; none in
            some, and none in two.
    """

    probe: Tensor
    reference: Reference
    pairs: tuple[int, ...]
    other: Tensor | None = None
    pictures: tuple[int, ...] = ()
    faces: Callable[[int], Tensor] | None = None
    regions: Callable[[], Tensor] | None = None

    @property
    def keys(self) -> tuple[int, ...]:
        """What keys the random numbers of a map: the picture, else the pair."""
        return self.pictures or self.pairs

    def other_faces(self, count: int) -> Tensor:
        """(N, K, 3, S, S) faces of other identities.

        Raises:
            AttributionError: where there is no cache to take them from.
        """
        if self.faces is None:
            raise AttributionError(
                "needs faces of other identities: give a cache of them (`explain --others`)"
            )
        return self.faces(count)

    def probe_regions(self) -> Tensor:
        """(N, R, S, S) landmark regions of the probes.

        Raises:
            AttributionError: where there is no cache with regions.
        """
        if self.regions is None:
            raise AttributionError("needs landmark regions, which a cache has after prep guidance")
        return self.regions()

    def other_pixels(self) -> Tensor:
        """(N, 3, S, S) pixels of the references.

        Raises:
            AttributionError: where only their embeddings are there.
        """
        if self.other is None:
            raise AttributionError("needs the pixels of both faces")
        return self.other

    def leaf(self) -> Tensor:
        """The probes as a leaf of a new graph."""
        return self.probe.detach().requires_grad_(True)


class Maps(NamedTuple):
    """Maps of N pairs.

    Attributes:
        values: (N, h, w) raw and signed, summed over colour channels; h = S, or coarser.
        claimed: (N,) what the values must add up to where the method promises it, or None.
        absorbed: (N,) relevance that ended in biases (LRP), or None.
        gap: (N,) what the quadrature missed of `claimed` before its weights were closed, or None.
    """

    values: Tensor
    claimed: Tensor | None = None
    absorbed: Tensor | None = None
    gap: Tensor | None = None

    def completeness_error(self) -> Tensor | None:
        """(N,) |Σ values + absorbed − claimed| / max(|claimed|, 0.1), or None: nothing promised."""
        if self.claimed is None:
            return None
        total = self.values.double().sum((1, 2))
        if self.absorbed is not None:
            total = total + self.absorbed
        return self._share(total - self.claimed.double())

    def quadrature_error(self) -> Tensor | None:
        """(N,) |gap| / max(|claimed|, 0.1): the error before the weights were closed, or None."""
        return None if self.gap is None else self._share(self.gap.double())

    def _share(self, difference: Tensor) -> Tensor:
        assert self.claimed is not None
        return difference.abs() / self.claimed.double().abs().clamp_min(LEAST_CHANGE)


Explain = Callable[[PairScore, Batch, Settings], Maps]


def pixel_range(spec: InputSpec) -> float:
    """The range of prepared pixels, averaged over channels: 2 for pixels in −1…1."""
    return sum(1 / std for std in spec.std) / 3


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (N, C, H, W), the border repeated; sigma in pixels."""
    radius = min(round(3 * sigma), images.shape[-1] - 1, images.shape[-2] - 1)
    along = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (along / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = nn.functional.pad(images, (radius,) * 4, mode="replicate")
    across = kernel.expand(channels, 1, 1, -1)
    down = kernel[:, None].expand(channels, 1, -1, 1)
    padded = nn.functional.conv2d(padded, across, groups=channels)
    return nn.functional.conv2d(padded, down, groups=channels)


def baseline_for(score: PairScore, batch: Batch, kind: str) -> Tensor:
    """(N, 3, S, S) where a path to the probe begins, or what a covered pixel shows.

    Args:
        kind: black, blur (of the probe), grey, or face: the mean of other identities' faces.

    Raises:
        AttributionError: when there is no cache to take faces from.
    """
    spec, probe = score.input_spec, batch.probe
    if kind == "blur":
        return blurred(probe, probe.shape[-1] / 7)
    if kind == "face":
        return batch.other_faces(_FACES).mean(1)
    level = 0.0 if kind == "black" else 0.5
    flat = (level - torch.tensor(spec.mean)) / torch.tensor(spec.std)
    return flat[:, None, None].to(probe).expand_as(probe).contiguous()


def on_crop(values: Tensor, score: PairScore) -> Tensor:
    """Maps (N, s, s) of cells as maps of the whole crop.

    Tokens of 9 pixels end 4 pixels before the edges of a crop: such maps are enlarged to pixels,
    0 where no token looks; others stay as they are.
    """
    if (extent := getattr(score.backbone, "extent", 1.0)) == 1:
        return values
    size = score.input_spec.size
    inside = round(extent * size)
    found = nn.functional.interpolate(values[:, None], size=(inside, inside))[:, 0]
    return nn.functional.pad(found, (0, size - inside, 0, size - inside))


def along(baseline: Tensor, probe: Tensor, places: Tensor) -> Tensor:
    """(N·K, 3, S, S) points of the straight lines at places (N, K) from 0 to 1."""
    step = places[:, :, None, None, None]
    return torch.lerp(baseline[:, None], probe[:, None], step).flatten(0, 1)


def expanded(reference: Reference, row: int, count: int) -> Reference:
    """One row `count` times, (count, …), without a copy."""
    return tuple(part[row : row + 1].expand(count, *part.shape[1:]) for part in reference)


def repeat(reference: Reference, times: int) -> Reference:
    """Each row `times` times in a row: (N·times, …)."""
    return tuple(part.repeat_interleave(times, dim=0) for part in reference)
