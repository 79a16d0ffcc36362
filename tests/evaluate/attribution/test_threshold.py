"""The earlier rule, and the artefact that it produces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from faceguide.evaluate.attribution import threshold
from faceguide.evaluate.attribution.threshold import threshold_outcome


@pytest.fixture(scope="module")
def embed():
    """A linear embedding in which every pixel counts about alike."""
    matrix = torch.randn(64, 3 * 32 * 32, generator=torch.Generator().manual_seed(0))

    def of(images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(images.flatten(1) @ matrix.T, dim=1)

    return of


def outcome(attribution, embed, seed=0):
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.25
    return threshold_outcome(attribution, image, embed, np.random.default_rng(seed), draws=12)


def test_heavy_tailed_random_maps_are_always_falsified(embed) -> None:
    """A few specks against the whole face: the areas decide, not the map."""
    rng = np.random.default_rng(5)
    for seed in range(6):
        found = outcome(rng.lognormal(0, 2.5, (32, 32)), embed, seed)
        assert found.rate == 1
        assert found.falsified
        assert found.area_high < 0.02 < 0.7 < found.area_low


def test_equal_areas_do_not_have_the_artefact(embed) -> None:
    rng = np.random.default_rng(6)
    found = [outcome(rng.random((32, 32)), embed, seed) for seed in range(12)]
    assert all(0.5 <= o.area_high / o.area_low <= 2 for o in found)
    assert 0.2 < np.mean([o.falsified for o in found]) < 0.8


def test_flat_and_broken_maps_are_untestable_not_dropped(embed) -> None:
    for attribution in (np.ones((32, 32)), np.full((32, 32), np.nan)):
        found = outcome(attribution, embed)
        assert np.isnan([found.rate, found.falsified]).all()


def test_regions_are_cut_at_fixed_heights() -> None:
    high, low = threshold.regions(np.linspace(0, 10, 11).reshape(1, -1))
    assert high[0].nonzero()[0].tolist() == [8, 9, 10]
    assert low[0].nonzero()[0].tolist() == [0, 1, 2]


def test_only_the_region_is_black_and_noise_is_everywhere() -> None:
    image = torch.full((3, 8, 8), 0.5)
    region = np.zeros((8, 8), bool)
    region[:4] = True
    made = threshold.counterfactuals(image, region, np.random.default_rng(0), 200, 0.02)
    assert made.shape == (200, 3, 8, 8)
    assert made.min() >= 0
    assert made[:, :, :4].mean() == pytest.approx(0, abs=0.02)
    assert made[:, :, 4:].std() == pytest.approx(0.02, abs=1e-3)


def test_rate_counts_ties_against_the_map() -> None:
    """High and low mask the same share of a constant picture without noise: all ties."""

    def embed(images: Tensor) -> Tensor:
        return torch.nn.functional.normalize(
            torch.stack([images.mean((1, 2, 3)), torch.ones(len(images))], 1), dim=1
        )

    attribution = np.zeros((4, 4))
    attribution[0], attribution[1:3] = 1.0, 0.5
    image = torch.full((3, 4, 4), 0.5)
    found = threshold_outcome(
        attribution, image, embed, np.random.default_rng(0), draws=3, sigma=0.0
    )
    assert found.area_high == found.area_low == 0.25
    assert found.rate == 1
    assert found.falsified


def test_angles_keep_their_digits_near_zero() -> None:
    first = torch.tensor([[1.0, 0.0]])
    second = torch.tensor([[1.0, 1e-6]])
    assert threshold.angles(first, second).item() == pytest.approx(1e-6, rel=1e-5)
    assert threshold.angles(first, -first).item() == pytest.approx(np.pi)
