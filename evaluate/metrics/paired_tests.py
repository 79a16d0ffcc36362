"""Is one model better than another on the same pairs?

McNemar's exact test looks at the pairs that one of two models decides rightly and the other
wrongly; it takes pairs as independent. The bootstrap of differences draws identities, the same for
both models, so it does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.metrics.bootstrap import RocStatistic, interval, replicate


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[int, int, float]:
    """Exact two-sided McNemar test.

    Args:
        first: (N,) right decisions of one model.
        second: (N,) right decisions of the other, on the same pairs.

    Returns:
        Pairs that only the first decides rightly, pairs that only the second does, and the
        p-value (1 when there is no such pair).
    """
    from scipy.stats import binomtest

    only_first = int(np.count_nonzero(first & ~second))
    only_second = int(np.count_nonzero(second & ~first))
    if only_first + only_second == 0:
        return 0, 0, 1.0
    return only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, 1979), in the order given."""
    order = np.argsort(values, kind="stable")
    factors = len(values) - np.arange(len(values))
    steps = np.maximum.accumulate(np.asarray(values, float)[order] * factors)
    out = np.empty(len(values))
    out[order] = np.minimum(steps, 1.0)
    return [float(value) for value in out]


def compare_all(
    names: Sequence[str],
    statistics: Sequence[RocStatistic],
    correct: Sequence[NDArray[np.bool_]],
    people: int,
    replicates: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Every two models against each other.

    Args:
        correct: (N,) right decisions of each.

    Returns:
        One record per pair of models: `first`, `second`, `only_first_right`, `only_second_right`,
        `p`, `p_holm`, and per figure `difference` (first − second) with its 95 % interval.
    """
    whole = np.ones(people, np.int32)
    values = np.array([statistic(whole) for statistic in statistics])  # (M, figures)
    drawn = replicate(
        lambda counts: np.array([statistic(counts) for statistic in statistics]),
        people,
        replicates,
        seed,
    )  # (R, M, figures)
    records: list[dict[str, Any]] = []
    for a, b in itertools.combinations(range(len(names)), 2):
        only_first, only_second, p = mcnemar(correct[a], correct[b])
        differences = {
            figure: {
                "difference": float(values[a, column] - values[b, column]),
                "interval": interval(drawn[:, a, column] - drawn[:, b, column]),
            }
            for column, figure in enumerate(statistics[a].names)
        }
        records.append(
            {
                "first": names[a],
                "second": names[b],
                "only_first_right": only_first,
                "only_second_right": only_second,
                "p": p,
                "figures": differences,
            }
        )
    for record, p in zip(records, holm([record["p"] for record in records]), strict=True):
        record["p_holm"] = p
    return records
