from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceguide.evaluate.metrics.cllr import cllr, min_cllr


def test_cllr_of_known_ratios() -> None:
    same = np.array([True, True, False])
    # Even odds cost one bit each; 3 to 1 costs log2(1 + 1/3) where right, log2(4) where wrong.
    assert cllr(np.zeros(3), same) == pytest.approx(1)
    right, wrong = np.log2(4 / 3), 2.0
    llr = np.log([3.0, 1 / 3, 1 / 3])
    assert cllr(llr, same) == pytest.approx(((right + wrong) / 2 + right) / 2)
    assert cllr(llr, same, np.array([1, 0, 5])) == pytest.approx(right)
    assert np.isnan(cllr(llr, same, np.array([1, 1, 0])))


def test_min_cllr_pools_what_is_out_of_order() -> None:
    score, same = np.array([-1.0, 0, 1, 2]), np.array([False, True, False, True])
    # Pooled: −1 and 2 are certain, 0 and 1 are even: half of each kind costs one bit.
    assert min_cllr(score, same) == pytest.approx(0.5)
    assert min_cllr(-score, same) == pytest.approx(1)  # nothing rises: all odds are 1
    assert min_cllr(score, np.array([False, False, True, True])) == pytest.approx(0)
    # Equal scores are one: three of four genuine pairs among five at 1, costs by the odds there.
    tied = np.array([0, 1, 1, 1, 1, 1, 2.0]), np.array([0, 0, 0, 1, 1, 1, 1], bool)
    even = 3 / 4 * np.log2(17 / 9) + 2 / 3 * np.log2(17 / 8)  # odds (3/4) to (2/3)
    assert min_cllr(*tied) == pytest.approx(even / 2)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40),
    st.floats(0.1, 3),
    st.floats(-2, 2),
)
def test_no_rising_line_beats_min_cllr(pairs, slope, bias) -> None:
    score = np.array([value for value, _ in pairs], float)
    same = np.array([kind for _, kind in pairs])
    if same.all() or not same.any():
        return
    least = min_cllr(score, same)
    assert 0 <= least <= 1 + 1e-9
    assert least <= cllr(slope * score + bias, same) + 1e-9
    assert least == pytest.approx(min_cllr(slope * score + bias, same), abs=1e-9)
