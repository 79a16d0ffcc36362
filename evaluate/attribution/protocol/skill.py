"""What a map knows of its own pair, beyond what holds for all pairs.

Where a cell lies explains most of how much it changes a score, so a map that is the same for every
pair, a Gaussian at the middle, passes tests of single pairs. Here the mean of the other pairs is
taken from the map and from the measured responses first, and what is left is compared: a map that
is the same for all pairs has skill 0 exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEAST = 1e-9  # of a residual, ranks having deviation 1: below is rounding


def ranked(cells: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N, U) ranks within each pair, mean 0 and deviation 1; 0 for constant or broken maps."""
    from scipy.stats import rankdata

    good = np.isfinite(cells).all(1)
    ranks = rankdata(np.where(good[:, None], cells, 0.0), axis=1)
    moved = ranks - ranks.mean(1, keepdims=True)
    spread = moved.std(1, keepdims=True)
    found: NDArray[np.float64] = np.where(spread > 0, moved / np.where(spread > 0, spread, 1), 0.0)
    return found


def unrelated(people: NDArray[np.int64], same: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N, N): the pair in the column is of the row's kind and shares no identity with it."""
    shared = (people[:, None, :, None] == people[None, :, None, :]).any((2, 3))
    return ~shared & (same[:, None] == same[None])


def residual(values: NDArray[np.float64], others: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values (N, U) less their mean over the other pairs (N, N); NaN without any."""
    count = others.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = values - (others.astype(float) @ values) / count
    return found


def agreement(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) Pearson's correlation over the cells of residuals (N, U); 0 where one is constant."""
    a, b = (one - one.mean(1, keepdims=True) for one in (first, second))
    lengths = [np.sqrt((one * one).sum(1)) for one in (a, b)]
    flat = (lengths[0] < _LEAST) | (lengths[1] < _LEAST)
    both = np.where(flat, 1.0, lengths[0] * lengths[1])
    found: NDArray[np.float64] = np.where(flat, 0.0, (a * b).sum(1) / both)
    known = np.isfinite(a).all(1) & np.isfinite(b).all(1)
    return np.where(known, found, np.nan)


def pair_skill(
    cells: NDArray[np.floating], responses: NDArray[np.floating], others: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(N,) how well maps (N, 49) predict responses (N, 49) beyond what all pairs have in common.

    −1 to 1; 0 for a map that says the same of all pairs, or nothing; NaN for a pair without others.

    Args:
        cells: signed for signed responses, magnitudes for magnitudes.
        others: from `unrelated`.
    """
    return agreement(residual(ranked(cells), others), residual(ranked(responses), others))


def contrasts(
    probe: NDArray[np.int64], same: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the first genuine and the first impostor pair of each probe that has both."""
    pairs = []
    for row in np.unique(probe):
        here = np.flatnonzero(probe == row)
        genuine, impostor = here[same[here]], here[~same[here]]
        if len(genuine) and len(impostor):
            pairs.append((genuine[0], impostor[0]))
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def contrast_skill(
    cells: NDArray[np.floating],
    responses: NDArray[np.floating],
    people: NDArray[np.int64],
    pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> NDArray[np.float64]:
    """(P,) skill of the change from an impostor's to the genuine reference, of the same probe.

    Args:
        people: (N, 2) identities of the pairs.
        pairs: from `contrasts`; P.
    """
    genuine, impostor = pairs
    owner = people[genuine, 0]
    others = owner[:, None] != owner[None]
    change = [one[genuine] - one[impostor] for one in (ranked(cells), ranked(responses))]
    return agreement(*(residual(one, others) for one in change))


def effects(table: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """(N, 49, R) what the score loses without each cell: above 0, the cell supports the match."""
    found: NDArray[np.float64] = table["clean"][:, None, None].astype(float) - table["masked"]
    return found


def ceiling(
    effect: NDArray[np.float64], others: NDArray[np.bool_]
) -> dict[str, NDArray[np.float64]]:
    """Skill of one half of the infills about the other, (N,) `signed` and `unsigned`.

    None can do better by more than chance; NaN with a single infill.
    """
    if effect.shape[2] < 2:
        blank = np.full(len(effect), np.nan)
        return {"signed": blank, "unsigned": blank}
    first, second = effect[:, :, 0::2], effect[:, :, 1::2]
    return {
        "signed": pair_skill(first.mean(2), second.mean(2), others),
        "unsigned": pair_skill(np.abs(first).mean(2), np.abs(second).mean(2), others),
    }
