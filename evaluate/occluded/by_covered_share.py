"""Accuracy and TAR of pairs by the share of the face that is covered, matcher by matcher."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import EvaluationError
from faceguide.evaluate.metrics.bootstrap import RocStatistic, interval, replicate
from faceguide.evaluate.metrics.folds import assign_folds, exact_accuracy
from faceguide.evaluate.metrics.roc import measure, rank, tar_cells, threshold_at
from faceguide.evaluate.metrics.strata import LEAST
from faceguide.evaluate.occluded.covered_scores import Level

EDGES = (0.2, 0.4, 0.6, 0.8)  # of the covered share
FAR = 1e-2


def by_covered_share(
    levels: list[Level],
    same: NDArray[np.bool_],
    fold: NDArray[np.int64] | None,
    people: NDArray[np.int64],
    replicates: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Figures of each part of the range of covered shares, first of the faces without covers.

    A pair is decided by the threshold that is best for the uncovered pairs of the other folds. TAR
    is at the threshold of the pairs of the part. A pair is in a part once for each strength that
    puts it there; intervals resample identities.

    Args:
        levels: without covers, then with them.
        same: (N,) pairs of one identity.
        fold: (N,) or None: cut as published.
        people: (N, 2) identities, numbered from 0 without gaps.

    Returns:
        By part: `covered` [low, high], `mean_covered`, `pairs`, and, with 20 pairs of either kind,
        `matchers` (accuracy, auc, tar and `intervals`) and `differences` of every two.
    """
    names = list(levels[0].scores)
    threshold = {name: _thresholds(levels[0].scores[name], same, fold) for name in names}
    covered = np.stack([level.covered for level in levels])  # (L, N)
    part = np.where(covered == 0, 0, 1 + np.digitize(covered, EDGES))
    ends = (0.0, *EDGES, 1.0)
    records = []
    for number in range(len(EDGES) + 2):
        level, pair = np.nonzero(part == number)
        if not len(pair):
            continue
        record: dict[str, Any] = {
            "covered": [0.0, 0.0] if number == 0 else [ends[number - 1], ends[number]],
            "mean_covered": float(covered[level, pair].mean()),
            "pairs": len(pair),
        }
        kinds = same[pair]
        if min(kinds.sum(), (~kinds).sum()) >= LEAST:
            scores = {
                name: np.stack([one.scores[name] for one in levels])[level, pair] for name in names
            }
            correct = {name: (scores[name] >= threshold[name][pair]) == kinds for name in names}
            record |= _figures(scores, correct, kinds, people[pair], replicates, seed)
        records.append(record)
    return records


def _thresholds(
    score: NDArray[np.float64], same: NDArray[np.bool_], fold: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """(N,) threshold of each pair: of the other folds, or at the equal error rate of few pairs."""
    try:
        folds = assign_folds(same)[0] if fold is None else fold
        found = exact_accuracy(score, same, folds)
    except EvaluationError:
        ranking = rank(score, same)
        return np.full(len(score), threshold_at(ranking, measure(ranking).eer_point))
    return found.threshold[np.searchsorted(found.fold, folds)]


def _figures(
    scores: dict[str, NDArray[np.float64]],
    correct: dict[str, NDArray[np.bool_]],
    same: NDArray[np.bool_],
    people: NDArray[np.int64],
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    names, count = list(scores), int(people.max()) + 1
    rankings = {name: rank(scores[name], same) for name in names}
    statistics = [RocStatistic(rankings[name], people, correct[name], (FAR,)) for name in names]
    refused = tar_cells(rankings[names[0]], (FAR,))[0].refused is not None
    keep = [
        (place, "tar" if name.startswith("tar") else name)
        for place, name in enumerate(statistics[0].names)
        if name in ("accuracy", "auc") or (name.startswith("tar") and not refused)
    ]

    def every(counts: NDArray[np.int32]) -> NDArray[np.float64]:
        return np.array([statistic(counts) for statistic in statistics])

    values, drawn = every(np.ones(count, np.int32)), replicate(every, count, replicates, seed)
    return {
        "matchers": {
            name: {
                **{figure: float(values[number, place]) for place, figure in keep},
                "intervals": {figure: interval(drawn[:, number, place]) for place, figure in keep},
            }
            for number, name in enumerate(names)
        },
        "differences": [
            {
                "first": names[a],
                "second": names[b],
                **{
                    figure: {
                        "difference": float(values[a, place] - values[b, place]),
                        "interval": interval(drawn[:, a, place] - drawn[:, b, place]),
                    }
                    for place, figure in keep
                },
            }
            for a, b in itertools.combinations(range(len(names)), 2)
        ],
    }
