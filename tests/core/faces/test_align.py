"""The one transform: what it must keep, and that images and points go through it alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceguide.core.faces import align
from faceguide.preprocess.guidance import drawing, point_table

turns = st.floats(-np.pi, np.pi)
scales = st.floats(np.log(0.1), np.log(5.0)).map(np.exp)
seeds = st.integers(0, 2**32 - 1)


def similarity_matrix(angle: float, scale: float, shift: tuple[float, float]) -> np.ndarray:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


@given(turns, scales, seeds)
def test_similarity_recovers_the_transform(angle: float, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 500, (5, 2))
    matrix = similarity_matrix(angle, scale, tuple(rng.uniform(-300, 300, 2)))
    found = align.similarity(points, align.apply(matrix, points))
    np.testing.assert_allclose(found, matrix, rtol=1e-8, atol=1e-6)


@given(seeds)
def test_no_other_similarity_is_closer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, target = rng.uniform(0, 100, (5, 2)), rng.uniform(0, 112, (5, 2))
    best = align.similarity(points, target)
    a, b, x, y = best[0, 0], best[1, 0], best[0, 2], best[1, 2]

    def error(a: float, b: float, x: float, y: float) -> float:
        moved = align.apply(np.array([[a, -b, x], [b, a, y]]), points)
        return float(np.square(moved - target).sum())

    least = error(a, b, x, y)
    for step in np.vstack([np.eye(4), -np.eye(4)]) * (1e-3, 1e-3, 0.1, 0.1):
        assert error(a + step[0], b + step[1], x + step[2], y + step[3]) > least


@given(seeds)
def test_similarity_never_mirrors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = align.template(112) * (-1, 1) + rng.normal(0, 2, (5, 2))
    matrix = align.similarity(points, align.template(112))
    assert np.linalg.det(matrix[:, :2]) > 0
    np.testing.assert_allclose(matrix[0, 0], matrix[1, 1])
    np.testing.assert_allclose(matrix[0, 1], -matrix[1, 0])


@pytest.mark.parametrize("value", [3.0, np.nan, np.inf])
def test_similarity_refuses_points_without_extent(value: float) -> None:
    points = np.full((5, 2), value)
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="coincide or are not"):
        align.similarity(points, align.template(112))


def test_similarity_refuses_a_collapsed_fit() -> None:
    points = align.template(112)
    with pytest.raises(ValueError, match="do not fit the template"):
        align.similarity(points, np.full((5, 2), 7.0))


@given(turns, scales, seeds)
def test_invert_brings_points_back(angle: float, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = similarity_matrix(angle, scale, tuple(rng.uniform(-300, 300, 2)))
    points = rng.uniform(-50, 500, (4, 6, 2))
    back = align.apply(align.invert(matrix), align.apply(matrix, points))
    np.testing.assert_allclose(back, points, atol=1e-7)


def test_apply_scales_z_like_x_and_y() -> None:
    matrix = similarity_matrix(0.7, 2.5, (3.0, 4.0))
    points = np.random.default_rng(0).normal(size=(478, 3))
    moved = align.apply(matrix, points)
    apart = np.linalg.norm(points[:, None] - points, axis=2)
    np.testing.assert_allclose(np.linalg.norm(moved[:, None] - moved, axis=2), 2.5 * apart)


def test_five_points_are_in_the_order_of_the_template() -> None:
    landmarks = np.zeros((2, 478, 3), np.float32)
    landmarks[:, :, 0] = np.arange(478)
    assert align.five_points(landmarks)[1, :, 0].tolist() == [468, 473, 1, 61, 291]
    left_eye, right_eye, nose, left_mouth, right_mouth = align.template(112)
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]


@pytest.mark.parametrize("size", [112, 160, 224, 448])
def test_template_scales_about_the_edges_of_the_crop(size: int) -> None:
    # In edge units the template is the same share of every crop.
    np.testing.assert_allclose(
        (align.template(size) + 0.5) / size, (align.TEMPLATE_112 + 0.5) / 112, rtol=1e-12
    )


def test_margin_shrinks_the_template_about_the_middle() -> None:
    plain, wide = align.template(112), align.template(112, margin=0.25)
    np.testing.assert_allclose((wide - 55.5) * 1.5, plain - 55.5)


@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([112, 224]))
def test_whole_image_fits_and_is_centred(width: int, height: int, size: int) -> None:
    matrix = align.whole_image(width, height, size)
    edges = align.apply(matrix, np.array([(-0.5, -0.5), (width - 0.5, height - 0.5)]))
    assert edges.min() >= -0.5 - 1e-6
    assert edges.max() <= size - 0.5 + 1e-6
    np.testing.assert_allclose(edges.mean(axis=0), (size - 1) / 2)
    np.testing.assert_allclose((edges[1] - edges[0]).max(), size)


def test_whole_image_of_an_aligned_crop_changes_nothing() -> None:
    image = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    matrix = align.whole_image(112, 112, 112)
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(align.warp(image, matrix, 112), image)


def test_outside_of_the_image_is_black() -> None:
    image = np.full((40, 40, 3), 200, np.uint8)
    crop = align.warp(image, similarity_matrix(0.0, 1.0, (20.0, 0.0)), 64)
    assert (crop[:40, 20:60] == 200).all()
    assert not crop[:, :20].any()
    assert not crop[40:].any()


@settings(max_examples=60, deadline=None)
@given(turns, scales, st.floats(20, 91), st.floats(20, 91))
def test_a_landmark_stays_on_its_pixel(angle: float, scale: float, x: float, y: float) -> None:
    """A blob in the photograph, its landmark and its heatmap have one centre in the crop."""
    size, half = 112, 60.0
    width, height = int(2 * half / scale), int(2.2 * half / scale)
    landmark = np.array([0.47 * width, 0.52 * height])
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    squares = (columns - landmark[0]) ** 2 + (rows - landmark[1]) ** 2
    blob = 255 * np.exp(-squares * (scale / 3.0) ** 2 / 2)
    image = np.repeat(np.rint(blob).astype(np.uint8)[..., None], 3, axis=2)

    matrix = similarity_matrix(angle, scale, (0.0, 0.0))
    matrix[:, 2] = (x, y) - matrix[:, :2] @ landmark
    crop = align.warp(image, matrix, size)[..., 0].astype(float)
    moved = align.apply(matrix, landmark[None])[0]
    np.testing.assert_allclose(centre(crop), moved, atol=0.12)

    landmarks = np.full((1, 478, 2), 0.5, np.float32)
    landmarks[0, 1] = moved / size
    one = point_table.Gaussians((1,), 12.0)
    base = point_table.load_points()
    table = point_table.PointTable(base.points, base.radius, {"one": one}, base.hull)
    drawn = drawing.GuidanceSettings(grid=size, table=table)
    heatmap, _ = drawing.render(landmarks, drawn, size=size)
    np.testing.assert_allclose(centre(heatmap[0].astype(float)), moved, atol=0.05)


def centre(values: np.ndarray) -> np.ndarray:
    """x and y of the centre of mass, in pixels."""
    rows, columns = np.indices(values.shape)
    return np.array([(columns * values).sum(), (rows * values).sum()]) / values.sum()
