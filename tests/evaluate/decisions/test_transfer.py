"""Thresholds of one list on another: equal to what is counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from faceguide.evaluate.decisions.set_figures import set_figures
from faceguide.evaluate.decisions.transfer import RankedPairs, rates, thresholds, transfer
from faceguide.evaluate.metrics.cllr import cllr, min_cllr
from faceguide.evaluate.metrics.roc import rank


def test_thresholds_and_rates_by_hand() -> None:
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    same = np.array([1, 1, 0, 1, 1, 0, 0, 0], bool)
    ranking = rank(score, same)
    # From 0.5 on 7 of 8 are right; at 0.6 one in four of either kind is wrong; FMR 1/4 lets one in.
    found = thresholds(ranking, (0.25, 0.5))
    assert found.tolist() == [0.5, 0.6, 0.5, 0.4]
    expected = [[0.25, 0.0, 7 / 8], [0.0, 0.5, 6 / 8], [0.0, 1.0, 0.5], [1.0, 0.0, 0.5]]
    at = np.array([0.45, 0.75, 2.0, 0.0])
    np.testing.assert_allclose(rates(ranking, at), expected)
    # A weight of 3 on the impostor of 0.7: from 0.8 on, 2 + 6 of 10 are right; from 0.5 on 4 + 3.
    genuine, impostor = np.ones(4, int), np.array([3, 1, 1, 1])
    assert thresholds(ranking, (), genuine, impostor)[0] == 0.8
    assert rates(ranking, np.array([0.6]), genuine, impostor)[0].tolist() == [0.5, 0.25, 0.6]
    backwards = rank(-score, same)
    assert thresholds(backwards, ())[0] > -0.2  # nothing is accepted


def faces(people: int, each: int, shift: float, seed: int):
    """Pairs whose scores are all lower by `shift`."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), each)
    a, b = np.triu_indices(len(person), 1)
    same = person[a] == person[b]
    score = rng.normal(size=len(a)) + 3.0 * same - shift
    return score, same, np.stack([person[a], person[b]], 1)


def test_a_shift_of_the_scores_is_the_gap_and_costs_odds() -> None:
    lists = [faces(30, 4, 0.0, 0), faces(30, 4, 1.0, 1)]
    dev, test = (RankedPairs(rank(score, same), people) for score, same, people in lists)
    rules = {rule["at"]: rule for rule in transfer(dev, test, 100, 0)}
    # 6,960 impostors: an FMR of 1e-3 expects fewer than ten of them.
    assert list(rules) == ["best accuracy", "equal error rate", "FMR 1e-2", "FMR 1e-1"]
    rule = rules["FMR 1e-2"]
    assert rule["dev"]["fmr"] <= 0.01 < rule["dev"]["fmr"] + 2e-4
    score, same, _ = lists[1]
    accepted = score >= rule["threshold"]
    assert rule["test"]["fmr"] == pytest.approx(accepted[~same].mean())
    assert rule["test"]["fnmr"] == pytest.approx(1 - accepted[same].mean())
    assert rule["test"]["accuracy"] == pytest.approx((accepted == same).mean())
    own = score >= rule["own_threshold"]
    assert rule["gap"]["fnmr"] == pytest.approx(own[same].mean() - accepted[same].mean())
    for name in ("fmr", "fnmr", "accuracy"):
        low, high = rule["test_intervals"][name]
        assert low <= rule["test"][name] <= high
    low, high = rule["gap_intervals"]["fnmr"]
    assert 0 < low < rule["gap"]["fnmr"] < high
    assert rules["best accuracy"]["gap"]["accuracy"] < 0

    llr = [3.0 * score - 4.5 for score, _, _ in lists]  # exact odds of unit normals 3 apart
    found = [
        set_figures(pairs, odds, same, 100, 0)
        for pairs, odds, (_, same, _) in zip((dev, test), llr, lists, strict=True)
    ]
    for record, odds, (score, same, _) in zip(found, llr, lists, strict=True):
        assert record["cllr"] == pytest.approx(cllr(odds, same))
        assert record["min_cllr"] == pytest.approx(min_cllr(score, same))
        assert record["fmr1000"] is None
        for name in ("eer", "fmr100", "cllr"):
            low, high = record["intervals"][name]
            assert low <= record[name] <= high
    lost = [record["cllr"] - record["min_cllr"] for record in found]
    assert 0 <= lost[0] < 0.05 < 0.2 < lost[1]
    assert found[0]["fmr100"] == pytest.approx(rules["FMR 1e-2"]["dev"]["fnmr"])


def test_where_the_test_has_few_impostors_only_its_own_threshold_is_refused() -> None:
    score, same, people = faces(30, 4, 0.0, 0)
    dev = RankedPairs(rank(score, same), people)
    few = np.flatnonzero(same | (np.arange(len(same)) % 20 == 0))
    test = RankedPairs(rank(score[few] + 9 * same[few], same[few]), people[few])
    rule = {rule["at"]: rule for rule in transfer(dev, test, 50, 0)}["FMR 1e-2"]
    assert (rule["own_threshold"], rule["gap"], rule["gap_intervals"]) == (None, None, None)
    assert rule["test"]["fnmr"] == 0
    # No error: as many independent trials as there are identities.
    assert rule["test_intervals"]["fnmr"] == [0, pytest.approx(1 - 0.025 ** (1 / 30))]
