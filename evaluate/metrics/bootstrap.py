"""Intervals that know that pairs share identities.

The pigeonhole bootstrap (Owen, 2007): identities are drawn with replacement, and a pair counts as
often as its two identities together, w = w₁ · w₂; a genuine pair has one identity and counts w₁.
Drawing pairs instead would treat the ten pairs of one photograph as ten findings.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.metrics.roc import FARS, Ranking, far_name, measure

REPLICATES = 1000
LEVEL = 0.95


def draw_counts(people: int, seed: int, replicate: int) -> NDArray[np.int32]:
    """How often each identity is drawn in one replicate, (people,), their sum is `people`."""
    rng = np.random.default_rng((seed, replicate))
    return np.bincount(rng.integers(0, people, people), minlength=people).astype(np.int32)


class PairWeights:
    """Weight of each pair as a function of the counts; made once per list.

    Args:
        clusters: (N, 2) the two identities of each pair.
    """

    def __init__(self, clusters: NDArray[np.int64]) -> None:
        self._first = np.ascontiguousarray(clusters[:, 0])
        self._second = np.ascontiguousarray(clusters[:, 1])
        self._one = self._first == self._second
        self._all_one, self._any_one = bool(self._one.all()), bool(self._one.any())

    def __call__(self, counts: NDArray[np.int32]) -> NDArray[np.int32]:
        # mode="clip" spares numpy a buffer; the numbers are inside by construction.
        first = np.take(counts, self._first, mode="clip")
        if self._all_one:
            return first
        both = np.take(counts, self._second, mode="clip")
        both *= first
        return np.where(self._one, first, both) if self._any_one else both


def replicate(
    statistic: Callable[[NDArray[np.int32]], NDArray[np.float64]],
    people: int,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> NDArray[np.float64]:
    """A statistic of the counts, once per replicate: (R, …); equal seeds give equal ones."""
    return repeat(lambda number: statistic(draw_counts(people, seed, number)), replicates)


def repeat(one: Callable[[int], NDArray[np.float64]], replicates: int) -> NDArray[np.float64]:
    """(R, …) values of the numbers of the replicates, for statistics of several sets."""
    # numpy sorts, sums and gathers without the interpreter's lock.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        return np.array(list(pool.map(one, range(replicates))))


def interval(values: NDArray[np.float64], level: float = LEVEL) -> list[float] | None:
    """The percentile interval [low, high]; None when most replicates have no value."""
    finite = values[np.isfinite(values)]
    if len(finite) < 0.5 * max(len(values), 1) or not len(finite):
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def rate_interval(
    wrong: NDArray[np.bool_], people: NDArray[np.int64], drawn: NDArray[np.float64]
) -> list[float] | None:
    """The interval of an error rate, also where no error was seen.

    Resampling cannot tell then how far the rate may lie from 0; the upper end is the exact one of
    as many independent trials as there are identities (Clopper and Pearson, 1934), which is wide.
    So is the lower end where nothing but errors was seen.

    Args:
        wrong: (n,) which pairs are errors, n at least 1.
        people: (n, 2) their identities.
        drawn: (R,) the rate in each resample.
    """
    ends = interval(drawn)
    if ends is None or 0 < wrong.mean() < 1:
        return ends
    far = 1 - ((1 - LEVEL) / 2) ** (1 / len(np.unique(people)))
    return [0.0, max(far, ends[1])] if not wrong.any() else [min(1 - far, ends[0]), 1.0]


class RocStatistic:
    """AUC, EER, accuracy and TARs of one ranking as a function of the counts.

    The accuracy's thresholds stay those of the folds. The order of the values is `names`.
    """

    def __init__(
        self,
        ranking: Ranking,
        clusters: NDArray[np.int64],
        correct: NDArray[np.bool_],
        fars: tuple[float, ...] = FARS,
    ) -> None:
        self.names = ("auc", "eer", "accuracy", *(f"tar {far_name(far)}" for far in fars))
        self._ranking, self._fars = ranking, fars
        # Sorted once: a replicate only gathers.
        self._genuine = PairWeights(clusters[ranking.genuine])
        self._impostor = PairWeights(clusters[ranking.impostor])
        self._right = (correct[ranking.genuine], correct[ranking.impostor])

    def __call__(self, counts: NDArray[np.int32]) -> NDArray[np.float64]:
        genuine, impostor = self._genuine(counts), self._impostor(counts)
        found = measure(self._ranking, self._fars, genuine, impostor)
        right = int(np.dot(genuine, self._right[0])) + int(np.dot(impostor, self._right[1]))
        total = int(genuine.sum()) + int(impostor.sum())
        accuracy = right / total if total else np.nan
        return np.array([found.auc, found.eer, accuracy, *found.tar])


def verification_intervals(
    ranking: Ranking,
    clusters: NDArray[np.int64],
    correct: NDArray[np.bool_],
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """95 % intervals of every figure, and how much clustering widens that of the accuracy.

    Args:
        clusters: (N, 2) identities, numbered from 0 without gaps.
        correct: (N,) bool, right decisions at the folds' thresholds.

    Returns:
        name → [low, high] or None, and `design_effect`: variance of the accuracy over that of as
        many independent pairs.
    """
    statistic = RocStatistic(ranking, clusters, correct)
    values = replicate(statistic, int(clusters.max()) + 1, replicates, seed)
    found: dict[str, Any] = {
        name: interval(values[:, column]) for column, name in enumerate(statistic.names)
    }
    share = float(correct.mean())
    naive = share * (1 - share) / len(correct)
    found["design_effect"] = float(np.nanvar(values[:, 2])) / naive if naive > 0 else None
    return found
