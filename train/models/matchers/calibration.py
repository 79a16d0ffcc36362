"""From a score to the logarithm of the odds that two faces are of one identity.

A calibrated score is a natural logarithm of a likelihood ratio, the odds at even priors: 0 tells
nothing, ln 10 = 2.3 says that such a score is ten times as frequent between faces of one identity.
So pairs that show much of a face and pairs that show little can be put in one list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from faceguide.train.models.matchers.correlation import cell_visibility, check_maps
from faceguide.train.models.matchers.visible_embedding import (
    VisibleEmbedding,
    score_pair_terms,
    score_terms,
)

# Two bands above the mouth and one below, the outer and the inner columns, of 7×7 cells.
_ROWS, _COLUMNS = ((0, 1), (2, 3), (4, 5, 6)), ((0, 1, 5, 6), (2, 3, 4))
_REGIONS = len(_ROWS) + len(_COLUMNS)
_SHARE_FLOOR = 0.02  # added to the shared part of the face before its logarithm is taken
NOTHING = math.log(_SHARE_FLOOR)  # that logarithm where two faces show nothing in common
_SCALE = 3.0  # of the regions' means, which makes them as wide as the other features
FEATURES = (
    "1", "s", "l", "s·l", "share", "s·share", "s²", "s²·l",
    *(f"r{k}" for k in range(1, _REGIONS + 1)), *(f"s·r{k}" for k in range(1, _REGIONS + 1)),
)  # fmt: skip


@dataclass(frozen=True)
class ScoreCurve:
    """A calibration of the score by itself: straight between its knots, constant beyond them.

    Attributes:
        score: (K,) float32 knots, increasing, K at least 2.
        llr: (K,) float32 there, not decreasing.
    """

    score: Tensor
    llr: Tensor

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores of any shape → their log-likelihood ratios, natural logarithm."""
        knots, llr = self.score.to(scores), self.llr.to(scores)
        left = torch.searchsorted(knots, scores.detach().contiguous()) - 1
        left = left.clamp(0, len(knots) - 2)
        part = (scores - knots[left]) / (knots[left + 1] - knots[left])
        return torch.lerp(llr[left], llr[left + 1], part.clamp(0.0, 1.0))


def seen_in_common(probe_seen: Tensor, reference_seen: Tensor) -> Tensor:
    """What the faces of N pairs both show.

    Args:
        probe_seen, reference_seen: (N, S) visibility of the cells, 0 to 1, S = s².

    Returns:
        (N, 6) means of v_p·v_g over the face and over five regions of it, 0 to 1.
    """
    return (probe_seen * reference_seen) @ _weights(probe_seen)


def _weights(seen: Tensor) -> Tensor:
    """(S, 6): what each cell counts in the mean of the face and of each region."""
    side = math.isqrt(seen.shape[1])
    regions = torch.zeros(1 + _REGIONS, 7, 7)
    regions[0] = 1.0
    for place, rows in enumerate(_ROWS, 1):
        regions[place, list(rows)] = 1.0
    for place, columns in enumerate(_COLUMNS, 1 + len(_ROWS)):
        regions[place, :, list(columns)] = 1.0
    fine = regions.repeat_interleave(side, 1).repeat_interleave(side, 2)
    cells = nn.functional.avg_pool2d(fine, 7).flatten(1)
    return (cells / cells.sum(1, keepdim=True)).T.to(seen)


def by_power(common: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What stands beside 1, s and s² in the features.

    Args:
        common: (…, 6) of `seen_in_common`.

    Returns:
        (…, 8), (…, 8) and (…, 2): [1, l, share, r…] twice, and [1, l].
    """
    share = common[..., :1]
    logarithm = (share + _SHARE_FLOOR).log()
    both = torch.cat([torch.ones_like(share), logarithm, share, _SCALE * common[..., 1:]], -1)
    return both, both, both[..., :2]


# The order of FEATURES → that of `by_power`, one after the other.
BY_POWER = (0, 2, 4, *range(8, 13), 1, 3, 5, *range(13, 18), 6, 7)


@dataclass(frozen=True)
class VisibilityCalibration:
    """A calibration of the visible embedding's score by what a pair shows in common.

    The log-likelihood ratio is a sum of 18 features of the score s and of the common visibility
    m = v_p·v_g: with share = mean m, l = ln(share + 0.02) and r = 3·(mean m of rows 0–1, 2–3 and
    4–6, of the outer and of the inner columns),

        1, s, l, s·l, share, s·share, s², s²·l, r₁ … r₅, s·r₁ … s·r₅

    For a pattern of visibility it is a parabola in s. Beyond its vertex it stays at the vertex's
    value, so that it never falls while the score rises. Nothing in common gives 0.

    Attributes:
        coefficients: (18,) float64 in the order of `FEATURES`.
        mean_map: (C, s, s) float32 that is taken off before embeddings are summed.
    """

    coefficients: Tensor
    mean_map: Tensor

    def __call__(self, scores: Tensor, common: Tensor) -> Tensor:
        """Log-likelihood ratios, natural logarithm.

        Args:
            scores: (…) of the visible embedding, −1 to 1.
            common: (…, 6) of `seen_in_common`.
        """
        ordered = self.coefficients[list(BY_POWER)].to(scores)
        level, slope, bend = (
            features @ part
            for features, part in zip(by_power(common), ordered.split((8, 8, 2)), strict=True)
        )
        s = risen(scores, slope, bend)
        llr = level + s * (slope + s * bend)
        return torch.where(common[..., 0] > 0, llr, 0.0)


def risen(scores: Tensor, slope: Tensor, bend: Tensor) -> Tensor:
    """The scores, those beyond the vertex of slope·s + bend·s² moved to it; −1 to 1."""
    falls = torch.where(slope < 0, 1.0, -1.0)  # where the vertex of a falling and a rising line is
    vertex = torch.where(bend == 0, falls, -slope / (2 * bend)).clamp(-1.0, 1.0)
    return torch.where(bend >= 0, torch.maximum(scores, vertex), torch.minimum(scores, vertex))


@dataclass(frozen=True)
class CalibratedEmbedding:
    """The visible embedding with a calibration; called like it."""

    embedding: VisibleEmbedding
    calibration: VisibilityCalibration

    def pair_scores(
        self,
        probe_maps: Tensor,
        reference_maps: Tensor,
        probe_visibility: Tensor | None = None,
        reference_visibility: Tensor | None = None,
    ) -> Tensor:
        """Log-likelihood ratios (N,) of N given pairs, differentiable in the maps."""
        check_maps(probe_maps, reference_maps)
        extent = self.embedding.extent
        probe = cell_visibility(probe_visibility, probe_maps, extent)
        reference = cell_visibility(reference_visibility, reference_maps, extent)
        scores = score_pair_terms(
            self.embedding.cell_terms(probe_maps),
            self.embedding.cell_terms(reference_maps),
            probe * reference,
        )
        return self.calibration(scores, seen_in_common(probe, reference))

    def __call__(
        self,
        probe_maps: Tensor,
        gallery_maps: Tensor,
        probe_visibility: Tensor | None = None,
        gallery_visibility: Tensor | None = None,
    ) -> Tensor:
        """Log-likelihood ratios (P, G) of every probe with every gallery face."""
        check_maps(probe_maps, gallery_maps)
        extent = self.embedding.extent
        probe = cell_visibility(probe_visibility, probe_maps, extent)
        gallery = cell_visibility(gallery_visibility, gallery_maps, extent)
        scores = score_terms(
            self.embedding.cell_terms(probe_maps),
            self.embedding.cell_terms(gallery_maps),
            probe,
            gallery,
        )
        common = [(probe * weight) @ gallery.T for weight in _weights(probe).T]
        return self.calibration(scores, torch.stack(common, -1))
