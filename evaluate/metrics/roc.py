"""The exact ROC: accept when score ≥ threshold, one point per distinct score.

FAR is the share of impostor pairs that are accepted, TAR that of genuine pairs. Pairs of equal
score are accepted together, so nothing depends on the order of a file. Every figure can be
weighted, which is what the bootstrap over identities needs; without weights each pair counts 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import EvaluationError

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
LEAST_FALSE_ACCEPTS = 10  # a rate read off fewer expected impostors is refused

Weights = NDArray[np.integer] | None
Curve = tuple[NDArray[np.float64], NDArray[np.float64]]  # FAR and TAR


def far_name(far: float) -> str:
    """1e-6, 1e-3 … as tables print them."""
    exponent = round(np.log10(far))
    return f"1e{exponent}" if np.isclose(10.0**exponent, far) else f"{far:g}"


@dataclass(frozen=True)
class Ranking:
    """Pairs in descending order of their score; K distinct scores, G genuine, I impostor pairs.

    Attributes:
        threshold: (K,) distinct scores, descending.
        genuine_end: (K,) genuine pairs with a score ≥ threshold.
        impostor_end: (K,) impostor pairs with a score ≥ threshold.
        genuine: (G,) places of the genuine pairs, by descending score.
        impostor: (I,) places of the impostor pairs, by descending score.
        above: (G,) impostor pairs with a higher score than each genuine one.
        level: (G,) impostor pairs with at least its score.
    """

    threshold: NDArray[np.float64]
    genuine_end: NDArray[np.int64]
    impostor_end: NDArray[np.int64]
    genuine: NDArray[np.int64]
    impostor: NDArray[np.int64]
    above: NDArray[np.int64]
    level: NDArray[np.int64]


def rank(scores: NDArray[np.floating], same: NDArray[np.bool_]) -> Ranking:
    """Sort the pairs once; everything else is read off.

    Args:
        scores: (N,) finite, higher = more alike.
        same: (N,) bool.

    Raises:
        EvaluationError: for a score that is not finite, or when one of the two kinds is missing.
    """
    scores = np.asarray(scores, np.float64)
    if not np.isfinite(scores).all():
        bad = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise EvaluationError(f"pair {bad} has the score {scores[bad]}; expected finite scores")
    genuine_count = int(np.count_nonzero(same))
    if genuine_count in (0, len(same)):
        raise EvaluationError(
            f"expected pairs of one identity and of two, found {genuine_count} of one and "
            f"{len(same) - genuine_count} of two"
        )
    order = np.argsort(-scores, kind="stable")
    ordered, is_genuine = scores[order], np.asarray(same, bool)[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    genuine_seen, impostor_seen = np.cumsum(is_genuine), np.cumsum(~is_genuine)
    genuine_end, impostor_end = genuine_seen[ends], impostor_seen[ends]
    group = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))[is_genuine]
    before = np.append(0, impostor_end)
    return Ranking(
        ordered[ends],
        genuine_end,
        impostor_end,
        order[is_genuine],
        order[~is_genuine],
        before[group],
        impostor_end[group],
    )


@dataclass(frozen=True)
class Measures:
    """What one weighting of the pairs gives.

    Attributes:
        auc: area under the ROC, 0 to 1; ties count half.
        eer: equal error rate, 0 to 1, on the straight line between two points of the ROC.
        tar: (F,) TAR at the largest FAR that does not exceed each of the F asked for.
        point: (F,) which of the K thresholds that is, −1 for above all scores.
        eer_point: the first of the K thresholds whose FAR reaches its false reject rate.
    """

    auc: float
    eer: float
    tar: NDArray[np.float64]
    point: NDArray[np.int64]
    eer_point: int


def measure(
    ranking: Ranking,
    fars: tuple[float, ...] = FARS,
    genuine_weights: Weights = None,
    impostor_weights: Weights = None,
) -> Measures:
    """AUC, EER and TAR at every FAR.

    Args:
        fars: false accept rates, 0 to 1.
        genuine_weights: (G,) whole numbers in the order of `ranking.genuine`; None = 1 each.
        impostor_weights: (I,) likewise.

    Returns:
        The measures; NaN when all weights of one kind are 0.
    """
    genuine = running_sums(genuine_weights, len(ranking.genuine))
    impostor = running_sums(impostor_weights, len(ranking.impostor))
    total_genuine, total_impostor = int(genuine[-1]), int(impostor[-1])
    if not total_genuine or not total_impostor:
        nothing = np.full(len(fars), np.nan)
        return Measures(np.nan, np.nan, nothing, np.full(len(fars), -1), 0)
    # A genuine pair is above all impostors below it and half of those level with it.
    beaten = total_impostor - (impostor[ranking.above] / 2.0 + impostor[ranking.level] / 2.0)
    weights = np.diff(genuine)
    auc = float(np.dot(weights, beaten)) / (total_genuine * total_impostor)
    # Whole numbers: far · total could fall below a count that equals it, by rounding.
    allowed = np.floor(np.array(fars) * total_impostor * (1 + 1e-12)).astype(np.int64)
    reach = np.searchsorted(impostor, allowed, side="right") - 1
    point = np.searchsorted(ranking.impostor_end, reach, side="right") - 1
    accepted = np.where(point >= 0, genuine[ranking.genuine_end[np.maximum(point, 0)]], 0)
    eer, eer_point = _equal_error(ranking, genuine, impostor)
    return Measures(auc, eer, accepted / total_genuine, point, eer_point)


def best_accuracy(ranking: Ranking) -> float:
    """Share of pairs judged right, 0 to 1, at the threshold that suits these very pairs best.

    A little optimistic, since it is chosen on them: `folds` has the accuracy that is not.
    """
    genuine, impostors = len(ranking.genuine), len(ranking.impostor)
    right = ranking.genuine_end + impostors - ranking.impostor_end
    return int(max(right.max(), impostors)) / (genuine + impostors)


def running_sums(weights: Weights, count: int) -> NDArray[np.integer]:
    """(count + 1,) running sums from 0."""
    if weights is None:
        return np.arange(count + 1)
    # Half the bytes where they suffice: a bootstrap spends its time here.
    fits = int(weights.sum(dtype=np.int64)) < np.iinfo(np.int32).max
    sums: NDArray[np.integer] = np.zeros(count + 1, np.int32 if fits else np.int64)
    np.cumsum(weights, out=sums[1:])
    return sums


def _equal_error(
    ranking: Ranking, genuine: NDArray[np.integer], impostor: NDArray[np.integer]
) -> tuple[float, int]:
    def rates(point: int) -> tuple[float, float]:
        """FAR and false reject rate at a threshold; −1 lies above all scores."""
        if point < 0:
            return 0.0, 1.0
        accepted = impostor[ranking.impostor_end[point]] / impostor[-1]
        return float(accepted), 1.0 - float(genuine[ranking.genuine_end[point]] / genuine[-1])

    low, high = -1, len(ranking.threshold) - 1  # FAR < FRR at low, FAR ≥ FRR at high
    while high - low > 1:
        middle = (low + high) // 2
        far, frr = rates(middle)
        low, high = (low, middle) if far >= frr else (middle, high)
    (far_low, frr_low), (far_high, frr_high) = rates(low), rates(high)
    gap_low, gap_high = frr_low - far_low, far_high - frr_high
    share = gap_low / (gap_low + gap_high)
    return far_low + share * (far_high - far_low), high


@dataclass(frozen=True)
class Cell:
    """TAR at one FAR, as a table prints it.

    Attributes:
        tar: 0 to 1, None when refused.
        threshold: accept from this score on; None when refused.
        false_accepts: impostor pairs accepted there; None when refused.
        refused: why there is no figure, or None.
    """

    far: float
    tar: float | None
    threshold: float | None
    false_accepts: int | None
    impostors: int
    refused: str | None


def tar_cells(
    ranking: Ranking, fars: tuple[float, ...] = FARS, first: NDArray[np.bool_] | None = None
) -> list[Cell]:
    """TAR and threshold at each FAR; refused where fewer than 10 false accepts are expected.

    Args:
        fars: false accept rates, 0 to 1.
        first: (N,) whether no earlier pair compares the same two; only such pairs count as
            expected. None = all do.
    """
    found = measure(ranking, fars)
    impostors = len(ranking.impostor)
    distinct = impostors if first is None else int(first[ranking.impostor].sum())
    cells = []
    for far, tar, point in zip(fars, found.tar.tolist(), found.point.tolist(), strict=True):
        if far * distinct * (1 + 1e-12) < LEAST_FALSE_ACCEPTS:
            needed = round(LEAST_FALSE_ACCEPTS / far)
            reason = f"needs {needed:,} impostor pairs, found {distinct:,}"
            if distinct < impostors:
                reason += " different ones"
            cells.append(Cell(far, None, None, None, impostors, reason))
            continue
        accepts = int(ranking.impostor_end[point]) if point >= 0 else 0
        cells.append(Cell(far, tar, threshold_at(ranking, point), accepts, impostors, None))
    return cells


def refused_cells(impostors: int, reason: str) -> list[Cell]:
    """The cells of a list that has no ROC."""
    return [Cell(far, None, None, None, impostors, reason) for far in FARS]


def threshold_at(ranking: Ranking, point: int) -> float:
    """The score to accept from; just above the highest one where nothing may be accepted."""
    if point >= 0:
        return float(ranking.threshold[point])
    return float(np.nextafter(ranking.threshold[0], np.inf))


def curve(ranking: Ranking, points: int = 2000) -> Curve:
    """FAR and TAR to draw, (M,) each from (0, 0) to (1, 1).

    Of a long ROC the first point of each of the `points` FARs that are evenly spaced in log x
    and in x are kept, which no figure can tell from all of them.
    """
    false = np.append(0, ranking.impostor_end)
    true = np.append(0, ranking.genuine_end)
    if len(false) > 2 * points:
        total = false[-1]
        spaced = np.concatenate([np.geomspace(1, total, points), np.linspace(0, total, points)])
        at = np.searchsorted(false, np.unique(spaced.astype(np.int64)), side="left")
        last = np.searchsorted(false, np.unique(spaced.astype(np.int64)), side="right") - 1
        keep = np.unique(np.concatenate([[0], at, last, [len(false) - 1]]).clip(0, len(false) - 1))
        false, true = false[keep], true[keep]
    return false / false[-1], true / true[-1]
