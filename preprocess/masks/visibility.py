"""The visible share of each cell of a face, from a mask of its photograph."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.faces import align
from faceguide.preprocess.guidance.point_table import PointTable
from faceguide.preprocess.guidance.polygon import cut, from_cells
from faceguide.preprocess.masks.mask_values import MaskError

# 7×7 is made of 14×14, so that the two agree to the bit.
FINE_GRID = 14


def cell_visibility(
    mask: NDArray[np.float32],
    source_size: tuple[int, int],
    transform: NDArray[np.floating],
    size: int,
    grid: int,
) -> NDArray[np.float16]:
    """Average the aligned mask over each cell of the crop, exactly.

    A cell is a turned square in the mask, whose pixels are squares of constant value. The sum
    over the cell is a line integral around it (Green's theorem) of the running sum along each
    mask row; cut at the pixel borders, the integrand is linear on every piece, so the middle of
    a piece gives its integral without error. Nothing is sampled, hence nothing aliases, however
    large or small the face is.

    Args:
        mask: (H, W) visible share of each pixel, 0 … 1.
        source_size: width and height of the photograph in pixels. The mask may have another
            resolution with the same aspect.
        transform: (2, 3) photograph pixels → crop pixels.
        size: side of the crop in pixels.
        grid: cells on each side; for a grid that divides 14, each cell is the mean of its
            cells at 14.

    Returns:
        (grid, grid) float16, 1 = visible; what lies outside the photograph is occluded.

    Raises:
        MaskError: when the mask has another geometry than the photograph.
        ValueError: when the transform is not finite or cannot be inverted.
    """
    height, width = mask.shape
    if not same_geometry((width, height), source_size):
        raise MaskError(
            f"the mask has {width}×{height} pixels, its photograph {source_size[0]}×"
            f"{source_size[1]}: expected the same size or the same aspect"
        )
    matrix = np.asarray(transform, np.float64)
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:, :2])) < 1e-12:
        raise ValueError("the transform is not finite or cannot be inverted")

    cells = FINE_GRID if FINE_GRID % grid == 0 else grid
    lines = from_cells(np.arange(cells + 1), size, cells)
    corners = np.stack(np.meshgrid(lines, lines), axis=-1)  # (cells + 1, cells + 1, x and y)
    # Mask coordinates count from the left and upper edge, in mask pixels.
    corners = align.apply(align.invert(matrix), corners) + 0.5
    corners *= np.array((width / source_size[0], height / source_size[1]))

    # Only the part of the mask under the crop is summed.
    left, top = np.clip(np.floor(corners.min(axis=(0, 1))), 0, (width, height)).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=(0, 1))), 0, (width, height)).astype(int)
    if left >= right or top >= bottom:
        return np.zeros((grid, grid), np.float16)
    part = mask[top:bottom, left:right]
    sums = _cell_sums(part, corners - (left, top))
    step_x, step_y = corners[0, 1] - corners[0, 0], corners[1, 0] - corners[0, 0]
    area = step_x[0] * step_y[1] - step_x[1] * step_y[0]
    averages = np.clip(sums / area, 0.0, 1.0).astype(np.float16)
    if cells == grid:
        return averages
    fold = cells // grid
    # From the rounded values: whoever averages a stored 14×14 gets the stored 7×7.
    blocks = averages.astype(np.float64).reshape(grid, fold, grid, fold)
    return blocks.mean(axis=(1, 3)).astype(np.float16)


def eyes_visible(
    mask: NDArray[np.float32],
    source_size: tuple[int, int],
    landmarks: NDArray[np.floating],
    table: PointTable,
) -> float:
    """The visible share of the eyes' middle, which a veil with a slit leaves free.

    Args:
        mask: (H, W) visible share of each pixel, 0 … 1.
        source_size: width and height of the photograph in pixels.
        landmarks: (478, 2 or 3) in pixels of the photograph.
        table: names the outlines of the eyes.

    Returns:
        0 … 1; what lies outside the photograph is occluded; NaN without landmarks.
    """
    outlines = [landmarks[list(outline.points), :2] for outline in table.hull["eyes"]]
    middle = np.concatenate([(points + points.mean(axis=0)) / 2 for points in outlines])
    if not np.isfinite(middle).all():
        return float("nan")
    height, width = mask.shape
    x, y = np.floor((middle + 0.5) * (width / source_size[0], height / source_size[1])).T
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    values = mask[y[inside].astype(int), x[inside].astype(int)]
    return float(values.sum() / len(middle))


def same_geometry(mask_size: tuple[int, int], source_size: tuple[int, int]) -> bool:
    """Whether a mask is its photograph at some scale, one pixel of rounding allowed.

    Args:
        mask_size: width and height in pixels.
        source_size: width and height in pixels.
    """
    across, down = mask_size[0] / source_size[0], mask_size[1] / source_size[1]
    rounding = 1.0 / source_size[0] + 1.0 / source_size[1]
    # One pixel of a very small mask says nothing about its aspect, hence the second bound.
    return abs(across - down) <= min(rounding, 0.02 * max(across, down))


def _cell_sums(mask: NDArray[np.float32], corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed integrals of `mask` over the cells between (C + 1, C + 1, 2) `corners`: (C, C)."""
    height, width = mask.shape
    cells = len(corners) - 1
    # The rows of a summed-area table differ by the running sums along the mask's rows.
    table = cv2.integral(mask, sdepth=cv2.CV_64F)  # (H + 1, W + 1)

    across = (corners[:, :-1], corners[:, 1:])  # (C + 1, C) cell borders from left to right
    down = (corners[:-1], corners[1:])  # (C, C + 1) cell borders from top to bottom
    start, end = (
        np.concatenate([one.reshape(-1, 2), two.reshape(-1, 2)])
        for one, two in zip(across, down, strict=True)
    )
    pieces = cut(start, end, height, width)
    before = table[pieces.row + 1, pieces.column] - table[pieces.row, pieces.column]
    value = mask[pieces.row, pieces.column]
    weights = (before + value * (pieces.x - pieces.column)) * pieces.rise
    sums = np.bincount(pieces.segment, weights=weights, minlength=len(start))
    integrals = np.asarray(sums, np.float64)
    along = integrals[: (cells + 1) * cells].reshape(cells + 1, cells)
    downwards = integrals[(cells + 1) * cells :].reshape(cells, cells + 1)
    # Around each cell: top to the right, right side down, bottom to the left, left side up.
    return along[:-1] + downwards[:, 1:] - along[1:] - downwards[:, :-1]
