"""Faces composed of two, and whom they are made of."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cache.builder import build_keys

from faceguide.cache.pairs.pair_lists import PairList
from faceguide.cache.pairs.pair_rows import PairRows, resolve
from faceguide.cache.reader import FaceCache
from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.chimera.chimera_list import chimeras_of
from faceguide.evaluate.attribution.chimera.composition import (
    COMPOSITIONS,
    PARTS,
    composed,
    part_cells,
    part_mask,
)


def face(seed: int, side: int = 112) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 196, (7, 7, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((side // 7, side // 7, 1), np.uint8))


def test_cells_of_part_and_rest_are_apart_and_inside_the_face() -> None:
    for part in PARTS:
        inside, outside = part_cells(part)
        assert not (inside & outside).any()
        both = (inside | outside).reshape(7, 7)
        assert not both[0].any()
        assert not both[:, [0, 6]].any()
        # The halves meet within column 3.
        assert both.sum() == (24 if part in ("left", "right") else 30)
    assert part_cells("eyes")[0].sum() == 10
    assert part_cells("bottom")[0].sum() == 15
    assert part_cells("low centre")[0].sum() == 9


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(PARTS)), st.sampled_from([28, 112, 160]), st.integers(0, 99))
def test_pixels_away_from_the_edge_are_those_of_one_identity(
    part: str, side: int, seed: int
) -> None:
    bearer, donor = (
        np.random.default_rng([seed, who]).integers(60, 196, (side, side, 3), dtype=np.uint8)
        for who in (0, 1)
    )
    mask = part_mask(part, side)
    made = composed(bearer, donor, mask)
    far = np.lib.stride_tricks.sliding_window_view(
        np.pad(mask, round(12 / 112 * side), "edge"), (2 * round(12 / 112 * side) + 1,) * 2
    )
    outside, inside = (far == 0).all((2, 3)), (far == 255).all((2, 3))
    assert (made[outside] == bearer[outside]).all()
    # The donor's, in the bearer's colours.
    for channel in range(3):
        ours, theirs = (image[inside][:, channel].astype(float) for image in (made, donor))
        assert np.corrcoef(ours, theirs)[0, 1] > 0.99


@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("part", list(PARTS))
def test_a_face_with_a_part_of_itself_is_itself(part: str, composition: str) -> None:
    image = face(3)
    made = composed(image, image, part_mask(part, 112), composition)
    assert made.shape == image.shape
    assert np.abs(made.astype(int) - image).max() <= (0 if composition == "alpha" else 2)


def test_poisson_keeps_what_lies_outside() -> None:
    bearer, donor = face(1), face(2)
    made = composed(bearer, donor, part_mask("eyes", 112), "poisson")
    outside = part_mask("eyes", 112) == 0
    assert np.abs(made.astype(int) - bearer)[outside].max() <= 2
    assert np.abs(made.astype(int) - bearer)[~outside].mean() > 5


def listed(tmp_path: Path, identities: int, images: int = 3) -> tuple[FaceCache, PairRows]:
    """A cache whose identities have this many images, and a list of all in a chain."""
    keys = [
        f"p{person:02d}/{100 * person + 11 + number}.jpg"
        for person in range(identities)
        for number in range(images)
    ]
    cache = build_keys(tmp_path / "cache", keys, size=28)
    names = cache.texts("key", cache.select())
    same = np.array([a.split("/")[0] == b.split("/")[0] for a, b in itertools.pairwise(names)])
    return cache, resolve(cache, PairList(list(names[:-1]), list(names[1:]), same, None))


def test_each_identity_is_used_once_with_two_photographs(tmp_path: Path) -> None:
    cache, rows = listed(tmp_path, 13)
    found = chimeras_of(cache, rows, None, 0, "alpha")
    assert len(found) == 6
    assert found.identities == 13
    label = [
        cache.read(some, ["label"])["label"]
        for some in (found.bearer, found.bearer_reference, found.donor, found.donor_reference)
    ]
    assert (label[0] == label[1]).all()
    assert (label[2] == label[3]).all()
    assert len({*label[0].tolist(), *label[2].tolist()}) == 12
    assert (found.bearer != found.bearer_reference).all()
    assert found.part.tolist() == list(range(6))
    again = chimeras_of(cache, rows, 4, 0, "alpha")
    assert again.bearer.tolist() == found.bearer[:4].tolist()
    assert again.donor.tolist() == found.donor[:4].tolist()
    images = found.images(cache, np.arange(6))
    assert (found.images(cache, np.array([3]))[0] == images[3]).all()
    other = chimeras_of(cache, rows, None, 1, "alpha")
    assert other.bearer.tolist() != found.bearer.tolist()


def test_without_two_identities_of_two_images_there_is_none(tmp_path: Path) -> None:
    for name, identities, images in (("one", 1, 4), ("each", 6, 1)):
        cache, rows = listed(tmp_path / name, identities, images)
        with pytest.raises(AttributionError, match=r"takes two; choose --protocol matched"):
            chimeras_of(cache, rows, None, 0, "alpha")


@given(st.integers(0, 10_000), st.sampled_from(sorted(PARTS)), st.sampled_from(COMPOSITIONS))
@settings(max_examples=20, deadline=None)
def test_light_and_contrast_of_donors_do_not_show(seed: int, part: str, composition: str) -> None:
    bearer = face(seed)
    darker = np.round(0.6 * bearer + [5, 20, 35]).astype(np.uint8)
    found = composed(bearer, darker, part_mask(part, len(bearer)), composition).astype(int)
    # Rounding of the darker copy, and the solver's.
    assert np.abs(found - bearer).mean() < 1.5
