from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from faceguide.core.errors import EvaluationError
from faceguide.evaluate.metrics.folds import assign_folds, exact_accuracy, published_accuracy


def published(cosine: np.ndarray, same: np.ndarray, folds: int) -> np.ndarray:
    """The field's procedure, step by step: squared distances, 400 thresholds, first maximum."""
    distance = 2 - 2 * cosine.astype(np.float64)
    thresholds = np.arange(0, 4, 0.01)
    accuracies = []
    for train, test in KFold(n_splits=folds, shuffle=False).split(np.arange(len(same))):
        right = [np.mean((distance[train] < t) == same[train]) for t in thresholds]
        chosen = thresholds[np.argmax(right)]
        accuracies.append(np.mean((distance[test] < chosen) == same[test]))
    return np.array(accuracies)


def score_file(seed: int, pairs: int = 6000) -> tuple[np.ndarray, np.ndarray]:
    """Scores in LFW's order: ten times 300 genuine pairs, then 300 impostors."""
    rng = np.random.default_rng(seed)
    same = np.tile(np.repeat([True, False], pairs // 20), 10)
    return np.clip(rng.normal(0.05, 0.12, pairs) + 0.5 * same, -1, 1), same


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_published_procedure_on_a_score_file(seed: int) -> None:
    cosine, same = score_file(seed)
    fold, how = assign_folds(same)
    assert how == "runs"
    expected = published(cosine, same, 10)
    found = published_accuracy(cosine, same, fold)
    np.testing.assert_array_equal(found.accuracy, expected)
    assert found.mean == expected.mean()
    assert found.std == np.std(expected)


def test_equals_the_published_procedure_on_real_cosines(shared: Path) -> None:
    data = np.load(shared / "parity" / "mobilefacenet_lfw112_dev.npz")
    cosine, same = data["cosine"], data["same"].astype(bool)
    found = published_accuracy(cosine, same, np.repeat([0, 1], 600))
    np.testing.assert_array_equal(found.accuracy, published(cosine, same, 2))
    exact = exact_accuracy(cosine, same, np.repeat([0, 1], 600))
    assert exact.mean == pytest.approx(0.99333, abs=1e-4)


def test_each_fold_is_judged_by_the_others() -> None:
    # In fold 1 everything is shifted: its own best threshold would be 10.5, fold 0 says 0.5.
    scores = np.array([0.0, 1.0, 10.0, 11.0])
    same = np.array([False, True, False, True])
    fold = np.array([0, 0, 1, 1])
    found = exact_accuracy(scores, same, fold)
    np.testing.assert_array_equal(found.threshold, [11.0, 1.0])
    np.testing.assert_array_equal(found.correct, [True, False, False, True])
    np.testing.assert_array_equal(found.accuracy, [0.5, 0.5])


def test_of_equally_good_thresholds_the_strictest_is_taken() -> None:
    scores = np.array([3.0, 2.0, 1.0, 3.0, 0.0])
    same = np.array([True, False, True, True, False])
    fold = np.array([0, 0, 0, 1, 1])
    # Training on fold 0: 3.0 accepts one genuine pair; 1.0 accepts both and the impostor.
    assert exact_accuracy(scores, same, fold).threshold[1] == 3.0


def test_nothing_is_accepted_where_that_is_best() -> None:
    scores = np.array([2.0, 1.0, 2.0, 1.0])
    same = np.array([False, True, False, True])
    found = exact_accuracy(scores, same, np.array([0, 0, 1, 1]))
    assert (found.threshold > 2.0).all()
    assert found.mean == 0.5


@given(
    st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=20, max_size=60),
    st.sampled_from([np.exp, np.arctan, lambda x: 3 * x - 1]),
)
def test_monotone_transforms_change_nothing(pairs, transform) -> None:
    scores, same = (np.array(values) for values in zip(*pairs, strict=True))
    fold = np.arange(len(same)) % 4
    before = exact_accuracy(scores.astype(float), same, fold)
    after = exact_accuracy(transform(scores.astype(float)), same, fold)
    np.testing.assert_array_equal(before.correct, after.correct)


@given(st.integers(0, 2**31), st.integers(30, 80))
def test_exact_thresholds_are_the_best_on_the_other_folds(seed: int, pairs: int) -> None:
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < 0.5
    scores, fold = np.round(rng.normal(size=pairs) + same, 1), np.arange(pairs) % 3
    found = exact_accuracy(scores, same, fold)
    for name, threshold in zip(found.fold, found.threshold, strict=True):
        training = fold != name
        right = np.mean((scores[training] >= threshold) == same[training])
        candidates = np.append(scores[training], np.inf)
        best = max(np.mean((scores[training] >= t) == same[training]) for t in candidates)
        assert right == best


def test_a_list_of_one_kind_after_the_other_is_cut_by_kind() -> None:
    same = np.repeat([True, False], 50)
    fold, how = assign_folds(same)
    assert how == "runs of each kind"
    for kind in (True, False):
        np.testing.assert_array_equal(np.bincount(fold[same == kind]), np.full(10, 5))


def test_a_list_that_begins_with_most_of_one_kind_is_cut_by_kind() -> None:
    same = np.concatenate([np.repeat([True], 80), np.tile([False] * 9 + [True], 40)])
    fold, how = assign_folds(same)
    assert how == "runs of each kind"
    np.testing.assert_array_equal(np.bincount(fold[same]), np.full(10, 12))


def test_runs_are_those_of_the_published_split() -> None:
    same = np.arange(67) % 2 == 0
    fold, _ = assign_folds(same)
    for number, (_, test) in enumerate(KFold(10).split(np.arange(67))):
        np.testing.assert_array_equal(np.flatnonzero(fold == number), test)


def test_faults() -> None:
    with pytest.raises(EvaluationError, match=r"10 pairs .*found 5"):
        assign_folds(np.repeat([True, False], [5, 50]))
    with pytest.raises(EvaluationError, match="two folds"):
        exact_accuracy(np.zeros(4), np.array([True, False] * 2), np.zeros(4, int))
