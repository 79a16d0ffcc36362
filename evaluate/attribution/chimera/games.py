"""Further tests with a known truth, with the faces of the chimeras: columns beside the ranking.

* `small`: parts of 2×2 cells at eight places, the setting of Patch-LFW (Huber et al.,
  arXiv 2304.13409), and `regions`: eyes, nose or mouth by the landmarks of both faces. Both are
  judged as the chimeras are, by two references: a fixed map is right wherever a part usually is,
  but tells no reference from another.
* `deletion`: what the maps give to the donor is replaced by the bearer's own pixels, and the score
  with the bearer's photograph has to come back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.evaluate.attribution.cells import cell_masks, pair_rng
from faceguide.evaluate.attribution.chimera.chimera_list import (
    DELETION,
    REGION_GAME,
    SMALL_GAME,
    Chimeras,
)
from faceguide.evaluate.attribution.chimera.composition import ALL_PARTS, BOXES, PARTS
from faceguide.evaluate.attribution.chimera.told_apart import difference
from faceguide.evaluate.attribution.methods.target import PairScore, Reference
from faceguide.evaluate.metrics.bootstrap import interval, replicate


@torch.no_grad()
def restored(
    score: PairScore,
    chimera: Tensor,
    bearer: Tensor,
    reference: Reference,
    signed: NDArray[np.floating],
    cells: tuple[NDArray[np.bool_], NDArray[np.bool_]],
    keys: NDArray[np.int64],
    seed: int,
) -> NDArray[np.float64]:
    """(N,) what the bearer's pixels add to the score in the cells that maps give to the donor.

    As many of the evaluated cells as the part has, those that the difference of the two maps gives
    to the donor, are compared with as many that it gives to the bearer. 0 for maps that do not look
    at the reference, and for maps that are not finite.

    Args:
        chimera: (N, 3, S, S) prepared pixels, and `bearer` likewise.
        reference: described photographs of the bearer.
        signed: (N, 2, 49) maps against the bearer's and the donor's photograph.
        cells: (N, 49) of the part, (N, 49) of the rest.
        keys: (N,) numbers of the chimeras; they break ties.
    """
    inside, outside = cells
    masks = cell_masks(chimera.shape[-1]).to(chimera.device)
    wanted = torch.zeros(2, len(chimera), *chimera.shape[2:], dtype=torch.bool).to(chimera.device)
    change = difference(signed[:, 0], signed[:, 1])
    for place in np.flatnonzero(change.any(1)).tolist():
        judged = np.flatnonzero(inside[place] | outside[place])
        count = min(int(inside[place].sum()), len(judged) // 2)
        ties = pair_rng(int(keys[place]), seed, DELETION).random(len(judged))
        order = judged[np.lexsort((ties, change[place, judged]))]
        for kind, some in enumerate((order[len(order) - count :], order[:count])):
            wanted[kind, place] = masks[torch.from_numpy(some)].any(0)
    scores = [
        score.quick(torch.where(chosen[:, None], bearer, chimera), *reference) for chosen in wanted
    ]
    found: NDArray[np.float64] = (scores[0] - scores[1]).double().cpu().numpy()
    return found


def game_records(
    chimeras: Chimeras,
    told: NDArray[np.float64],
    gained: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """Game → `n`, `score` (0.5 = chance) and its `interval`; of parts also `by_part`.

    Args:
        told: (N,) how well the maps of each chimera tell its part from the rest.
        gained: (n,) `restored` by the maps and by the truth, of those of the ranking; None =
            `deletion` is not played.
    """
    found: dict[str, Any] = {}
    for name, first, end in (
        (SMALL_GAME, len(PARTS), len(BOXES)),
        (REGION_GAME, len(BOXES), len(ALL_PARTS)),
    ):
        played = (chimeras.part >= first) & (chimeras.part < end)
        if played.any():
            ones = np.ones(played.sum())
            found[name] = _figure(told[played], ones, replicates, seed) | {
                "by_part": parts_of(chimeras.part[played], told[played])
            }
    if gained is not None:
        # A failed map restores nothing; a face without a score is not played with.
        maps, truth = np.where(np.isfinite(gained[1]), np.nan_to_num(gained), 0.0)
        # The truth is 1, its opposite 0, and a map that does not look at the reference one half.
        found[DELETION] = _figure((truth + maps) / 2, truth, replicates, seed)
    return found


def parts_of(part: NDArray[np.int64], told: NDArray[np.float64]) -> dict[str, float]:
    """Name of each part that there is → mean of `told` (N,) over its chimeras."""
    return {ALL_PARTS[one]: float(told[part == one].mean()) for one in np.unique(part).tolist()}


def _figure(
    part: NDArray[np.float64], whole: NDArray[np.float64], replicates: int, seed: int
) -> dict[str, Any]:
    """Σ part / Σ whole over chimeras, whose identities are their own."""

    def ratio(counts: NDArray[np.integer]) -> NDArray[np.float64]:
        total = float(counts @ whole)
        return np.array([float(counts @ part) / total if total > 0 else np.nan])

    value = float(ratio(np.ones(len(part), np.int64))[0])
    between = None
    if replicates and np.isfinite(value):
        between = interval(replicate(ratio, len(part), replicates, seed)[:, 0])
    return {
        "n": len(part),
        "score": value if np.isfinite(value) else None,
        "interval": between,
    }
