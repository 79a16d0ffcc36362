"""Causes of maps that claim nothing."""

from __future__ import annotations

import numpy as np
import pytest

from faceguide.evaluate.attribution.protocol.diagnosis import (
    Limits,
    cause_of,
    summary,
    typical_energy,
    variation,
)

CLEAR = np.arange(49.0)


def cause(cells, energy=1.0, typical=1.0, **more):
    return cause_of(np.asarray(cells, float), energy, typical, pair=0, **more)


def test_each_cause_is_found() -> None:
    assert cause(CLEAR) is None
    assert cause(CLEAR, energy=np.nan) == "nonfinite"
    assert cause(np.where(CLEAR == 3, np.inf, CLEAR)) == "nonfinite"
    assert cause(CLEAR * 0, energy=0.0) == "dead"
    assert cause(CLEAR * 0) == "relu_dead"
    assert cause(np.ones(49)) == "flat"

    tied = np.where(np.arange(49) < 1, 0, 1.0)
    assert cause(tied) is None  # one cell is clearly lower: a claim
    assert cause(np.r_[np.zeros(0), np.ones(49)], limits=Limits(flat=0.0)) == "tied"


def test_rounding_noise_is_dead_whatever_its_unit() -> None:
    """1.7e-10 is rounding noise next to 5.7e-4 and a fine map among its like."""
    assert cause(CLEAR, energy=1.7e-10, typical=5.7e-4) == "dead"
    assert cause(CLEAR, energy=1.7e-10, typical=1.7e-10) is None


def test_a_constant_with_one_per_cent_noise_is_flat_and_one_hot_is_not() -> None:
    rng = np.random.default_rng(0)
    noisy = [1 + 0.01 * rng.standard_normal(49) for _ in range(50)]
    assert {cause(cells) for cells in noisy} == {"flat"}
    assert {cause(np.eye(49)[place]) for place in range(49)} == {None}


def test_limits_scale_together() -> None:
    cells = 1 + 0.04 * np.tile([1, -1], 25)[:49]
    assert variation(cells) == pytest.approx(0.04, abs=1e-3)
    assert cause(cells) == "flat"
    assert cause(cells, limits=Limits().scaled(0.5)) is None


def test_typical_energy_ignores_broken_maps() -> None:
    assert typical_energy(np.array([np.nan, 0.0, 1.0, 3.0, 2.0])) == 2.0
    assert typical_energy(np.array([0.0])) == 0.0


def test_summary_counts_every_map() -> None:
    found = summary([None, "flat", "flat", "dead", None])
    assert found["flat"]["count"] == 2
    assert found["flat"]["n"] == 5
    assert found["flat"]["share"] == 0.4
    low, high = found["flat"]["interval"]
    assert low == pytest.approx(0.1176, abs=1e-3)
    assert high == pytest.approx(0.7693, abs=1e-3)
    assert found["tied"]["count"] == 0
