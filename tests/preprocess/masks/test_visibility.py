"""Cell averages: exact against counting, at every scale of the face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceguide.core.faces import align
from faceguide.preprocess.masks.mask_files import MaskError, MaskSettings, read_mask
from faceguide.preprocess.masks.visibility import cell_visibility, same_geometry

SIZE = 112


def onto_crop(angle: float, scale: float, source: tuple[float, float]) -> np.ndarray:
    """The similarity that takes the photograph's point `source` to the middle of the crop."""
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
    matrix[:, 2] = (SIZE - 1) / 2 - matrix[:, :2] @ np.array(source)
    return matrix


def counted(
    mask: np.ndarray, source_size: tuple[int, int], matrix: np.ndarray, grid: int, samples: int
) -> np.ndarray:
    """The mask's pixel under each of samples × samples points of every cell, averaged."""
    height, width = mask.shape
    points = (np.arange(grid * samples) + 0.5) * SIZE / (grid * samples) - 0.5
    crop = np.stack(np.meshgrid(points, points), axis=-1)
    source = align.apply(align.invert(matrix), crop)
    # A photograph's pixel reaches half a pixel to each side of its centre.
    columns = np.floor((source[..., 0] + 0.5) * width / source_size[0]).astype(int)
    rows = np.floor((source[..., 1] + 0.5) * height / source_size[1]).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    values = np.where(inside, mask[rows.clip(0, height - 1), columns.clip(0, width - 1)], 0.0)
    return values.reshape(grid, samples, grid, samples).mean(axis=(1, 3))


# How much larger the face is than its crop: 10×, 3×, as large, and 10× smaller.
@pytest.mark.parametrize(
    ("scale", "width", "height"), [(0.1, 1010, 1100), (0.33, 320, 340), (1, 105, 120), (10, 11, 12)]
)
@pytest.mark.parametrize(("binary", "angle"), [(True, 0.4), (False, -2.6)])
def test_averages_agree_with_counting(
    binary: bool, angle: float, scale: float, width: int, height: int
) -> None:
    rng = np.random.default_rng(7)
    mask = rng.random((height, width)).astype(np.float32)
    if binary:
        mask = (mask > 0.4).astype(np.float32)
    matrix = onto_crop(angle, scale, (width * 0.45, height * 0.52))
    cells = cell_visibility(mask, (width, height), matrix, SIZE, 7)
    assert cells.dtype == np.float16
    expected = counted(mask, (width, height), matrix, 7, 256)
    assert cells.min() < 0.5  # the crop reaches over the photograph's border
    np.testing.assert_allclose(cells, expected, atol=2e-3)


@settings(deadline=None, max_examples=10)
@given(
    st.floats(-np.pi, np.pi),
    st.floats(np.log(0.2), np.log(8.0)).map(np.exp),
    st.integers(0, 2**32 - 1),
)
def test_any_similarity_agrees_with_counting(angle: float, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = (rng.random((40, 30)) > 0.5).astype(np.float32)
    matrix = onto_crop(angle, scale, (rng.uniform(0, 30), rng.uniform(0, 40)))
    cells = cell_visibility(mask, (30, 40), matrix, SIZE, 14)
    np.testing.assert_allclose(cells, counted(mask, (30, 40), matrix, 14, 96), atol=0.02)


def test_whole_pixels_are_averaged_by_blocks() -> None:
    mask = np.random.default_rng(0).random((112, 112)).astype(np.float32)
    identity = np.eye(3)[:2]
    expected = mask.astype(np.float64).reshape(14, 8, 14, 8).mean(axis=(1, 3)).astype(np.float16)
    cells = cell_visibility(mask, (112, 112), identity, SIZE, 14)
    np.testing.assert_array_equal(cells, expected)


@given(st.integers(0, 2**32 - 1))
def test_7_is_the_exact_mean_of_14(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((60, 50)).astype(np.float32)
    matrix = onto_crop(rng.uniform(-3, 3), rng.uniform(0.5, 5), (25, 30))
    fine = cell_visibility(mask, (50, 60), matrix, SIZE, 14)
    coarse = cell_visibility(mask, (50, 60), matrix, SIZE, 7)
    mean = fine.astype(np.float64).reshape(7, 2, 7, 2).mean(axis=(1, 3))
    np.testing.assert_array_equal(coarse, mean.astype(np.float16))


def test_a_grid_that_does_not_divide_14() -> None:
    mask = np.random.default_rng(0).random((112, 112)).astype(np.float32)
    cells = cell_visibility(mask, (112, 112), np.eye(3)[:2], SIZE, 28)
    expected = mask.reshape(28, 4, 28, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(cells, expected, atol=3e-4)


def test_a_visible_photograph_is_all_ones_and_a_hidden_one_all_zeros() -> None:
    matrix = onto_crop(0.3, 0.9, (250, 250))
    ones = cell_visibility(np.ones((500, 500), np.float32), (500, 500), matrix, SIZE, 7)
    np.testing.assert_array_equal(ones, np.ones((7, 7)))
    zeros = cell_visibility(np.zeros((500, 500), np.float32), (500, 500), matrix, SIZE, 7)
    np.testing.assert_array_equal(zeros, np.zeros((7, 7)))


def test_outside_of_the_photograph_is_hidden() -> None:
    mask = np.ones((112, 112), np.float32)
    half = np.array([[1.0, 0.0, 56.0], [0.0, 1.0, 0.0]])  # moved to the right by half a crop
    cells = cell_visibility(mask, (112, 112), half, SIZE, 14)
    assert not cells[:, :7].any()
    assert (cells[:, 7:] == 1).all()
    away = np.array([[1.0, 0.0, 1000.0], [0.0, 1.0, 0.0]])
    assert not cell_visibility(mask, (112, 112), away, SIZE, 14).any()


def test_a_mirrored_transform_has_positive_areas() -> None:
    mask = np.random.default_rng(0).random((112, 112)).astype(np.float32)
    mirror = np.array([[-1.0, 0.0, 111.0], [0.0, 1.0, 0.0]])
    np.testing.assert_array_equal(
        cell_visibility(mask, (112, 112), mirror, SIZE, 14),
        cell_visibility(mask, (112, 112), np.eye(3)[:2], SIZE, 14)[:, ::-1],
    )


@pytest.mark.parametrize("factor", [2, 3])
def test_a_mask_of_another_resolution_is_scaled(factor: int) -> None:
    mask = np.random.default_rng(0).random((60, 50)).astype(np.float32)
    finer = np.repeat(np.repeat(mask, factor, axis=0), factor, axis=1)
    matrix = onto_crop(0.5, 2.0, (25, 30))
    cells = cell_visibility(mask, (50, 60), matrix, SIZE, 14)
    same = cell_visibility(finer, (50, 60), matrix, SIZE, 14)
    np.testing.assert_allclose(same, cells, atol=5e-4)


@pytest.mark.parametrize(
    ("mask_size", "source_size", "same"),
    [
        ((250, 250), (250, 250), True),
        ((1024, 768), (4000, 3000), True),
        ((333, 500), (1000, 1500), True),  # 333.3 rounded
        ((112, 112), (1023, 1024), True),
        ((112, 112), (250, 300), False),
        ((768, 1024), (1024, 768), False),
        ((250, 260), (250, 250), False),
        ((1, 1), (3, 2), False),
    ],
)
def test_same_geometry(
    mask_size: tuple[int, int], source_size: tuple[int, int], same: bool
) -> None:
    assert same_geometry(mask_size, source_size) is same
    assert same_geometry(mask_size[::-1], source_size[::-1]) is same


def test_another_geometry_names_both_sizes() -> None:
    mask = np.ones((200, 100), np.float32)
    with pytest.raises(MaskError, match=r"100×200 .*640×480"):
        cell_visibility(mask, (640, 480), np.eye(3)[:2], SIZE, 7)


@pytest.mark.parametrize("matrix", [np.zeros((2, 3)), np.full((2, 3), np.nan)])
def test_a_transform_that_is_none(matrix: np.ndarray) -> None:
    with pytest.raises(ValueError, match="not finite or cannot be inverted"):
        cell_visibility(np.ones((9, 9), np.float32), (9, 9), matrix, SIZE, 7)


def test_real_masks_keep_their_mean(shared: Path) -> None:
    folder = shared / "data" / "maskedface_seg_dev" / "masks"
    visible = MaskSettings("visible", ((128, 0, 0),))
    for path in sorted(folder.iterdir())[:5]:
        mask = read_mask(path, visible)
        height, width = mask.shape
        matrix = align.whole_image(width, height, SIZE)
        cells = cell_visibility(mask, (width, height), matrix, SIZE, 14)
        # The crop holds the whole photograph, so the mean of the cells is that of the mask.
        assert cells.astype(np.float64).mean() == pytest.approx(mask.mean(), abs=2e-4)
