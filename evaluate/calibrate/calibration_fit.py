"""The fit of a calibration: logistic regression, or isotonic regression of the score by itself.

Pairs of one identity and pairs of two weigh the same in all, so that the fitted odds are those at
even priors: likelihood ratios.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize
from scipy.special import expit, logit

from faceguide.core.errors import EvaluationError
from faceguide.evaluate.metrics.cllr import cllr
from faceguide.evaluate.metrics.roc import measure, rank, tar_cells
from faceguide.train.models.matchers.calibration import (
    BY_POWER,
    FEATURES,
    NOTHING,
    ScoreCurve,
    by_power,
)

Floats = NDArray[np.floating]
Method = Literal["visibility", "platt", "isotonic"]
FARS = (1e-2, 1e-3)
# Times the squares of the coefficients of features of deviation 1. On 18 of them it holds what few
# identities cannot; on a line it must not bend the odds, and only bounds what is separated wholly.
_RIDGE, _RIDGE_OF_LINE = 1e-4, 1e-8


def pair_weights(same: NDArray[np.bool_], person: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N,) weights, together ½ for genuine pairs and ½ for impostors.

    A genuine pair counts 1 / √(pairs of its identity), or a few identities with many images would
    say what all faces are like.

    Args:
        person: (N,) identity of the probe.
    """
    weights = np.ones(len(same))
    counts = np.bincount(person[same], minlength=int(person.max()) + 1)
    weights[same] = 1.0 / np.sqrt(counts[person[same]])
    for kind in (same, ~same):
        weights[kind] *= 0.5 / weights[kind].sum()
    return weights


def fit_visibility(
    scores: Floats, common: Floats, same: NDArray[np.bool_], weights: Floats
) -> NDArray[np.float64]:
    """The 18 coefficients of a `VisibilityCalibration`.

    Args:
        scores: (N,) of the visible embedding.
        common: (N, 6) of `seen_in_common`.
        same: (N,) pairs of one identity.
        weights: (N,) of `pair_weights`.
    """
    s = scores.astype(np.float64)[:, None]
    parts = by_power(torch.from_numpy(common.astype(np.float64)))
    level, slope, bend = (part.numpy() for part in parts)
    features = np.empty((len(s), len(FEATURES)))
    features[:, list(BY_POWER)] = np.hstack([level, slope * s, bend * s**2])
    # Nothing in common says nothing: there the sum is 0, 1 and l being the only features.
    free = features[:, 1:]
    free[:, 1] -= NOTHING
    found = _logistic(free, same, weights, _RIDGE)
    return np.concatenate([[-NOTHING * found[1]], found])


def fit_curve(
    scores: Floats, same: NDArray[np.bool_], weights: Floats, method: Method
) -> ScoreCurve:
    """The curve of `platt` (a line) or of `isotonic`.

    Raises:
        EvaluationError: when higher scores are not more often of one identity.
    """
    scores = scores.astype(np.float64)
    if method == "platt":
        line = np.stack([np.ones(len(scores)), scores], 1)
        bias, slope = _logistic(line, same, weights, _RIDGE_OF_LINE)
        knots, llr = np.array([-1.0, 1.0]), np.array([bias - slope, bias + slope])
        rises = slope > 0
    else:
        knots, llr = _isotonic(scores, same, weights)
        rises = len(knots) > 1
    if not rises:
        raise EvaluationError(
            "higher scores are not more often of one identity here, so nothing can be calibrated; "
            "are the weights and the labels the right ones?"
        )
    return ScoreCurve(*(torch.from_numpy(part).float() for part in (knots, llr)))


def _isotonic(
    scores: NDArray[np.float64], same: NDArray[np.bool_], weights: Floats
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Knots and log-likelihood ratios: pooled adjacent violators, each block at its mean score.

    One more genuine pair below all and one more impostor above all keep the ratios finite
    (Laplace's rule of succession).
    """
    order = np.argsort(scores, kind="stable")
    s = np.concatenate([scores[order[:1]], scores[order], scores[order[-1:]]])
    y = np.concatenate([[1.0], same[order], [0.0]])
    w = np.concatenate([[weights[same].mean()], weights[order], [weights[~same].mean()]])
    # Equal scores are one: their pairs cannot be told apart.
    distinct, place = np.unique(s, return_inverse=True)
    total = np.bincount(place, w)
    found = isotonic_regression(np.bincount(place, w * y) / total, weights=total)
    block = np.repeat(np.arange(len(found.blocks) - 1), np.diff(found.blocks))
    of_block = np.bincount(block, total)
    return np.bincount(block, total * distinct) / of_block, logit(found.x[found.blocks[:-1]])


def _logistic(
    features: NDArray[np.float64], same: NDArray[np.bool_], weights: Floats, ridge: float
) -> NDArray[np.float64]:
    """Coefficients of a weighted logistic regression, by Newton's method."""
    scale = features.std(0)
    scale[scale == 0] = 1.0
    x, sign = features / scale, np.where(same, 1.0, -1.0)

    def loss(beta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = sign * (x @ beta)
        value = weights @ np.logaddexp(0.0, -margin) + ridge * beta @ beta
        return float(value), -x.T @ (weights * sign * expit(-margin)) + 2 * ridge * beta

    def curvature(beta: NDArray[np.float64]) -> NDArray[np.float64]:
        chance = expit(x @ beta)
        return (x * (weights * chance * (1 - chance))[:, None]).T @ x + 2 * ridge * np.eye(
            len(beta)
        )

    start = np.zeros(x.shape[1])
    found = minimize(loss, start, jac=True, hess=curvature, method="trust-exact")
    coefficients: NDArray[np.float64] = found.x / scale
    return coefficients


def figures(llr: Floats, same: NDArray[np.bool_], *, calibrated: bool) -> dict[str, float | None]:
    """AUC, TAR and, of log-likelihood ratios, Cllr in bits: 0 is perfect, 1 tells nothing."""
    ranking = rank(llr, same)
    found: dict[str, float | None] = {"auc": measure(ranking, FARS).auc}
    for cell in tar_cells(ranking, FARS):
        found[f"tar_{cell.far:.0e}".replace("e-0", "e-")] = cell.tar
    if calibrated:
        found["cllr"] = cllr(llr, same)
    return found
