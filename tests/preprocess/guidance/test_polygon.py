"""Exact areas: against the shoelace formula, against counting, and at the border."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceguide.preprocess.guidance.polygon import coverage, cut, from_cells, to_cells

GRID = 14
seeds = st.integers(0, 2**32 - 1)


def star(rng: np.random.Generator, corners: int, centre: float, reach: float) -> np.ndarray:
    """A simple polygon: corners at increasing angles, less than half a turn apart."""
    angles = (np.arange(corners) + rng.uniform(0, 0.9, corners)) * (2 * np.pi / corners)
    radii = rng.uniform(0.3, 1.0, corners) * reach
    return centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def shoelace(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def clip_to_square(polygon: np.ndarray, low: float, high: float) -> np.ndarray:
    """Sutherland and Hodgman 1974: one half-plane after another."""
    for axis, sign, bound in ((0, 1, low), (0, -1, -high), (1, 1, low), (1, -1, -high)):
        inside = sign * polygon[:, axis] >= bound
        corners = []
        for i in range(len(polygon)):
            a, b = polygon[i - 1], polygon[i]
            if inside[i - 1] != inside[i]:
                share = (bound - sign * a[axis]) / (sign * (b[axis] - a[axis]))
                corners.append(a + share * (b - a))
            if inside[i]:
                corners.append(b)
        if not corners:
            return np.zeros((3, 2))
        polygon = np.array(corners)
    return polygon


@given(seeds, st.integers(4, 24))
def test_sum_is_the_shoelace_area(seed: int, corners: int) -> None:
    polygon = star(np.random.default_rng(seed), corners, GRID / 2, 6.5)
    assert coverage(polygon[None], GRID).sum() == pytest.approx(shoelace(polygon), abs=1e-5)


@given(seeds, st.integers(3, 12))
def test_each_cell_is_the_area_of_the_clipped_polygon(seed: int, corners: int) -> None:
    rng = np.random.default_rng(seed)
    cloud = rng.uniform(-4, GRID + 4, (corners, 2)).astype(np.float32)
    polygon = cv2.convexHull(cloud)[:, 0].astype(np.float64)
    areas = coverage(polygon[None], GRID)[0]
    for row, column in rng.integers(0, GRID, (8, 2)):
        corner = (column, row)
        expected = shoelace(clip_to_square(polygon - corner, 0.0, 1.0))
        assert areas[row, column] == pytest.approx(expected, abs=1e-6)


@given(seeds, st.integers(3, 12))
def test_clipping_at_the_border_is_exact(seed: int, corners: int) -> None:
    rng = np.random.default_rng(seed)
    cloud = rng.normal(GRID / 2, 15, (corners, 2)).astype(np.float32)
    polygon = cv2.convexHull(cloud)[:, 0].astype(np.float64)
    expected = shoelace(clip_to_square(polygon, 0.0, GRID))
    assert coverage(polygon[None], GRID).sum() == pytest.approx(expected, abs=1e-4)


@given(seeds, st.integers(4, 16), st.integers(0, 15))
def test_start_and_orientation_do_not_matter(seed: int, corners: int, start: int) -> None:
    polygon = star(np.random.default_rng(seed), corners, 6.3, 9.0)
    areas = coverage(polygon[None], GRID)
    turned = coverage(np.roll(polygon, start, axis=0)[None], GRID)
    np.testing.assert_allclose(turned, areas, atol=1e-6)
    np.testing.assert_allclose(coverage(polygon[None, ::-1], GRID), areas, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_concave_polygons_agree_with_counting(seed: int) -> None:
    polygon = star(np.random.default_rng(seed), 9, 4.0, 4.5)
    samples, grid = 64, 8
    centres = (np.arange(grid * samples) + 0.5) / samples
    x, y = np.meshgrid(centres, centres)
    inside = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        inside ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    counted = inside.reshape(grid, samples, grid, samples).mean(axis=(1, 3))
    np.testing.assert_allclose(coverage(polygon[None], grid)[0], counted, atol=0.02)


def test_rectangle_by_hand() -> None:
    areas = coverage(np.array([[(0.5, 1.0), (2.25, 1.0), (2.25, 2.5), (0.5, 2.5)]]), 4)
    expected = np.zeros((4, 4))
    expected[1, :3] = (0.5, 1.0, 0.25)
    expected[2, :3] = (0.25, 0.5, 0.125)
    np.testing.assert_allclose(areas[0], expected, atol=1e-12)


def test_polygons_of_a_block_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(5)
    block = np.stack([star(rng, 7, 7.0, reach) for reach in (2, 30, 6, 12)])
    together = coverage(block, GRID)
    for polygon, areas in zip(block, together, strict=True):
        np.testing.assert_array_equal(coverage(polygon[None], GRID)[0], areas)


def test_repeated_vertices_and_cell_borders_add_nothing() -> None:
    square = np.array([(1, 1), (3, 1), (3, 3), (1, 3)], float)
    areas = coverage(np.repeat(square, 3, axis=0)[None], 4)[0]
    expected = np.zeros((4, 4))
    expected[1:3, 1:3] = 1
    np.testing.assert_array_equal(areas, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_cover_nothing(value: float) -> None:
    block = np.tile(np.array([(1, 1), (3, 1), (3, 3), (1, 3)], float), (2, 1, 1))
    block[0, 2, 1] = value
    areas = coverage(block, 4)
    assert not areas[0].any()
    assert areas[1].sum() == 4


def test_huge_polygons_fill_the_grid() -> None:
    far = 1e12
    areas = coverage(np.array([[(-far, -far), (far, -far), (far, far), (-far, far)]]), GRID)
    np.testing.assert_array_equal(areas, np.ones((1, GRID, GRID), np.float32))


@given(seeds)
def test_pieces_stay_in_their_cells_and_add_up(seed: int) -> None:
    rng = np.random.default_rng(seed)
    start, end = rng.uniform(0, 5, (2, 20, 2)) * (1.6, 1.0)
    pieces = cut(start, end, 5, 8)
    assert (pieces.x >= pieces.column - 1e-9).all()
    assert (pieces.x <= pieces.column + 1 + 1e-9).all()
    assert (np.abs(pieces.rise) <= 1 + 1e-9).all()
    rise = np.bincount(pieces.segment, pieces.rise, minlength=20)
    np.testing.assert_allclose(rise, (end - start)[:, 1], atol=1e-9)
    # ∫ x dy of a straight segment is its rise times the x of its middle.
    moment = np.bincount(pieces.segment, pieces.rise * pieces.x, minlength=20)
    np.testing.assert_allclose(moment, rise * (start + end)[:, 0] / 2, atol=1e-9)


@pytest.mark.parametrize("size", [112, 448])
def test_cells_count_from_the_edge_and_pixels_from_the_first_centre(size: int) -> None:
    np.testing.assert_allclose(to_cells(np.array([-0.5, size - 0.5]), size, 28), [0, 28])
    np.testing.assert_allclose(to_cells(np.array([(size - 1) / 2]), size, 28), [14])
    pixels = np.random.default_rng(0).uniform(-9, size, (5, 2))
    np.testing.assert_allclose(from_cells(to_cells(pixels, size, 14), size, 14), pixels)
