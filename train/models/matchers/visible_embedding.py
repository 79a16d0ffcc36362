"""The embedding of what both faces of a pair show.

Where everything after the last map is linear in eval mode, the raw embedding is a sum over cells,
e = Σ_s x_s · W_s + b. So each pair can be compared by the cells that both faces show, in the
metric that the network was trained for:

    z_s = (x_s − mean_s) · W_s
    e_p|g = Σ_s v_p,s · v_g,s · z_p,s        e_g|p = Σ_s v_p,s · v_g,s · z_g,s
    score = cos(e_p|g, e_g|p)

With every cell visible the score is the cosine of the embeddings after their common mean is taken
off; without a `mean_map` the bias b is shared out evenly over the cells, and it is the plain
cosine. A pair that shows no cell in common has the score 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError
from faceguide.train.models.backbones.backbone import HasLinearTail, LinearTail
from faceguide.train.models.matchers.correlation import cell_visibility, check_maps
from faceguide.train.models.own_networks import inner

# Numbers that one block of soft pairs may hold: 64 MiB.
BLOCK_NUMBERS = 1 << 24


def mean_map(feature_maps: Iterable[Tensor]) -> Tensor:
    """The mean over faces of batches of maps, (N, C, s, s) each → (C, s, s) float32.

    A few hundred unoccluded faces of the kind that will be compared are enough.
    """
    total: Tensor | None = None
    count = 0
    for batch in feature_maps:
        part = batch.detach().double().sum(0)
        total = part if total is None else total + part
        count += len(batch)
    if total is None or count == 0:
        raise ModelError("a mean map needs at least one feature map, found none")
    return (total / count).float()


@dataclass(frozen=True)
class VisibleEmbedding:
    """A matcher of maps of s × s cells, made by `VisibleEmbedding.of`; called like QAConv.

    Attributes:
        weight: (S, C, E) the linear tail of the backbone.
        offset: (S, E) what is added to x_s · W_s so that it becomes z_s.
        extent: share of the crop's side that the cells cover.
    """

    weight: Tensor
    offset: Tensor
    extent: float = 1.0

    @property
    def side(self) -> int:
        """Cells along an axis."""
        return math.isqrt(len(self.weight))

    @staticmethod
    @torch.no_grad()
    def of(backbone: nn.Module, mean: Tensor | None = None) -> VisibleEmbedding:
        """The matcher of a backbone with its present weights; they are copied.

        Args:
            mean: (C, s, s) from `mean_map`; None compares embeddings as they are. Give it when
                faces are at hand: what all faces share at a cell tells no identities apart,
                and partial sums hold more of it than whole embeddings.

        Raises:
            ModelError: for a network whose tail is not linear, by name, or a mean of another
                shape.
        """
        if not isinstance(backbone, HasLinearTail):
            raise ModelError(
                f"visible-embedding needs a backbone that is linear after its last map "
                f"(mobilefacenet, ir_*, iresnet_*, mbf, vit_*, cvlface_*; a network of your own "
                f"says so by a method linear_tail), and {type(inner(backbone)).__name__} is not; "
                "choose qaconv or cosine"
            )
        tail: LinearTail = backbone.linear_tail()
        weight = tail.weight.detach().clone()
        cells, channels, _ = weight.shape
        if mean is None:
            offset = (tail.bias / cells).expand(cells, -1).clone()
        else:
            side = math.isqrt(cells)
            if tuple(mean.shape) != (channels, side, side):
                raise ModelError(
                    f"the mean map must be ({channels}, {side}, {side}), found {tuple(mean.shape)}"
                )
            offset = -torch.einsum("cs,sce->se", mean.to(weight).flatten(1), weight)
        return VisibleEmbedding(weight, offset, tail.extent)

    def cell_terms(self, maps: Tensor) -> Tensor:
        """(N, C, s, s) → z, (N, S, E) float32; S·E numbers are all that a gallery must keep."""
        expected = (self.weight.shape[1], self.side, self.side)
        if maps.ndim != 4 or tuple(maps.shape[1:]) != expected:
            raise ModelError(
                f"visible-embedding expects maps of (N, {', '.join(map(str, expected))}), "
                f"found {tuple(maps.shape)}"
            )
        cells = maps.to(self.weight).flatten(2).permute(2, 0, 1)  # (S, N, C)
        return torch.bmm(cells, self.weight).transpose(0, 1) + self.offset

    def pair_scores(
        self,
        probe_maps: Tensor,
        reference_maps: Tensor,
        probe_visibility: Tensor | None = None,
        reference_visibility: Tensor | None = None,
    ) -> Tensor:
        """Scores (N,) of N given pairs, differentiable in the maps; otherwise as a call."""
        check_maps(probe_maps, reference_maps)
        both = self._seen(probe_visibility, probe_maps) * self._seen(
            reference_visibility, reference_maps
        )
        return score_pair_terms(self.cell_terms(probe_maps), self.cell_terms(reference_maps), both)

    def __call__(
        self,
        probe_maps: Tensor,
        gallery_maps: Tensor,
        probe_visibility: Tensor | None = None,
        gallery_visibility: Tensor | None = None,
    ) -> Tensor:
        """Scores of every probe with every gallery face.

        Args:
            probe_maps, gallery_maps: (P, C, s, s) and (G, C, s, s).
            probe_visibility, gallery_visibility: (P, 1, H, W) or (P, H, W) and likewise, 0 to 1;
                None = all visible.

        Returns:
            (P, G) float32, −1 to 1.
        """
        check_maps(probe_maps, gallery_maps)
        return score_terms(
            self.cell_terms(probe_maps),
            self.cell_terms(gallery_maps),
            self._seen(probe_visibility, probe_maps),
            self._seen(gallery_visibility, gallery_maps),
        )

    def _seen(self, visibility: Tensor | None, maps: Tensor) -> Tensor:
        return cell_visibility(visibility, maps, self.extent)


def score_pair_terms(probe_terms: Tensor, reference_terms: Tensor, both: Tensor) -> Tensor:
    """Scores (N,) of N given pairs from the terms of `VisibleEmbedding.cell_terms`.

    Args:
        probe_terms, reference_terms: (N, S, E).
        both: (N, S) what both faces show, the product of their visibilities.
    """
    # (N, 1, S) · (N, S, E) -> (N, E)
    probe = torch.bmm(both[:, None], probe_terms)[:, 0]
    reference = torch.bmm(both[:, None], reference_terms)[:, 0]
    return (_unit(probe) * _unit(reference)).sum(1)


def score_terms(
    probe_terms: Tensor, gallery_terms: Tensor, probe_seen: Tensor, gallery_seen: Tensor
) -> Tensor:
    """Scores from the terms of `VisibleEmbedding.cell_terms`.

    Faces that share one visibility pattern share one masked sum, so a gallery that is wholly
    visible and probes of few patterns cost a few matrix products. Soft visibility, another in
    every face, costs 4·S·E operations per pair.

    Args:
        probe_terms, gallery_terms: (P, S, E) and (G, S, E).
        probe_seen, gallery_seen: (P, S) and (G, S) visibility of the cells, 0 to 1.

    Returns:
        (P, G) float32.
    """
    probe_patterns, probe_of = torch.unique(probe_seen, dim=0, return_inverse=True)
    gallery_patterns, gallery_of = torch.unique(gallery_seen, dim=0, return_inverse=True)
    count_p, count_g = len(probe_terms), len(gallery_terms)
    # A pattern pays when it sums fewer faces than the pairs it spares.
    sums = len(gallery_patterns) * count_p + len(probe_patterns) * count_g
    if 2 * sums <= count_p * count_g:
        return _by_pattern(
            probe_terms, gallery_terms, probe_patterns, gallery_patterns, probe_of, gallery_of
        )
    size = probe_terms.shape[2]
    step_g = max(min(count_g, 256), 1)
    step_p = max(BLOCK_NUMBERS // (2 * step_g * size), 1)
    rows = []
    for p in range(0, count_p, step_p):
        seen_p, terms_p = probe_seen[p : p + step_p], probe_terms[p : p + step_p]
        parts = []
        for g in range(0, count_g, step_g):
            seen_g, terms_g = gallery_seen[g : g + step_g], gallery_terms[g : g + step_g]
            both = seen_p[:, None] * seen_g[None]  # (p, g, S)
            probe = torch.bmm(both, terms_p)  # (p, g, S) · (p, S, E)
            gallery = torch.bmm(both.transpose(0, 1), terms_g).transpose(0, 1)  # (p, g, E)
            parts.append((_unit(probe) * _unit(gallery)).sum(2))
        rows.append(torch.cat(parts, 1))
    return torch.cat(rows)


def _by_pattern(
    probe_terms: Tensor,
    gallery_terms: Tensor,
    probe_patterns: Tensor,
    gallery_patterns: Tensor,
    probe_of: Tensor,
    gallery_of: Tensor,
) -> Tensor:
    scores = probe_terms.new_empty(len(probe_terms), len(gallery_terms))
    for j, pattern_p in enumerate(probe_patterns):
        rows = (probe_of == j).nonzero()[:, 0]
        for k, pattern_g in enumerate(gallery_patterns):
            columns = (gallery_of == k).nonzero()[:, 0]
            both = pattern_p * pattern_g
            probe = _unit(torch.einsum("nse,s->ne", probe_terms[rows], both))
            gallery = _unit(torch.einsum("nse,s->ne", gallery_terms[columns], both))
            scores[rows[:, None], columns[None]] = probe @ gallery.T
    return scores


def _unit(embedding: Tensor) -> Tensor:
    """Length 1 along the last dimension; nothing visible stays 0."""
    return nn.functional.normalize(embedding, dim=-1)
