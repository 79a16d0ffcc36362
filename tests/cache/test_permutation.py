"""The permutation that plans and shuffles stand on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceguide.cache.permutation import permute


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**63), epoch=st.integers(0, 10))
def test_every_index_goes_to_a_place_of_its_own(n: int, seed: int, epoch: int) -> None:
    assert sorted(permute(np.arange(n), n, (seed, epoch)).tolist()) == list(range(n))


def test_the_order_never_changes() -> None:
    # Written into every cache that exists: a change here would orphan them all.
    assert permute(np.arange(12), 12, (0, 1)).tolist() == [2, 1, 4, 8, 10, 5, 7, 9, 3, 6, 0, 11]
    far = permute(np.array([0, 1, 10**9 - 1]), 10**9, (7, 3)).tolist()
    assert far == [475352803, 539656770, 396256927]


def test_parts_equal_the_whole() -> None:
    whole = permute(np.arange(1000), 1000, (3,))
    parts = [permute(np.arange(start, start + 100), 1000, (3,)) for start in range(0, 1000, 100)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_keys_give_unrelated_orders_without_structure() -> None:
    n = 20_000
    index = np.arange(n)
    first, second = permute(index, n, (0, 0)), permute(index, n, (0, 1))
    for order in (first, second):
        assert abs(np.corrcoef(index, order)[0, 1]) < 0.03
        # Neighbours must not stay neighbours: a shuffle that keeps runs repeats pages.
        assert np.mean(np.abs(np.diff(order)) == 1) < 0.001
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_an_index_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="must lie in 0 … 9"):
        permute(np.array([10]), 10, (0,))
