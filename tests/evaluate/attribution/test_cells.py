"""Cells, claimed sets and the random numbers of a pair."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from faceguide.evaluate.attribution import cells


@pytest.mark.parametrize("side", [112, 160, 224, 56, 14, 7])
def test_pooling_is_the_mean_of_each_cell(side: int) -> None:
    maps = torch.randn(2, side, side, generator=torch.Generator().manual_seed(side))
    index = cells.cell_index(side)
    pooled = cells.pool(maps).numpy()
    for cell in (0, 8, 24, 48):
        np.testing.assert_allclose(
            pooled[:, cell], maps.numpy()[:, index == cell].mean(1), rtol=1e-4, atol=1e-6
        )


def test_cells_have_equal_area() -> None:
    for side in (112, 160, 224):
        areas = np.bincount(cells.cell_index(side).ravel(), minlength=49)
        assert areas.max() / areas.min() < 1.1
    assert set(np.bincount(cells.cell_index(112).ravel())) == {256}


def test_coarse_maps_keep_their_place() -> None:
    maps = torch.zeros(1, 3, 3)
    maps[0, 0, 2] = 1
    pooled = cells.pool(maps).reshape(7, 7)
    assert pooled.argmax() == 6


def test_rectified_maps_ignore_negative_evidence() -> None:
    maps = torch.zeros(1, 7, 7)
    maps[0, 0, 0], maps[0, 3, 3] = -5, 1
    assert cells.cell_attribution(maps)[0].argmax() == 0
    assert cells.cell_attribution(maps, rectify=True)[0].argmax() == 24


@given(st.lists(st.integers(0, 6), min_size=49, max_size=49), st.integers(0, 99))
def test_high_cells_are_strictly_above_low_ones(values: list[int], seed: int) -> None:
    found = np.array(values, float)
    high, low = cells.claimed_sets(found, np.random.default_rng(seed))
    assert high.sum() <= cells.Q
    assert low.sum() <= cells.Q
    assert high.any() == low.any()
    if high.any():
        assert found[high].min() > found[low].max()
    else:
        # Nine cells and nine cells could not be told apart: one value covers them all.
        assert np.sort(found)[-cells.Q] == np.sort(found)[cells.Q - 1]


def test_one_hot_cell_claims_that_cell() -> None:
    found = np.zeros(49)
    found[17] = 1
    high, low = cells.claimed_sets(found, np.random.default_rng(0))
    assert high.nonzero()[0].tolist() == [17]
    assert low.sum() == cells.Q


def test_ties_are_broken_at_random_but_repeatably() -> None:
    found = np.zeros(49)
    found[:30] = 1
    one, again, other = (
        cells.claimed_sets(found, cells.pair_rng(pair, 0, "ties"))[0] for pair in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
