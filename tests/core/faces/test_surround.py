"""Geometry of swapped surrounds, on noise and on the mean face moved about."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from faceguide.core.faces.face_oval import FACE_OVAL, blend_weight, filled, oval_of
from faceguide.core.faces.mean_face import mean_landmarks
from faceguide.core.faces.surround import (
    NEAREST,
    Donors,
    face_in_surround,
    surround_behind_face,
)

SIZE = 112
Floats = NDArray[np.float64]
Image = NDArray[np.uint8]

small = st.floats(-1, 1)
images = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
)


@st.composite
def faces(draw: st.DrawFn) -> Floats:
    """The mean face moved by up to 8 pixels, turned by up to 20°, enlarged by up to 15 %."""
    across, down, turn, larger = (draw(small) for _ in range(4))
    points = mean_landmarks()[:, :2].astype(np.float64) * SIZE
    angle, middle = np.deg2rad(20 * turn), points.mean(axis=0)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved = (points - middle) @ matrix * (1 + 0.15 * larger) + middle
    return moved + 8 * np.array([across, down])


def test_the_oval_is_a_ring_without_crossings_that_covers_half_a_crop() -> None:
    ring = mean_landmarks()[list(FACE_OVAL), :2].astype(np.float64) * SIZE
    assert len(set(FACE_OVAL)) == 36
    angle = np.unwrap(np.arctan2(*(ring - ring.mean(axis=0)).T[::-1]))
    assert (np.diff(angle) > 0).all()
    assert 0.42 < oval_of(mean_landmarks() * SIZE, SIZE).mean() < 0.52


@given(faces())
def test_drawn_outlines_have_the_area_of_their_polygon(points: Floats) -> None:
    ring = points[list(FACE_OVAL)]
    x, y = ring.T
    exact = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    inside = ring.min() > 0 and ring.max() < SIZE - 1
    drawn = filled(ring, SIZE).sum()
    assert drawn <= exact * 1.03
    if inside:
        assert drawn == pytest.approx(exact, rel=0.03)


@given(faces())
def test_a_blend_weight_is_full_well_inside_the_oval_and_nothing_outside(points: Floats) -> None:
    oval = oval_of(points, SIZE)
    weight = blend_weight(oval)
    assert (weight <= oval).all()
    middle = points[list(FACE_OVAL)].mean(axis=0)
    inner = filled(middle + 0.6 * (points[list(FACE_OVAL)] - middle), SIZE)
    np.testing.assert_allclose(weight[inner == 1], 1, atol=1e-3)


@settings(max_examples=40)
@given(images, faces(), images, faces())
def test_what_is_kept(face: Image, points: Floats, other: Image, places: Floats) -> None:
    laid_in = face_in_surround(face, points, other, places)
    outside = oval_of(places, SIZE) == 0
    np.testing.assert_array_equal(laid_in[outside], other[outside])
    behind = surround_behind_face(face, points, other, places)
    inside = blend_weight(oval_of(points, SIZE)) > 1 - 1e-4
    assert inside.any()
    np.testing.assert_array_equal(behind[inside], face[inside])
    assert (behind[oval_of(points, SIZE) == 0] != face[oval_of(points, SIZE) == 0]).any()


@given(images, faces())
def test_an_image_with_itself_stays_as_it_is(image: Image, points: Floats) -> None:
    for composed in (face_in_surround, surround_behind_face):
        made = composed(image, points, image, points).astype(int)
        assert abs(made - image).max() <= 2


def test_the_face_moves_to_the_other_ones_landmarks() -> None:
    """A dot at the tip of the nose arrives at the other face's tip."""
    points = mean_landmarks()[:, :2].astype(np.float64) * SIZE
    face = np.full((SIZE, SIZE, 3), 90, np.uint8)
    column, row = np.rint(points[1]).astype(int)
    face[row - 1 : row + 2, column - 1 : column + 2] = 255
    places = points + np.array([5.0, -7.0])
    made = face_in_surround(face, points, np.full_like(face, 90), places)
    found = np.unravel_index(made.sum(axis=2).argmax(), (SIZE, SIZE))
    assert np.abs(np.array(found) - (row - 7, column + 5)).max() <= 1


def test_a_face_takes_the_light_and_the_contrast_of_the_other_one() -> None:
    """Inside both ovals, in lightness: mean and spread become those of the other face."""
    rng = np.random.default_rng(0)
    points = mean_landmarks()[:, :2].astype(np.float64) * SIZE
    noise = rng.normal(0, 1, (SIZE, SIZE, 1)).repeat(3, 2)
    face = np.clip(90 + 12 * noise, 0, 255).astype(np.uint8)
    other = np.clip(150 + 18 * noise[::-1], 0, 255).astype(np.uint8)
    made = face_in_surround(face, points, other, points)
    inside = blend_weight(oval_of(points, SIZE)) > 1 - 1e-4
    assert made[inside].mean() == pytest.approx(other[inside].mean(), abs=2)
    assert made[inside].std() == pytest.approx(other[inside].std(), rel=0.1)


@settings(max_examples=20)
@given(images, images)
def test_a_face_without_landmarks_has_the_mean_ones(face: Image, other: Image) -> None:
    mean = mean_landmarks()[:, :2] * SIZE
    none = np.full((478, 3), np.nan)
    for composed in (face_in_surround, surround_behind_face):
        np.testing.assert_array_equal(
            composed(face, none, other, none), composed(face, mean, other, mean)
        )


def test_donors_are_the_nearest_of_other_identities() -> None:
    rng = np.random.default_rng(0)
    poses = rng.normal(0, 20, (300, 3))
    poses[7] = np.nan  # counts as frontal
    labels = np.repeat(np.arange(6), 50)
    labels[:100] = 0  # more of one identity than are looked at first
    donors = Donors(poses, labels)
    for index in (0, 7, 150, 299):
        near = donors.near(index)
        assert len(near) == NEAREST
        distance = np.abs(np.nan_to_num(poses) - np.nan_to_num(poses)[index]).sum(axis=1)
        distance[labels == labels[index]] = np.inf
        np.testing.assert_allclose(distance[near], np.sort(distance)[:NEAREST])
        chosen = donors.choose(index, rng.random(3))
        assert len(set(chosen)) == 3
        assert set(chosen) <= set(near)


def test_few_donors() -> None:
    poses = np.zeros((3, 3))
    assert list(Donors(poses, np.array([0, 0, 1])).choose(0, np.array([0.999, 0.5]))) == [2]
    assert len(Donors(poses, np.zeros(3, int)).near(1)) == 0
    assert set(Donors(poses, np.full(3, -1)).near(1)) == {0, 2}
