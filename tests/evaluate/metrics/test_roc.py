from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from faceguide.core.errors import EvaluationError
from faceguide.evaluate.metrics.roc import (
    FARS,
    best_accuracy,
    curve,
    far_name,
    measure,
    rank,
    tar_cells,
    threshold_at,
)

FEW = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)

# Few distinct scores, so that ties within and across the two kinds are the rule.
scored = st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=60).filter(
    lambda pairs: len({same for _, same in pairs}) == 2
)


def split(pairs) -> tuple[np.ndarray, np.ndarray]:
    scores, same = zip(*pairs, strict=True)
    return np.array(scores, float) / 4, np.array(same)


@given(scored)
def test_equals_scikit_learn_on_ties_and_tiny_sets(pairs) -> None:
    scores, same = split(pairs)
    ranking = rank(scores, same)
    far, tar, thresholds = roc_curve(same, scores, drop_intermediate=False)
    np.testing.assert_allclose(ranking.impostor_end / (~same).sum(), far[1:])
    np.testing.assert_allclose(ranking.genuine_end / same.sum(), tar[1:])
    np.testing.assert_array_equal(ranking.threshold, thresholds[1:])
    found = measure(ranking, FEW)
    assert found.auc == pytest.approx(roc_auc_score(same, scores))
    for target, value in zip(FEW, found.tar, strict=True):
        assert value == tar[far <= target + 1e-12].max()


def test_best_accuracy_by_hand() -> None:
    scores, same = np.array([0.9, 0.6, 0.6, 0.1]), np.array([True, True, False, False])
    assert best_accuracy(rank(scores, same)) == 3 / 4
    assert best_accuracy(rank(scores, ~same)) == 1 / 2  # refuse all: nothing accepted is right
    assert measure(rank(scores, same)).auc == 3.5 / 4


@given(scored)
def test_equal_error_rate_lies_on_the_straight_line_between_two_points(pairs) -> None:
    scores, same = split(pairs)
    far, tar, _ = roc_curve(same, scores, drop_intermediate=False)
    found = measure(rank(scores, same)).eer
    # Where the piecewise linear false reject rate meets FAR, by bisection along the curve.
    place = np.arange(len(far), dtype=float)
    low, high = 0.0, float(len(far) - 1)
    for _ in range(80):
        middle = (low + high) / 2
        if np.interp(middle, place, far) < 1 - np.interp(middle, place, tar):
            low = middle
        else:
            high = middle
    assert found == pytest.approx(float(np.interp(high, place, far)), abs=1e-9)


@given(
    scored, st.floats(-3, 3), st.sampled_from([np.exp, np.arctan, lambda x: x**3, lambda x: 7 * x])
)
def test_shift_and_monotone_transform_change_nothing(pairs, shift, transform) -> None:
    scores, same = split(pairs)
    before, after = (measure(rank(s, same), FEW) for s in (scores, transform(scores + shift)))
    assert before.auc == after.auc
    assert before.eer == after.eer
    np.testing.assert_array_equal(before.tar, after.tar)


@given(scored, st.randoms())
def test_the_order_of_the_file_changes_nothing(pairs, random) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)
    before, after = (measure(rank(*split(p)), FEW) for p in (pairs, shuffled))
    assert (before.auc, before.eer) == (after.auc, after.eer)
    np.testing.assert_array_equal(before.tar, after.tar)


@given(scored, st.data())
def test_a_weight_of_n_is_the_pair_n_times(pairs, data) -> None:
    scores, same = split(pairs)
    weights = np.array(
        data.draw(st.lists(st.integers(0, 3), min_size=len(same), max_size=len(same)))
    )
    ranking = rank(scores, same)
    found = measure(ranking, FEW, weights[ranking.genuine], weights[ranking.impostor])
    repeated, kinds = np.repeat(scores, weights), np.repeat(same, weights)
    if kinds.all() or not kinds.any():
        assert np.isnan(found.auc)
        assert np.isnan(found.tar).all()
        return
    expected = measure(rank(repeated, kinds), FEW)
    assert found.auc == pytest.approx(expected.auc)
    assert found.eer == pytest.approx(expected.eer)
    np.testing.assert_allclose(found.tar, expected.tar)


@given(scored)
def test_each_threshold_gives_the_rates_it_stands_for(pairs) -> None:
    scores, same = split(pairs)
    ranking = rank(scores, same)
    found = measure(ranking, FEW)
    for target, tar, point in zip(FEW, found.tar, found.point, strict=True):
        accepted = scores >= threshold_at(ranking, int(point))
        assert accepted[~same].mean() <= target + 1e-12
        assert accepted[same].mean() == tar


def test_cells_need_ten_expected_false_accepts() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(1_100) < 100
    scores = rng.normal(size=1_100) + 3 * same
    cells = {far_name(cell.far): cell for cell in tar_cells(rank(scores, same))}
    assert list(cells) == ["1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1"]
    assert cells["1e-3"].tar is None
    assert cells["1e-3"].threshold is None
    assert cells["1e-3"].refused == "needs 10,000 impostor pairs, found 1,000"
    kept = cells["1e-2"]
    assert kept.refused is None
    assert kept.impostors == 1_000
    assert kept.false_accepts == 10
    assert kept.tar == np.mean(scores[same] >= kept.threshold)
    assert np.sum(scores[~same] >= kept.threshold) == 10


def test_where_nothing_may_be_accepted_the_threshold_lies_above_all_scores() -> None:
    same = np.arange(2_000) < 1_000
    cells = tar_cells(rank(np.zeros(2_000), same), (0.1,))
    assert cells[0].tar == 0.0
    assert cells[0].threshold > 0.0
    assert cells[0].false_accepts == 0


def test_faults() -> None:
    with pytest.raises(EvaluationError, match=r"pair 1 .*nan"):
        rank(np.array([0.0, np.nan]), np.array([True, False]))
    with pytest.raises(EvaluationError, match="found 2 of one and 0 of two"):
        rank(np.zeros(2), np.ones(2, bool))


def test_the_drawn_curve_keeps_every_rate_that_a_table_prints() -> None:
    rng = np.random.default_rng(1)
    same = rng.random(300_000) < 0.3
    ranking = rank(rng.normal(size=same.size) + 2 * same, same)
    far, tar = curve(ranking, 500)
    assert len(far) < 3_000
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    whole = measure(ranking, FARS[2:]).tar
    drawn = [tar[far <= target].max() for target in FARS[2:]]
    np.testing.assert_allclose(drawn, whole, atol=2e-3)
