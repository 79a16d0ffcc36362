"""Infills, the response table, and measures that need the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cache.builder import build
from tests.evaluate.attribution.networks import Smooth, pixels

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import cell_index, cell_masks
from faceguide.evaluate.attribution.methods.maps import Batch
from faceguide.evaluate.attribution.methods.target import PairScore
from faceguide.evaluate.attribution.protocol import infill, map_metrics, regions, responses
from faceguide.evaluate.attribution.protocol.infill import Donors
from faceguide.evaluate.attribution.results import verification_deletion


@pytest.fixture(scope="module")
def score() -> PairScore:
    return PairScore(Smooth())


@pytest.fixture(scope="module")
def donors() -> Donors:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 28, 28, 3), np.uint8)
    return Donors(np.arange(6), np.array([0, 0, 1, 1, 2, -1]), images)


def test_infills_are_what_they_are_called(donors: Donors) -> None:
    image = donors.images[0]
    made = infill.fill_pictures(image, ("mean", "face", "blur"), 0, 0, donors, 0)
    assert made.shape == (3, 28, 28, 3)
    np.testing.assert_array_equal(made[0], np.broadcast_to(made[0][0, 0], (28, 28, 3)))
    np.testing.assert_allclose(made[0][0, 0], image.mean((0, 1)), atol=0.51)
    np.testing.assert_allclose(made[1], donors.images.mean(0), atol=0.51)
    assert made[2].std() < image.std() / 2
    with pytest.raises(AttributionError, match="blur, mean, face, other"):
        infill.fill_pictures(image, ("grey",), 0, 0, donors, 0)


def test_the_other_person_is_another_and_always_the_same(donors: Donors) -> None:
    for row, label in ((0, 0), (2, 1), (5, -1)):
        drawn = donors.another(row, label, 3)
        np.testing.assert_array_equal(drawn, donors.another(row, label, 3))
        place = next(i for i in range(6) if (donors.images[i] == drawn).all())
        assert place != row
        assert donors.labels[place] != label or label < 0
    alone = Donors(donors.rows[:2], donors.labels[:2], donors.images[:2])
    with pytest.raises(AttributionError, match="second identity"):
        alone.another(0, 0, 0)


def test_one_cell_alone_is_replaced() -> None:
    probe, fills = torch.zeros(3, 28, 28), torch.ones(2, 3, 28, 28)
    found = infill.replaced(probe, fills, cell_masks(28))
    assert found.shape == (49, 2, 3, 28, 28)
    index = cell_index(28)
    for cell in (0, 24, 48):
        np.testing.assert_array_equal(found[cell, 1, 2].numpy() == 1, index == cell)


def test_the_table_is_the_loop(score: PairScore) -> None:
    """49 · R single passes give what the table holds, for two references at once."""
    probe, fills = pixels(1, 1, 28)[0], pixels(2, 2, 28)
    reference = score.reference(pixels(2, 3, 28))
    found = responses.measure(score, probe, reference, fills, chunk=7)
    assert found.masked.shape == (2, 49, 2)
    masks = cell_masks(28)
    for cell, fill, pair in ((0, 0, 0), (24, 1, 1), (48, 1, 0)):
        image = torch.where(masks[cell], fills[fill], probe)[None]
        expected = score(image, reference[0][pair : pair + 1])
        assert found.masked[pair, cell, fill] == pytest.approx(expected.item(), abs=1e-5)
        clean, changed = score.describe(probe[None])[0], score.describe(image)[0]
        angle = torch.arccos((clean * changed).sum().double()).item()
        assert found.angle[cell, fill] == pytest.approx(angle, abs=2e-3)
    # The stored embeddings give the response against any reference as a product.
    rebuilt = found.embedding.astype(np.float32) @ reference[0].numpy().T
    np.testing.assert_allclose(rebuilt.transpose(2, 0, 1), found.masked, atol=2e-3)


def test_removal_curves_start_and_end_where_they_must(score: PairScore) -> None:
    probe, empty = pixels(2, 1, 28), torch.zeros(2, 3, 28, 28)
    batch = Batch(probe, score.reference(pixels(2, 3, 28)), (0, 1))
    cells = np.random.default_rng(0).random((2, 49))
    curves = map_metrics.removal_curves(score, batch, cells, empty, 0)
    clean = score(probe, *batch.reference).numpy()
    blank = score(empty, *batch.reference).numpy()
    for kind in ("most", "least"):
        np.testing.assert_allclose(curves[kind][:, 0], clean, atol=1e-5)
        np.testing.assert_allclose(curves[kind][:, -1], blank, atol=1e-5)
    np.testing.assert_allclose(curves["insert"][:, 0], blank, atol=1e-5)
    np.testing.assert_allclose(curves["insert"][:, -1], clean, atol=1e-5)


def test_areas_of_known_curves() -> None:
    falling = np.linspace(1, 0, 8)[None]
    sudden = np.array([[1.0, *[0.0] * 7]])
    late = np.array([[*[1.0] * 7, 0.0]])
    areas = map_metrics.curve_areas({"most": sudden, "least": late, "insert": falling[:, ::-1]})
    assert areas["deletion"][0] == pytest.approx(0.5 / 7)
    assert areas["insertion"][0] == pytest.approx(0.5)
    assert areas["srg"][0] == pytest.approx(6 / 7)
    flat = np.full((1, 8), 0.3)
    assert np.isnan(
        map_metrics.curve_areas({"most": flat, "least": flat, "insert": flat})["deletion"]
    )


def test_infidelity_of_a_perfect_and_of_an_empty_map() -> None:
    effect = np.random.default_rng(0).normal(size=(3, 49))
    change = np.repeat(effect[:, :, None], 2, 2)
    np.testing.assert_allclose(map_metrics.infidelity(7 * effect, change), 0, atol=1e-12)
    np.testing.assert_allclose(map_metrics.infidelity(0 * effect, change), 1)


def test_rank_correlation_of_order_alone() -> None:
    cells = np.random.default_rng(0).random((2, 49))
    np.testing.assert_allclose(map_metrics.rank_correlation(cells, np.exp(9 * cells)), 1)
    np.testing.assert_allclose(map_metrics.rank_correlation(cells, -cells), -1)
    assert np.isnan(map_metrics.rank_correlation(cells, np.ones((2, 49)))).all()


def test_randomised_network_is_another_and_leaves_the_trained_one(score: PairScore) -> None:
    before = score.backbone.conv1.weight.clone()
    other = map_metrics.randomised(score, 0)
    assert torch.equal(score.backbone.conv1.weight, before)
    assert not torch.allclose(other.backbone.conv1.weight, before)
    assert float(other.backbone.conv1.weight.std()) == pytest.approx(float(before.std()), rel=0.2)


def test_sensitivity_of_a_map_that_ignores_the_picture_is_zero(score: PairScore) -> None:
    from faceguide.evaluate.attribution.methods import controls, gradients

    batch = Batch(pixels(1, 1, 28), score.reference(pixels(1, 3, 28)), (0,))
    settings = Settings()
    for explain, least in ((controls.centre, 0.0), (gradients.saliency, 1e-4)):
        maps = explain(score, batch, settings).values
        found = map_metrics.max_sensitivity(score, batch, explain, settings, maps)[0]
        assert (found == 0) == (least == 0)


def test_energy_and_pointing() -> None:
    cells = np.zeros((2, 49))
    cells[0, :7], cells[1] = 1, 1
    region = np.zeros((2, 49))
    region[:, :7] = 1
    share, lift = regions.energy_lift(cells, region)
    np.testing.assert_allclose(share, [1, 1 / 7])
    np.testing.assert_allclose(lift, [7, 1])
    np.testing.assert_allclose(regions.pointing(cells, region), [1, 1 / 7])
    assert np.isnan(regions.energy_lift(np.zeros((1, 49)), region[:1])[1]).all()


def test_regions_and_hidden_cells_come_from_the_cache(tmp_path: Path) -> None:
    build(tmp_path, rows=40, size=28)
    cache = FaceCache.open(tmp_path)
    rows = cache.select()
    found = regions.region_cells(cache, rows)
    assert found is not None
    stored = cache.read(rows, ["regions"])["regions"] / 255
    np.testing.assert_allclose(found["nose"].mean(1), stored[:, 1].mean((1, 2)), atol=1e-9)
    hidden = regions.hidden_cells(cache, rows)
    assert hidden is not None
    visible = cache.read(rows, ["visibility"])["visibility"].astype(float)
    np.testing.assert_allclose(hidden[0], 1 - visible.reshape(len(rows), -1), atol=1e-9)
    record = regions.region_record(
        np.ones((len(rows), 49)), found, hidden, np.ones(len(rows), bool)
    )
    assert record["occluded"]["lift"]["mean"] == pytest.approx(1)


def test_verification_deletion_keeps_the_threshold_of_the_clean_pairs() -> None:
    same = np.array([True, True, False, False])
    removal = np.array([[0.9, 0.1], [0.8, 0.7], [0.2, 0.1], [0.1, 0.1]])
    found = verification_deletion({"removal": removal}, same)
    assert found is not None
    assert found["accuracy"] == [1.0, 0.75]
    assert 0.2 < found["threshold"] <= 0.8
    assert verification_deletion({}, same) is None
