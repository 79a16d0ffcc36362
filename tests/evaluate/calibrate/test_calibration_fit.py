"""Fits on scores whose likelihood ratios are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import norm

from faceguide.core.errors import EvaluationError
from faceguide.evaluate.calibrate.calibration_fit import (
    figures,
    fit_curve,
    fit_visibility,
    pair_weights,
)
from faceguide.train.models.matchers.calibration import VisibilityCalibration


def drawn(count: int = 40_000, deviation: float | np.ndarray = 0.1, seed: int = 0):
    """Scores of normal distributions around 0.5 and 0, of one width, and the kind of each pair."""
    rng = np.random.default_rng(seed)
    same = rng.random(count) < 0.2
    return np.where(same, 0.5, 0.0) + deviation * rng.normal(size=count), same


def evenly(same: np.ndarray) -> np.ndarray:
    return pair_weights(same, np.arange(len(same)))


@pytest.mark.parametrize(("method", "error"), [("platt", 0.2), ("isotonic", 0.4)])
def test_curves_find_the_likelihood_ratio(method, error: float) -> None:
    scores, same = drawn()
    curve = fit_curve(scores, same, evenly(same), method)
    s = np.linspace(0.1, 0.4, 50)  # where both kinds are frequent enough
    true = norm.logpdf(s, 0.5, 0.1) - norm.logpdf(s, 0, 0.1)
    found = curve(torch.from_numpy(s).float()).numpy()
    assert np.abs(found - true).max() < error * np.abs(true).max()
    assert bool((curve.llr.diff() >= 0).all())
    assert bool(curve.llr.isfinite().all())


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_scores_the_wrong_way_round_are_refused(method) -> None:
    scores, same = drawn(2_000)
    with pytest.raises(EvaluationError, match="not more often of one identity"):
        fit_curve(-scores, same, evenly(same), method)


def test_what_little_shows_is_believed_less() -> None:
    """The less two faces show in common, the wider their scores are strewn."""
    share = np.random.default_rng(1).choice([0.1, 0.4, 1.0], 60_000)
    deviation = 0.12 / np.sqrt(share)
    scores, same = drawn(60_000, deviation)
    common = np.repeat(share[:, None], 6, 1)
    beta = fit_visibility(scores.astype(np.float32), common, same, evenly(same))
    rule = VisibilityCalibration(torch.from_numpy(beta), torch.zeros(1, 7, 7))
    llr = rule(torch.from_numpy(scores), torch.from_numpy(common)).numpy()
    truth = norm.logpdf(scores, 0.5, deviation) - norm.logpdf(scores, 0, deviation)
    fitted, ideal = (figures(one, same, calibrated=True) for one in (llr, truth))
    plain = figures(scores, same, calibrated=False)
    assert fitted["cllr"] < ideal["cllr"] + 0.005  # type: ignore[operator]
    assert fitted["tar_1e-3"] > ideal["tar_1e-3"] - 0.01  # type: ignore[operator]
    assert fitted["tar_1e-3"] > 1.5 * plain["tar_1e-3"]  # type: ignore[operator]
    nothing = rule(torch.zeros(1).double(), torch.full((1, 6), 1e-9).double())
    assert abs(float(nothing)) < 0.1


def test_both_kinds_weigh_the_same_and_an_identity_as_the_root_of_its_pairs() -> None:
    same = np.array([True, True, True, True, True, False, False])
    person = np.array([0, 0, 0, 0, 1, 0, 1])
    weights = pair_weights(same, person)
    assert weights[same].sum() == pytest.approx(0.5)
    assert weights[~same].sum() == pytest.approx(0.5)
    assert weights[:4].sum() == pytest.approx(2 * weights[4])
