"""Maps whose score is known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import pool
from faceguide.evaluate.attribution.chimera.composition import PARTS, part_cells
from faceguide.evaluate.attribution.chimera.told_apart import ToldApart, told_apart
from faceguide.evaluate.attribution.methods.maps import Batch
from faceguide.evaluate.attribution.methods.method_table import METHODS
from faceguide.evaluate.metrics.bootstrap import replicate

CELLS = hnp.arrays(np.float64, 49, elements=st.floats(-100, 100, width=32))
PART = st.sampled_from(list(PARTS))
MAPS = settings(max_examples=150, deadline=None)


def judged(by_bearer: NDArray[np.float64], by_donor: NDArray[np.float64], part: str) -> ToldApart:
    inside, outside = part_cells(part)
    return told_apart(by_bearer[None], by_donor[None], inside[None], outside[None])


@MAPS
@given(CELLS, PART)
def test_a_map_that_does_not_look_at_the_reference_scores_half_exactly(
    cells: NDArray[np.float64], part: str
) -> None:
    found = judged(cells, cells, part)
    assert found.told[0] == found.single[0] == 0.5
    assert found.verdict[0] in ("blind", "uniform")


@MAPS
@given(CELLS, st.floats(1e-3, 1e3), PART)
def test_a_blind_map_times_the_score_is_blind_too(
    cells: NDArray[np.float64], scale: float, part: str
) -> None:
    found = judged(cells, scale * cells, part)
    assert found.told[0] == found.single[0] == 0.5


@pytest.mark.parametrize("part", list(PARTS))
def test_the_truth_scores_one_and_its_negation_zero(part: str) -> None:
    inside, _ = part_cells(part)
    truth = np.where(inside, 1.0, 0.0)
    found = judged(-truth, truth, part)
    assert found.told[0] == found.single[0] == 1
    assert found.verdict == ["told"]
    wrong = judged(truth, -truth, part)
    assert wrong.told[0] == wrong.single[0] == 0
    assert wrong.verdict == ["not_told"]


@MAPS
@given(CELLS, CELLS, PART)
def test_negated_maps_score_the_rest(
    first: NDArray[np.float64], second: NDArray[np.float64], part: str
) -> None:
    found, wrong = judged(first, second, part), judged(-first, -second, part)
    assert found.told[0] + wrong.told[0] == pytest.approx(1)
    assert found.single[0] + wrong.single[0] == pytest.approx(1)


# Powers of two change no digit, so that ties stay ties.
@MAPS
@given(CELLS, CELLS, st.integers(-20, 20), st.integers(-20, 20), PART)
def test_the_unit_of_a_map_does_not_count(
    first: NDArray[np.float64], second: NDArray[np.float64], one: int, two: int, part: str
) -> None:
    found = judged(first, second, part)
    scaled = judged(2.0**one * first, 2.0**two * second, part)
    assert scaled.told[0] == found.told[0]
    assert scaled.single[0] == found.single[0]
    assert scaled.verdict == found.verdict


@MAPS
@given(CELLS, CELLS, PART)
def test_bearer_and_donor_may_change_places(
    first: NDArray[np.float64], second: NDArray[np.float64], part: str
) -> None:
    inside, outside = part_cells(part)
    other = told_apart(second[None], first[None], outside[None], inside[None])
    found = judged(first, second, part)
    assert other.told[0] == pytest.approx(found.told[0])
    assert other.single[0] == pytest.approx(found.single[0])


def test_maps_that_cannot_be_tested_count_half() -> None:
    rng = np.random.default_rng(0)
    good, flat = rng.normal(size=49), np.full(49, 3.0)
    broken = np.where(np.arange(49) == 4, np.nan, good)
    for first, second, verdict in (
        (flat, flat, "uniform"), (np.zeros(49), np.zeros(49), "uniform"),
        (good, broken, "error"), (broken, good, "error"),
    ):  # fmt: skip
        found = judged(first, second, "eyes")
        assert (found.told[0], found.single[0]) == (0.5, 0.5)
        assert found.verdict == [verdict]
    # One empty map leaves the other.
    assert judged(np.zeros(49), np.where(part_cells("eyes")[0], 1.0, 0.0), "eyes").told[0] == 1


def test_noise_scores_half_on_average() -> None:
    rng = np.random.default_rng(1)
    inside, outside = (np.tile(cells, (4000, 1)) for cells in part_cells("top"))
    found = told_apart(rng.normal(size=(4000, 49)), rng.normal(size=(4000, 49)), inside, outside)
    assert found.told.mean() == pytest.approx(0.5, abs=0.01)
    assert found.single.mean() == pytest.approx(0.5, abs=0.01)


def test_the_control_random_is_at_chance_over_seeds() -> None:
    """Of twelve chimeras one interval in ten leaves out one half; that is the small number."""
    count, seeds = 12, 50
    cells = [part_cells(part) for part in PARTS]
    inside, outside = (np.stack(kind)[np.arange(count) % 6] for kind in zip(*cells, strict=True))
    batch = Batch(torch.zeros(2 * count, 3, 28, 28), (), tuple(range(2 * count)))
    means, missed = [], 0
    for seed in range(seeds):
        maps = pool(METHODS["random"].explain(None, batch, Settings(seed=seed)).values).numpy()
        told = told_apart(maps[::2], maps[1::2], inside, outside).told
        drawn = replicate(lambda counts, told=told: np.array([counts @ told / count]), count, 400)
        low, high = np.quantile(drawn[:, 0], [0.025, 0.975])
        means.append(told.mean())
        missed += not low <= 0.5 <= high
    assert np.mean(means) == pytest.approx(0.5, abs=3.5 * np.std(means) / seeds**0.5)
    assert 0 < missed <= 12
