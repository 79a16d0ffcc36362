"""Shares of landmark regions, and what changes a decision, where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceguide.evaluate.attribution.cells import cell_index
from faceguide.evaluate.attribution.chimera.composition import matched_colours
from faceguide.evaluate.attribution.one_pair.crop_changes import cell_change, part_changes
from faceguide.evaluate.attribution.one_pair.crop_parts import NAMES, parts_of, shares

SIDE = 56


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 216, (SIDE, SIDE, 3), dtype=np.uint8)


def boxes() -> dict[str, np.ndarray]:
    """Parts with straight edges on the borders of cells."""
    regions, face = np.zeros((3, SIDE, SIDE)), np.zeros((SIDE, SIDE))
    regions[0, 16:24, 8:48] = regions[1, 24:32, 24:32] = regions[2, 40:48, 16:40] = 1
    face[8:, 8:48] = 1
    return dict(parts_of(regions, face))


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_parts_add_up_to_the_crop_and_shares_to_the_balance(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = parts_of(rng.random((3, 8, 8)), rng.random((8, 8)))
    assert tuple(parts) == NAMES
    assert min(part.min() for part in parts.values()) >= 0
    np.testing.assert_allclose(sum(parts.values()), 1, atol=1e-12)
    heat = rng.normal(size=(8, 8))
    found = shares(heat, parts)
    assert sum(found.values()) == pytest.approx(heat.sum() / np.abs(heat).sum())
    assert shares(3 * heat, parts) == pytest.approx(found)
    assert shares(-heat, parts) == pytest.approx({name: -one for name, one in found.items()})
    assert set(shares(0 * heat, parts).values()) == {0.0}


def test_a_map_in_one_part_is_its_alone() -> None:
    parts = boxes()
    assert shares(parts["nose"], parts) == {**dict.fromkeys(NAMES, 0.0), "nose": 1.0}
    assert parts["forehead"][10, 20] == parts["cheeks, chin"][50, 20] == parts["outside"][2, 2] == 1


def likeness(wanted: np.ndarray, where: np.ndarray):
    """Scores of crops: how near they are to a picture within a mask, 1 = equal."""

    def scores(crops: np.ndarray) -> np.ndarray:
        far = np.abs(crops.astype(float) - wanted).mean(-1)[:, where]
        return 1 - far.mean(1) / 100

    return scores


def test_the_part_that_decides_is_the_one_that_changes_the_decision() -> None:
    own, other, parts = picture(0), picture(1), boxes()
    scores = likeness(matched_colours(other, own), parts["mouth"] == 1)
    found = part_changes(own, other, (parts, parts), scores, 0.7)
    assert len(found) == 2 * len(NAMES)
    assert {(one.part, one.how) for one in found if one.crosses} == {("mouth", "exchanged")}
    assert all(one.crosses is None for one in part_changes(own, other, (parts,) * 2, scores, None))
    # What is the same already is lost where it is blurred.
    found = part_changes(own, other, (parts, parts), likeness(own, parts["eyes"] == 1), 0.8)
    assert {(one.part, one.how) for one in found if one.crosses} == {
        ("eyes", "blurred"),
        ("eyes", "exchanged"),
    }


def test_the_cells_that_decide_come_first() -> None:
    own, other = picture(2), picture(3)
    where = np.isin(cell_index(SIDE), [3 * 7 + 2, 5 * 7 + 6])
    found = cell_change(own, other, likeness(matched_colours(other, own), where), 0.75)
    assert (found.how, found.crosses) == ("exchanged", True)
    assert set(found.cells) == {(3, 2), (5, 6)}
    assert found.score >= 0.75
    found = cell_change(own, other, likeness(own, where), 0.75)
    assert (found.how, found.crosses) == ("blurred", True)
    assert set(found.cells) == {(3, 2), (5, 6)}
    assert found.score < 0.75


def test_a_decision_that_nothing_changes_is_said() -> None:
    found = cell_change(picture(4), picture(5), lambda crops: np.full(len(crops), 0.2), 0.5)
    assert not found.crosses
    assert len(found.cells) == 49
