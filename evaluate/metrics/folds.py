"""k-fold accuracy: each fold is judged by the threshold that is best on all the others.

The protocol of LFW (Huang et al., 2007) as face papers use it. Two ways to look for the
threshold: `exact` tries every score of the training folds; `published` is the procedure behind
most printed figures, 400 steps of 0.01 over the squared distance 2 − 2·cos of unit embeddings.
Both take the strictest of equally good thresholds. The deviation is that over the folds, divided
by their number (not by one less), as published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import EvaluationError

FOLDS = 10
PUBLISHED_DISTANCES = np.arange(0, 4, 0.01)


@dataclass(frozen=True)
class FoldAccuracy:
    """Accuracy of F folds.

    Attributes:
        fold: (F,) numbers of the folds.
        accuracy: (F,) share of right decisions in each, 0 to 1.
        threshold: (F,) the score from which each fold was accepted.
        correct: (N,) bool, right decisions.
    """

    fold: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    threshold: NDArray[np.float64]
    correct: NDArray[np.bool_]

    @property
    def mean(self) -> float:
        return float(self.accuracy.mean())

    @property
    def std(self) -> float:
        return float(self.accuracy.std())


def assign_folds(same: NDArray[np.bool_], folds: int = FOLDS) -> tuple[NDArray[np.int64], str]:
    """Folds for a list that has none.

    Runs of neighbouring pairs, as published; where a run would hold less than half its even
    share of one kind (a list of all genuine pairs, then all impostors), each kind is cut into
    runs by itself.

    Returns:
        (N,) int64, and "runs" or "runs of each kind".

    Raises:
        EvaluationError: when one kind has fewer pairs than there are folds.
    """
    fold = _runs(len(same), folds)
    kinds = [np.bincount(fold[kind], minlength=folds) for kind in (same, ~same)]
    if all(counts.all() and 2 * counts.min() >= counts.mean() for counts in kinds):
        return fold, "runs"
    fewest = min(int(np.count_nonzero(same)), int(np.count_nonzero(~same)))
    if fewest < folds:
        raise EvaluationError(
            f"{folds} folds need {folds} pairs of each kind, found {fewest}; "
            "give the pairs a column `fold`"
        )
    for kind in (same, ~same):
        fold[kind] = _runs(int(np.count_nonzero(kind)), folds)
    return fold, "runs of each kind"


def _runs(count: int, folds: int) -> NDArray[np.int64]:
    """The first count % folds runs are one longer, as in the published procedure."""
    sizes = np.full(folds, count // folds)
    sizes[: count % folds] += 1
    return np.repeat(np.arange(folds), sizes)


def exact_accuracy(
    scores: NDArray[np.floating], same: NDArray[np.bool_], fold: NDArray[np.int64]
) -> FoldAccuracy:
    """Every score of the training folds is a candidate: accept when score ≥ threshold.

    Args:
        scores: (N,) finite, higher = more alike.
        same: (N,) bool.
        fold: (N,) fold of each pair, at least two different ones.

    Raises:
        EvaluationError: with a single fold.
    """
    scores = np.asarray(scores, np.float64)
    order = np.argsort(-scores, kind="stable")
    ordered, genuine = scores[order], same[order]

    def choose(training: NDArray[np.bool_]) -> float:
        values, kinds = ordered[training[order]], genuine[training[order]]
        ends = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
        # Right decisions when everything down to a score is accepted; first, nothing is.
        gain = np.append(0, np.cumsum(np.where(kinds, 1, -1))[ends])
        best = int(gain.argmax())
        return float(values[ends[best - 1]] if best else np.nextafter(values[0], np.inf))

    return _by_fold(same, fold, choose, lambda threshold: scores >= threshold)


def published_accuracy(
    cosine: NDArray[np.floating], same: NDArray[np.bool_], fold: NDArray[np.int64]
) -> FoldAccuracy:
    """The published grid of distances: accept when 2 − 2·cos < threshold.

    Args and errors as `exact_accuracy`; `cosine` in −1 to 1. `threshold` holds cosines.
    """
    distance = 2.0 - 2.0 * np.asarray(cosine, np.float64)

    def choose(training: NDArray[np.bool_]) -> float:
        below = [
            np.searchsorted(np.sort(distance[training & kind]), PUBLISHED_DISTANCES)
            for kind in (same, ~same)
        ]
        return float(PUBLISHED_DISTANCES[int((below[0] - below[1]).argmax())])

    found = _by_fold(same, fold, choose, lambda threshold: distance < threshold)
    return replace(found, threshold=1.0 - found.threshold / 2.0)


def _by_fold(
    same: NDArray[np.bool_],
    fold: NDArray[np.int64],
    choose: Callable[[NDArray[np.bool_]], float],
    accepted: Callable[[float], NDArray[np.bool_]],
) -> FoldAccuracy:
    """Judge each fold by the threshold that `choose` takes from the pairs of all others."""
    names = np.unique(fold)
    if len(names) < 2:
        raise EvaluationError(
            "a threshold from the other folds needs at least two folds, found one"
        )
    threshold = np.array([choose(fold != name) for name in names])
    correct = np.zeros(len(same), bool)
    for name, chosen in zip(names, threshold.tolist(), strict=True):
        inside = fold == name
        correct[inside] = accepted(chosen)[inside] == same[inside]
    accuracy = np.array([correct[fold == name].mean() for name in names])
    return FoldAccuracy(names, accuracy, threshold, correct)
