"""Thresholds that are set on one list of pairs and used on another.

A rule sets a threshold: the best accuracy, the equal error rate, or a false match rate (FMR) that
is not exceeded. The *gap* of a rule is what errors at DEV's threshold are on TEST, less what they
are at the threshold that the same rule sets on TEST itself. Intervals resample the identities of
both lists, so that they hold what DEV's threshold owes to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.metrics.bootstrap import (
    PairWeights,
    draw_counts,
    interval,
    rate_interval,
    repeat,
)
from faceguide.evaluate.metrics.roc import (
    Ranking,
    Weights,
    far_name,
    measure,
    running_sums,
    tar_cells,
    threshold_at,
)

FIGURES = ("fmr", "fnmr", "accuracy")
Values = NDArray[np.float64]


@dataclass(frozen=True)
class RankedPairs:
    """N scored pairs, sorted.

    Attributes:
        people: (N, 2) identities, numbered from 0 without gaps.
    """

    ranking: Ranking
    people: NDArray[np.int64]

    def weights(self, seed: int, replicate: int) -> tuple[Weights, Weights]:
        """Weights of genuine pairs and of impostors in one resample of the identities."""
        counts = draw_counts(int(self.people.max()) + 1, seed, replicate)
        ranking = self.ranking
        return (
            PairWeights(self.people[ranking.genuine])(counts),
            PairWeights(self.people[ranking.impostor])(counts),
        )


def thresholds(
    ranking: Ranking, fars: Sequence[float], genuine: Weights = None, impostor: Weights = None
) -> Values:
    """(2 + F,) thresholds: at the best accuracy, at the equal error rate, and at each FMR.

    Args:
        genuine, impostor: weights in the order of the ranking; None = 1 each.
    """
    sums = running_sums(genuine, len(ranking.genuine))
    false = running_sums(impostor, len(ranking.impostor))
    right = sums[ranking.genuine_end] + false[-1] - false[ranking.impostor_end]
    best = int(right.argmax())
    if right[best] <= false[-1]:
        best = -1  # nothing is accepted
    found = measure(ranking, tuple(fars), genuine, impostor)
    points = [best, found.eer_point, *found.point.tolist()]
    return np.array([threshold_at(ranking, point) for point in points])


def rates(
    ranking: Ranking, threshold: Values, genuine: Weights = None, impostor: Weights = None
) -> Values:
    """(T, 3) FMR, FNMR and accuracy at T thresholds; NaN when all weights of one kind are 0."""
    accepted, totals = [], []
    last = np.searchsorted(-ranking.threshold, -threshold, side="right")
    for weights, ends, count in (
        (impostor, ranking.impostor_end, len(ranking.impostor)),
        (genuine, ranking.genuine_end, len(ranking.genuine)),
    ):
        sums = running_sums(weights, count)
        accepted.append(sums[np.append(0, ends)[last]].astype(np.float64))
        totals.append(float(sums[-1]))
    if not all(totals):
        return np.full((len(threshold), 3), np.nan)
    right = totals[0] - accepted[0] + accepted[1]
    return np.stack(
        [accepted[0] / totals[0], 1 - accepted[1] / totals[1], right / sum(totals)], axis=1
    )


def transfer(
    dev: RankedPairs, test: RankedPairs, replicates: int, seed: int
) -> list[dict[str, Any]]:
    """Errors on TEST at the thresholds of DEV.

    An FMR that DEV has too few impostors for has no row; where TEST has too few, its own
    threshold and the gap are None.

    Returns:
        By rule: `at`, `threshold`, `dev`, `test` and `gap` with `fmr`, `fnmr` and `accuracy`,
        `own_threshold`, and `test_intervals` and `gap_intervals`.
    """
    fars = [cell.far for cell in tar_cells(dev.ranking) if cell.refused is None]
    refused = {cell.far for cell in tar_cells(test.ranking) if cell.refused is not None}
    set_here = thresholds(dev.ranking, fars)
    own = thresholds(test.ranking, fars)
    on_dev, on_test = rates(dev.ranking, set_here), rates(test.ranking, set_here)
    gaps = on_test - rates(test.ranking, own)

    def one(number: int) -> Values:
        moved = thresholds(dev.ranking, fars, *dev.weights(seed + 1, number))
        weights = test.weights(seed, number)
        found = rates(test.ranking, moved, *weights)
        its_own = thresholds(test.ranking, fars, *weights)
        return np.stack([found, found - rates(test.ranking, its_own, *weights)])

    drawn = repeat(one, replicates)  # (R, 2, rules, 3)
    names = ["best accuracy", "equal error rate", *(f"FMR {far_name(far)}" for far in fars)]
    records = []
    for place, name in enumerate(names):
        lacks = place >= 2 and fars[place - 2] in refused
        record = {
            "at": name,
            "threshold": float(set_here[place]),
            "dev": _named(on_dev[place]),
            "test": _named(on_test[place]),
            "test_intervals": _intervals(drawn[:, 0, place])
            | _rate_intervals(test, float(set_here[place]), drawn[:, 0, place]),
            "own_threshold": None if lacks else float(own[place]),
            "gap": None if lacks else _named(gaps[place]),
            "gap_intervals": None if lacks else _intervals(drawn[:, 1, place]),
        }
        records.append(record)
    return records


def _rate_intervals(
    test: RankedPairs, threshold: float, drawn: Values
) -> dict[str, list[float] | None]:
    """FMR and FNMR on TEST, also where there is no error."""
    ranking = test.ranking
    place = int(np.searchsorted(-ranking.threshold, -threshold, side="right"))
    wrong = {
        "fmr": np.arange(len(ranking.impostor)) < np.append(0, ranking.impostor_end)[place],
        "fnmr": np.arange(len(ranking.genuine)) >= np.append(0, ranking.genuine_end)[place],
    }
    pairs = {"fmr": ranking.impostor, "fnmr": ranking.genuine}
    return {
        name: rate_interval(wrong[name], test.people[pairs[name]], drawn[:, place])
        for place, name in enumerate(wrong)
    }


def _named(values: Values) -> dict[str, float]:
    return dict(zip(FIGURES, values.tolist(), strict=True))


def _intervals(drawn: Values) -> dict[str, list[float] | None]:
    return {name: interval(drawn[:, place]) for place, name in enumerate(FIGURES)}
