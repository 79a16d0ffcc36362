"""Does the map against each reference find the part of that reference's identity?

A chimera's part speaks for the donor Q and against the bearer P, the rest the other way round. So
the difference of the two standardised maps, against Q's reference and against P's, is to be higher
in the part. Both maps are of one picture: what depends only on the picture or on the place cancels,
and a map that does not look at the reference scores exactly one half.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

VERDICTS = ("told", "not_told", "blind", "uniform", "error")
TOLD, NOT_TOLD, BLIND, UNIFORM, ERROR = VERDICTS
# Rounding of two maps of one picture, in standard deviations of the map.
_ROUNDING = 1e-4
# A map whose cells differ by less than this share of the largest is constant.
_CONSTANT = 1e-5


@dataclass(frozen=True)
class ToldApart:
    """What is found of the maps of N chimeras by one method; 0.5 is chance.

    Attributes:
        told: (N,) D, how well the two maps together tell the part from the rest.
        single: (N,) T, how well each map does by itself, the mean of both.
        verdict: N of `VERDICTS`. Untested maps (uniform, error) count one half in both.
    """

    told: NDArray[np.float64]
    single: NDArray[np.float64]
    verdict: list[str]

    def first(self, count: int) -> ToldApart:
        """Of so many chimeras."""
        return ToldApart(self.told[:count], self.single[:count], self.verdict[:count])


def standardised(cells: NDArray[np.floating]) -> NDArray[np.float64]:
    """(…, 49) with mean 0 and deviation 1 over the cells; 0 where they are constant."""
    values = cells.astype(np.float64)
    largest = np.abs(values).max(-1, keepdims=True)
    # Scaled first, so that neither tiny nor huge maps leave the range of numbers.
    values = values / np.where(largest > 0, largest, 1.0)
    moved = values - values.mean(-1, keepdims=True)
    spread = moved.std(-1, keepdims=True)
    patterned = spread > _CONSTANT
    return np.where(patterned, moved / np.where(patterned, spread, 1.0), 0.0)


def difference(
    by_bearer: NDArray[np.floating], by_donor: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(…, 49) the standardised map against Q's reference less that against P's.

    0 everywhere where the two differ by rounding only, and where a map is not finite.
    """
    against, towards = (
        standardised(np.where(np.isfinite(cells).all(-1, keepdims=True), cells, 0.0))
        for cells in (by_bearer, by_donor)
    )
    change = towards - against
    finite = np.isfinite(by_bearer).all(-1) & np.isfinite(by_donor).all(-1)
    seen = finite & (np.abs(change).max(-1) > _ROUNDING)
    return np.where(seen[..., None], change, 0.0)


def _wins(upper: NDArray[np.float64], lower: NDArray[np.float64]) -> tuple[int, int]:
    """Twice the comparisons that `upper` wins, ties counting once, of how many."""
    first, second = upper[:, None], lower[None]
    won = 2 * np.count_nonzero(first > second) + np.count_nonzero(first == second)
    return int(won), 2 * first.size * second.size


def told_apart(
    by_bearer: NDArray[np.floating],
    by_donor: NDArray[np.floating],
    part: NDArray[np.bool_],
    rest: NDArray[np.bool_],
) -> ToldApart:
    """Score the maps of chimeras.

    Args:
        by_bearer: (N, 49) signed cells of the maps against P's reference, above 0 = supports the
            match; not finite = there is no map.
        by_donor: (N, 49) of the maps against Q's reference.
        part: (N, 49) cells of the donor.
        rest: (N, 49) cells of the bearer.
    """
    count = len(by_bearer)
    told, single, verdicts = np.full(count, 0.5), np.full(count, 0.5), []
    for place in range(count):
        maps = by_bearer[place], by_donor[place]
        if not np.isfinite(maps).all():
            verdicts.append(ERROR)
            continue
        against, towards = (standardised(cells) for cells in maps)
        if not (against.any() or towards.any()):
            verdicts.append(UNIFORM)
            continue
        inside, outside = part[place], rest[place]
        first, total = _wins(against[outside], against[inside])
        second, _ = _wins(towards[inside], towards[outside])
        single[place] = (first + second) / (2 * total)
        change = difference(*maps)
        if not change.any():
            verdicts.append(BLIND)
            single[place] = 0.5
            continue
        won, total = _wins(change[inside], change[outside])
        told[place] = won / total
        verdicts.append(TOLD if 2 * won > total else NOT_TOLD)
    return ToldApart(told, single, verdicts)
