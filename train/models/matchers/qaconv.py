"""Query-adaptive convolution: two feature maps compared cell by cell, and what occluded cells do.

Source: Liao and Shao, "Interpretable and Generalizable Person Re-Identification with
Query-Adaptive Convolution and Temporal Lifting", ECCV 2020 (version 2.0: one weight per cell and
side), and "Graph Sampling Based Deep Metric Learning", CVPR 2022 (version 2.1: one weight per
cell, shared by both sides, which makes the score symmetric).

With a_s = max_r S_sr the best match of probe cell s, and b_r = max_s S_sr that of gallery cell r,

    score = LB( Σ_s w_s · BN(a_s) + Σ_r w_r · BN(b_r) + bias )

where BN and LB are BatchNorms of one channel. `weighting` says how visibility enters:

* `none`: not at all.
* `scale`: S_sr is multiplied by v_s · v_r first. A product pulls the negative correlations of
  occluded cells up to 0, where they can win; kept for comparison.
* `mask`: an occluded cell cannot be the best match of any (S_sr + τ · ln v_r), and each half is the
  mean over the visible cells of its own face, times the number of cells.
* `common`: as `mask`, but the term of a cell counts as much as both faces show it there, so that
  nothing is asked of a chin that the other face hides.

With `mask` a pair of which one face is occluded entirely, and with `common` a pair that shows no
cell in common, has the score of no evidence: LB(bias).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError
from faceguide.train.models.matchers.correlation import (
    cell_vectors,
    cell_visibility,
    check_maps,
    hidden_penalty,
    mean_weights,
)

WEIGHTINGS = ("none", "scale", "mask", "common")
VERSIONS = ("2.1", "2.0")


def _weighted_batch_norm(norm: nn.BatchNorm1d, values: Tensor, weights: Tensor) -> Tensor:
    """A BatchNorm of one channel whose training statistics are weighted means.

    With all weights 1 it is the BatchNorm itself; values of weight 0 have no part in it. Without
    any weight the running statistics are used and kept.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ModelError("the matcher's BatchNorm needs running statistics")
    mean, var = norm.running_mean, norm.running_var
    if norm.training:
        total = weights.sum()
        share = weights / total.clamp_min(torch.finfo(weights.dtype).tiny)
        batch_mean = (share * values).sum()
        batch_var = (share * (values - batch_mean).square()).sum()
        enough = total > 1.0
        mean = torch.where(enough, batch_mean, mean)
        var = torch.where(enough, batch_var, var)
        with torch.no_grad():
            # Unbiased as BatchNorm keeps it, with the weights as the count of values.
            kept = batch_var.detach() * total / (total - 1.0).clamp_min(0.5)
            rate = torch.where(enough, norm.momentum or 0.1, 0.0)
            norm.running_mean.lerp_(batch_mean.detach().reshape(1), rate)
            norm.running_var.lerp_(kept.reshape(1), rate)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked += 1
    return (values - mean) * (var + norm.eps).rsqrt() * norm.weight + norm.bias


class Matches(NamedTuple):
    """What the maps of the pairs say, before any trained weight, (…, S) each: the best correlations
    a_s and b_r of each cell, and how much the cell counts, 0 to 1; None = all alike.
    """

    probe: Tensor
    gallery: Tensor
    probe_weights: Tensor | None = None
    gallery_weights: Tensor | None = None


class QAConv(nn.Module):
    """The matcher. In training its two BatchNorms see the whole matrix of pairs.

    Args:
        version: "2.1" or "2.0".
        weighting: how visibility enters, see above; without visibility all are the same.
    """

    def __init__(
        self,
        channels: int = 512,
        height: int = 7,
        width: int = 7,
        version: str = "2.1",
        weighting: str = "common",
    ) -> None:
        super().__init__()
        if version not in VERSIONS:
            raise ModelError(f"QAConv version must be 2.1 or 2.0, found {version!r}")
        if weighting not in WEIGHTINGS:
            raise ModelError(
                f"weighting must be one of {', '.join(WEIGHTINGS)}, found {weighting!r}"
            )
        self.version, self.weighting = version, weighting
        self.channels, self.height, self.width = channels, height, width
        cells = height * width
        self.bn = nn.BatchNorm1d(1)
        self.fc = nn.Linear(cells if version == "2.1" else 2 * cells, 1)
        self.logit_bn = nn.BatchNorm1d(1)
        if version == "2.1":
            nn.init.constant_(self.fc.weight, 1.0 / cells)

    def forward(
        self,
        probe_maps: Tensor,
        gallery_maps: Tensor,
        probe_visibility: Tensor | None = None,
        gallery_visibility: Tensor | None = None,
    ) -> Tensor:
        """Scores of every probe with every gallery face, differentiable in the maps.

        Holds P·G·S² correlations; `matching.match` scores large galleries in eval mode.

        Args:
            probe_maps, gallery_maps: (P, C, h, w) and (G, C, h, w), not normalised.
            probe_visibility, gallery_visibility: (P, 1, H, W) or (P, H, W) and likewise, 0 to 1,
                on any grid; None = all visible.

        Returns:
            (P, G) float32, higher = more alike, no fixed range.

        Raises:
            ModelError: when a shape does not fit.
        """
        return self.score(
            self.matches(probe_maps, gallery_maps, probe_visibility, gallery_visibility)
        )

    def matches(
        self,
        probe_maps: Tensor,
        gallery_maps: Tensor,
        probe_visibility: Tensor | None = None,
        gallery_visibility: Tensor | None = None,
    ) -> Matches:
        """Best matches of every pair, (P, G, S); they depend on no weight of this matcher.

        Over frozen maps they can be kept, and only `score` be trained.
        """
        self.check(probe_maps, gallery_maps)
        probe, gallery = cell_vectors(probe_maps), cell_vectors(gallery_maps)  # (·, S, C)
        seen = self._visibilities(probe_maps, gallery_maps, probe_visibility, gallery_visibility)
        # (P·S, C) · (C, G·S) -> (P, S, G, S) -> (P, G, S, S): probe cells, then gallery cells
        count, cells = len(gallery), gallery.shape[1]
        with torch.autocast(probe.device.type, enabled=False):
            product = probe.flatten(0, 1) @ gallery.flatten(0, 1).T
        correlation = product.unflatten(1, (count, cells)).unflatten(0, (len(probe), cells))
        if seen is not None:
            seen = seen[0][:, None], seen[1][None]
        return self._best(correlation.transpose(1, 2), seen)

    def pair_scores(
        self,
        probe_maps: Tensor,
        reference_maps: Tensor,
        probe_visibility: Tensor | None = None,
        reference_visibility: Tensor | None = None,
    ) -> Tensor:
        """Scores of N given pairs, (N, C, h, w) twice → (N,); otherwise as `forward`.

        Raises:
            ModelError: also when there are not as many references as probes.
        """
        self.check(probe_maps, reference_maps)
        if len(probe_maps) != len(reference_maps):
            raise ModelError(
                f"pairs need as many references as probes, found {len(probe_maps)} probes and "
                f"{len(reference_maps)} references"
            )
        seen = self._visibilities(
            probe_maps, reference_maps, probe_visibility, reference_visibility
        )
        # (N, S, C) · (N, C, S) -> (N, S, S): probe cells, then reference cells
        with torch.autocast(probe_maps.device.type, enabled=False):
            correlation = cell_vectors(probe_maps) @ cell_vectors(reference_maps).transpose(1, 2)
        return self.score(self._best(correlation, seen))

    def _best(self, correlation: Tensor, seen: tuple[Tensor, Tensor] | None) -> Matches:
        """The best of (…, S, S) correlations, probe cells first; `seen` broadcasts to (…, S)."""
        if seen is None:
            return Matches(correlation.amax(-1), correlation.amax(-2))
        v_probe, v_gallery = seen
        if self.weighting == "scale":
            weighted = correlation * v_probe[..., :, None] * v_gallery[..., None, :]
            return Matches(weighted.amax(-1), weighted.amax(-2))
        best_probe = (correlation + hidden_penalty(v_gallery)[..., None, :]).amax(-1)
        best_gallery = (correlation + hidden_penalty(v_probe)[..., :, None]).amax(-2)
        return Matches(best_probe, best_gallery, *self._pair_weights(v_probe, v_gallery))

    def check(self, probe_maps: Tensor, gallery_maps: Tensor) -> None:
        """The maps have this matcher's channels and grid, or a ModelError."""
        check_maps(probe_maps, gallery_maps)
        expected = (self.channels, self.height, self.width)
        if tuple(probe_maps.shape[1:]) != expected:
            raise ModelError(
                f"this matcher was made for maps of (N, {', '.join(map(str, expected))}), "
                f"found {tuple(probe_maps.shape)}"
            )

    def _visibilities(
        self,
        probe_maps: Tensor,
        gallery_maps: Tensor,
        probe_visibility: Tensor | None,
        gallery_visibility: Tensor | None,
    ) -> tuple[Tensor, Tensor] | None:
        """Both visibilities on the grid of the maps, (P, S) and (G, S); None when not used."""
        if self.weighting == "none" or (probe_visibility is None and gallery_visibility is None):
            return None
        return (
            cell_visibility(probe_visibility, probe_maps),
            cell_visibility(gallery_visibility, gallery_maps),
        )

    def _pair_weights(self, probe: Tensor, gallery: Tensor) -> tuple[Tensor, Tensor]:
        """How much the term of each cell counts, 0 to 1: (…, S) per face → two of (…, S).

        The leading dimensions of the two broadcast to those of the pairs.
        """
        if self.weighting == "common":
            return probe * gallery, probe * gallery
        # A face that is occluded entirely offers no match, so nothing is asked of the other one.
        probe_exists = (probe > 0).any(-1, keepdim=True)
        gallery_exists = (gallery > 0).any(-1, keepdim=True)
        return probe * gallery_exists, gallery * probe_exists

    def halves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of the probe's cells (S,), of the gallery's cells (S,), and the bias (1,)."""
        weight = self.fc.weight[0].float()
        bias = self.fc.bias.float()
        if self.version == "2.1":
            return weight, weight, 2.0 * bias
        # The gallery's half comes first in the weights of version 2.0.
        gallery, probe = weight.chunk(2)
        return probe, gallery, bias

    def score(self, matches: Matches) -> Tensor:
        """Best matches (…, S) → scores (…)."""
        best_probe, best_gallery, probe_weights, gallery_weights = matches
        best = torch.stack([best_probe, best_gallery], dim=-2)  # (…, 2, S)
        w_probe, w_gallery, bias = self.halves()
        location = torch.stack([w_probe, w_gallery])  # (2, S)
        if probe_weights is None or gallery_weights is None:
            normed = self.bn(best.reshape(-1, 1)).reshape(best.shape)
        else:
            shape = best_probe.shape
            weights = torch.stack([probe_weights.expand(shape), gallery_weights.expand(shape)], -2)
            normed = _weighted_batch_norm(self.bn, best, weights)
            location = location * mean_weights(weights)
        total = (normed * location).sum((-2, -1)) + bias
        logits: Tensor = self.logit_bn(total.reshape(-1, 1)).reshape(total.shape)
        return logits
