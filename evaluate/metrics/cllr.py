"""The cost of log-likelihood ratios, and the least that any monotone calibration could reach.

Brümmer and du Preez, "Application-independent evaluation of speaker detection" (2006): Cllr is the
mean over all decision thresholds of what wrong odds cost, in bits; 0 is perfect, 1 tells nothing,
and above 1 a system misleads. minCllr is Cllr after the best monotone map of these very scores,
found by pooling adjacent violators; what Cllr is above it a better calibration could save.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.metrics.roc import Weights

Floats = NDArray[np.floating]


def cllr(llr: Floats, same: NDArray[np.bool_], weights: Weights = None) -> float:
    """Cllr in bits; NaN when all weights of one kind are 0.

    Args:
        llr: (N,) natural logarithms of likelihood ratios.
        same: (N,) pairs of one identity.
        weights: (N,) of the pairs; None = 1 each.
    """
    cost = np.logaddexp(0.0, np.where(same, -llr, llr)) / np.log(2)
    weigh = np.ones(len(cost)) if weights is None else weights.astype(np.float64)
    kinds = [weigh * same, weigh * ~same]
    if not all(kind.any() for kind in kinds):
        return np.nan
    return float(sum(kind @ cost / kind.sum() for kind in kinds) / 2)


def min_cllr(score: Floats, same: NDArray[np.bool_]) -> float:
    """minCllr in bits. It is fitted to these very pairs, so few of them make it too small.

    Args:
        score: (N,) higher = more alike, in any unit.
        same: (N,) pairs of one identity, and of two.
    """
    from scipy.optimize import isotonic_regression
    from scipy.special import xlogy

    _, place = np.unique(score, return_inverse=True)
    genuine, impostor = (np.bincount(place, kind) / kind.sum() for kind in (same, ~same))
    total = genuine + impostor
    chance = isotonic_regression(genuine / total, weights=total).x
    cost = xlogy(genuine, chance) + xlogy(impostor, 1.0 - chance)
    return float(-cost.sum() / 2 / np.log(2))
