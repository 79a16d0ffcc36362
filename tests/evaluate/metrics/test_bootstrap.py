from __future__ import annotations

import numpy as np
import pytest

from faceguide.evaluate.metrics.bootstrap import (
    PairWeights,
    RocStatistic,
    draw_counts,
    interval,
    replicate,
    verification_intervals,
)
from faceguide.evaluate.metrics.folds import assign_folds, exact_accuracy
from faceguide.evaluate.metrics.paired_tests import compare_all, holm, mcnemar
from faceguide.evaluate.metrics.roc import measure, rank


def test_a_pair_counts_as_often_as_its_persons_together() -> None:
    counts = np.array([2, 3, 0], np.int32)
    clusters = np.array([[0, 0], [0, 1], [1, 1], [1, 2], [2, 2]])
    np.testing.assert_array_equal(PairWeights(clusters)(counts), [2, 6, 3, 0, 0])
    genuine_only = PairWeights(clusters[[0, 2]])
    np.testing.assert_array_equal(genuine_only(counts), [2, 3])


def test_draws_follow_from_the_seed_and_keep_their_sum() -> None:
    first = draw_counts(50, 7, 3)
    np.testing.assert_array_equal(first, draw_counts(50, 7, 3))
    assert first.sum() == 50
    assert (first != draw_counts(50, 7, 4)).any()
    assert (first != draw_counts(50, 8, 3)).any()


def faces(people: int, each: int, spread: float, seed: int = 0):
    """All pairs of images; each identity has a difficulty of its own that all its pairs share."""
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), each)
    a, b = np.triu_indices(len(person), 1)
    same = person[a] == person[b]
    keep = same | (rng.random(len(a)) < 0.02)
    a, b, same = a[keep], b[keep], same[keep]
    trouble = rng.normal(0, spread, people)
    scores = rng.normal(size=len(a)) + 2.5 * same - trouble[person[a]] * same
    return scores, same, np.stack([person[a], person[b]], 1)


def test_intervals_hold_the_figure_and_widen_with_shared_persons() -> None:
    effects = []
    for spread in (0.0, 2.0):
        scores, same, people = faces(40, 6, spread)
        ranking = rank(scores, same)
        fold, _ = assign_folds(same)
        correct = exact_accuracy(scores, same, fold).correct
        found = verification_intervals(ranking, people, correct, 400, 0)
        whole = measure(ranking)
        for name, value in (("auc", whole.auc), ("eer", whole.eer), ("accuracy", correct.mean())):
            low, high = found[name]
            assert low < value < high, name
        effects.append(found["design_effect"])
    assert effects[1] > 2 * effects[0]


def test_counts_of_one_give_the_plain_figures() -> None:
    scores, same, people = faces(20, 4, 1.0)
    ranking = rank(scores, same)
    correct = scores > 1.0
    statistic = RocStatistic(ranking, people, correct)
    whole = measure(ranking)
    np.testing.assert_allclose(
        statistic(np.ones(20, np.int32)), [whole.auc, whole.eer, correct.mean(), *whole.tar]
    )


def test_coverage_of_the_auc_interval() -> None:
    """Of 60 data sets, about 95 % of the intervals hold the true AUC: at least 50 must."""
    truth = None
    hits = 0
    big, same_big, _ = faces(600, 4, 1.0, seed=10_000)
    truth = measure(rank(big, same_big)).auc
    for seed in range(60):
        scores, same, people = faces(40, 4, 1.0, seed=seed)
        statistic = RocStatistic(rank(scores, same), people, same)
        low, high = interval(replicate(statistic, 40, 200, seed)[:, 0])
        hits += low <= truth <= high
    assert hits >= 50


def test_no_interval_where_replicates_have_no_value() -> None:
    assert interval(np.array([np.nan, np.nan, 1.0])) is None
    assert interval(np.empty(0)) is None


def test_mcnemar_by_hand() -> None:
    first = np.array([True] * 8 + [False] * 2 + [True] * 5)
    second = np.array([False] * 8 + [True] * 2 + [True] * 5)
    # 8 against 2 of 10 fair coins: 2 · (1 + 10 + 45) / 1024.
    assert mcnemar(first, second) == (8, 2, pytest.approx(112 / 1024))
    assert mcnemar(first, first) == (0, 0, 1.0)


def test_holm_by_hand() -> None:
    # Sorted 0.01 · 3, 0.02 · 2, 0.04 · 1; each at least the one before.
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_a_better_model_is_found_better_and_an_equal_one_is_not() -> None:
    scores, same, people = faces(40, 5, 0.5)
    rng = np.random.default_rng(3)
    models = {
        "good": scores + 2 * same,
        "bad": scores + rng.normal(0, 1.5, len(scores)),
        "good again": scores + 2 * same,
    }
    fold, _ = assign_folds(same)
    correct = [exact_accuracy(s, same, fold).correct for s in models.values()]
    statistics = [
        RocStatistic(rank(s, same), people, right)
        for s, right in zip(models.values(), correct, strict=True)
    ]
    tests = compare_all(list(models), statistics, correct, 40, 300, 0)
    named = {(test["first"], test["second"]): test for test in tests}
    better = named["good", "bad"]
    assert better["p_holm"] < 1e-6
    assert better["only_first_right"] > better["only_second_right"]
    assert better["figures"]["auc"]["interval"][0] > 0
    equal = named["good", "good again"]
    assert equal["p"] == equal["p_holm"] == 1.0
    assert equal["figures"]["auc"] == {"difference": 0.0, "interval": [0.0, 0.0]}
