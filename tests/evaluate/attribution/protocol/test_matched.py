"""The matched protocol on scores whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from faceguide.evaluate.attribution.protocol import matched
from faceguide.evaluate.attribution.protocol.diagnosis import cause_of, typical_energy
from faceguide.evaluate.attribution.protocol.matched import falsifiable, judge_map

PAIRS, INFILLS = 400, 4


@pytest.fixture(scope="module")
def linear() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Responses |w_u · (x_u − infill_u)| of s = w·x with one infill distance for all cells."""
    rng = np.random.default_rng(0)
    weight = rng.permuted(np.tile(np.arange(1.0, 50.0), (PAIRS, 1)), axis=1)
    distance = rng.uniform(0.9, 1.1, (PAIRS, 1, INFILLS))
    return weight, weight[:, :, None] * distance


def rates(maps: NDArray[np.float64], responses: NDArray[np.float64]) -> list[matched.Outcome]:
    energy = np.abs(maps).max(1)
    typical = typical_energy(energy)
    outcomes = []
    for pair in range(len(maps)):
        cause = cause_of(maps[pair], float(energy[pair]), typical, pair=pair)
        outcomes.append(judge_map(maps[pair], responses[pair], pair=pair, cause=cause))
    return outcomes


def mean_rate(outcomes: list[matched.Outcome]) -> float:
    return float(np.mean([o.rate for o in outcomes if o.rate is not None]))


def test_the_true_map_of_a_linear_score_is_never_falsified(linear) -> None:
    weight, responses = linear
    found = rates(weight, responses)
    assert mean_rate(found) == 0
    assert {o.verdict for o in found} == {"supported"}


def test_the_reversed_map_always_is(linear) -> None:
    weight, responses = linear
    found = rates(50 - weight, responses)
    assert mean_rate(found) == 1
    assert {o.verdict for o in found} == {"falsified"}
    assert all(o.falsified for o in found)


def test_random_maps_score_half(linear) -> None:
    _, responses = linear
    found = rates(np.random.default_rng(1).random((PAIRS, 49)), responses)
    assert mean_rate(found) == pytest.approx(0.5, abs=0.02)
    falsified = np.mean([o.falsified for o in found])
    assert falsified == pytest.approx(0.5, abs=0.08)
    assert sum(o.verdict == "undecided" for o in found) > PAIRS / 2


def test_heavy_tailed_random_maps_score_half(linear) -> None:
    """The artefact of cutting by height is gone: test_threshold.py has its other half."""
    _, responses = linear
    found = rates(np.random.default_rng(2).lognormal(0, 3, (PAIRS, 49)), responses)
    assert mean_rate(found) == pytest.approx(0.5, abs=0.02)


def test_constant_maps_are_all_uniform_and_all_kept(linear) -> None:
    _, responses = linear
    found = rates(np.full((PAIRS, 49), 0.3), responses)
    assert len(found) == PAIRS
    assert {o.verdict for o in found} == {"uniform"}
    assert all(o.rate is None and o.falsified is None for o in found)


def test_one_hot_cells_are_all_tested(linear) -> None:
    _, responses = linear
    maps = np.eye(49)[np.arange(PAIRS) % 49]
    found = rates(maps, responses)
    assert "uniform" not in {o.verdict for o in found}
    assert all(o.high.sum() == 1 for o in found)


def test_as_many_outcomes_as_maps_whatever_happens(linear) -> None:
    weight, responses = linear
    maps, broken = weight.copy(), responses.copy()
    maps[0], maps[1], maps[2] = np.nan, 0.0, 1.0
    broken[3, 0, 0] = np.nan
    found = rates(maps, broken)
    assert len(found) == PAIRS
    assert [o.verdict for o in found[:4]] == ["uniform", "uniform", "uniform", "error"]


def test_rate_equals_the_double_loop() -> None:
    rng = np.random.default_rng(3)
    high, low = rng.integers(0, 5, 36).astype(float), rng.integers(0, 5, 30).astype(float)
    loop = np.mean([[1.0 * (x < y) + 0.5 * (x == y) for y in low] for x in high])
    assert matched.falsification_rate(high, low) == pytest.approx(loop, abs=1e-12)


def test_only_cells_of_one_infill_are_compared() -> None:
    """A weak infill does not turn against the map that a strong one supports."""
    high, low = np.array([[1.0, 20.0], [2.0, 30.0]]), np.array([[0.5, 10.0], [0.7, 15.0]])
    assert matched.falsification_rate(high.reshape(-1, 1), low.reshape(-1, 1)) > 0.2
    assert matched.falsification_rate(high, low) == 0


def test_the_draws_do_not_depend_on_the_method(linear) -> None:
    weight, responses = linear
    one = judge_map(weight[0], responses[0], pair=7)
    scaled = judge_map(1000 * weight[0], responses[0], pair=7)
    assert one.interval == scaled.interval


def test_a_required_margin_turns_small_differences_into_falsification(linear) -> None:
    weight, responses = linear
    assert judge_map(weight[0], responses[0], pair=0, delta=1e6).verdict == "falsified"


def test_falsifiability_needs_all_three_conditions() -> None:
    assert falsifiable(0.8, 0.5)
    assert not falsifiable(0.7, 0.5)
    assert not falsifiable(0.8, 0.6)
    assert not falsifiable(0.8, 0.5, tau_low=0.65)
