"""Exact areas of polygons over a grid of cells.

Cell (row, column) covers the square [column, column + 1) × [row, row + 1); a position in cell
units therefore counts from the left and upper *edge* of the crop, whereas pixel positions (see
`align`) count from the *centre* of the first pixel. `to_cells` and `from_cells` are the only
place where the two meet.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def to_cells(pixels: NDArray[np.floating], size: int, grid: int) -> Floats:
    """Crop pixels (pixel centres at whole numbers) → cell units of `grid` cells a side.

    Args:
        pixels: positions of any shape, in pixels of the crop.
    """
    return (np.asarray(pixels, np.float64) + 0.5) * (grid / size)


def from_cells(cells: NDArray[np.number], size: int, grid: int) -> Floats:
    """The inverse of `to_cells`."""
    return np.asarray(cells, np.float64) * (size / grid) - 0.5


class Pieces(NamedTuple):
    """Line segments cut at every cell border that they cross, each piece inside one cell.

    Attributes:
        segment: (P,) index of the segment that the piece belongs to.
        row: (P,) row of its cell, 0 … height − 1; pieces above and below the grid are left out.
        column: (P,) column of its cell, clipped to 0 … width − 1.
        x: (P,) x of the middle of the piece, clipped to 0 … width.
        rise: (P,) signed growth of y along the piece.
    """

    segment: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    x: Floats
    rise: Floats


def cut(start: Floats, end: Floats, height: int, width: int) -> Pieces:
    """Cut segments at the borders of a height × width grid.

    Line integrals of dy are what all areas here are made of (Green's theorem), so segments
    without rise contribute nothing and are left out. A piece outside the grid is moved onto its
    left or right border, which changes no area inside the grid.

    Args:
        start: (E, 2) finite x and y in cell units.
        end: (E, 2).
    """
    segment = np.flatnonzero(start[:, 1] != end[:, 1])
    start, end = start[segment], end[segment]
    upwards = start[:, 1] > end[:, 1]
    owner, row, y0, y1, x0, x1 = _cut_axis(
        np.where(upwards, end[:, 1], start[:, 1]),
        np.where(upwards, start[:, 1], end[:, 1]),
        np.where(upwards, end[:, 0], start[:, 0]),
        np.where(upwards, start[:, 0], end[:, 0]),
        height,
    )
    inside = np.flatnonzero((row >= 0) & (row < height))
    owner, row = owner[inside], row[inside]
    y0, y1, x0, x1 = y0[inside], y1[inside], x0[inside], x1[inside]
    swap = x0 > x1
    piece, column, x_low, x_high, y_low, y_high = _cut_axis(
        np.where(swap, x1, x0),
        np.where(swap, x0, x1),
        np.where(swap, y1, y0),
        np.where(swap, y0, y1),
        width,
    )
    owner = owner[piece]
    rise = np.abs(y_high - y_low)
    return Pieces(
        segment=segment[owner],
        row=row[piece],
        column=np.clip(column, 0, width - 1),
        x=np.clip((x_low + x_high) / 2.0, 0.0, width),
        rise=np.where(upwards[owner], -rise, rise),
    )


def _cut_axis(
    low: Floats, high: Floats, at_low: Floats, at_high: Floats, cells: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats, Floats, Floats, Floats]:
    """Cut segments at the whole numbers 0 … cells of one coordinate.

    Args:
        low: (E,) smaller end of the coordinate that is cut; `high` the larger one.
        at_low: (E,) the other coordinate at `low`; `at_high` at `high`.
        cells: whole numbers beyond 0 … cells do not cut.

    Returns:
        For each piece: its segment, its cell (−1 … cells, both ends standing for outside),
        and its own low, high, at_low and at_high.
    """
    first = np.clip(np.floor(low), -1, cells).astype(np.intp)
    last = np.clip(np.floor(high), -1, cells).astype(np.intp)
    count = last - first + 1
    owner = np.repeat(np.arange(len(low)), count)
    cell = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count - first, count)

    low, high, at_low, at_high = low[owner], high[owner], at_low[owner], at_high[owner]
    span = high - low
    slope = (at_high - at_low) / np.where(span > 0, span, 1.0)
    is_first, is_last = cell == first[owner], cell == last[owner]
    # Both neighbours of a cut compute it by the same expression, so the pieces meet exactly.
    at_cell = at_low + (cell - low) * slope
    at_next = at_low + (cell + 1 - low) * slope
    return (
        owner,
        cell,
        np.where(is_first, low, cell),
        np.where(is_last, high, cell + 1),
        np.where(is_first, at_low, at_cell),
        np.where(is_last, at_high, at_next),
    )


def coverage(polygons: NDArray[np.floating], grid: int) -> NDArray[np.float32]:
    """The share of each cell that lies inside a polygon, exact up to rounding.

    The signed area between each edge piece and the right border of its cell is added to that
    cell, the rise of the piece to all cells on its right (a running sum along the row). The
    orientation and the first vertex do not matter, and vertices may repeat. Where a ring crosses
    itself within one cell, the parts of opposite orientation are subtracted.

    Args:
        polygons: (N, V, 2) x and y in cell units; a polygon with a value that is not finite
            covers nothing.

    Returns:
        (N, grid, grid) float32 in 0 … 1.
    """
    vertices = np.asarray(polygons, np.float64)
    number, corners, _ = vertices.shape
    finite = np.asarray(np.isfinite(vertices).all(axis=(1, 2)))
    vertices = np.where(finite[:, None, None], vertices, 0.0)
    ends = np.roll(vertices, -1, axis=1)
    pieces = cut(vertices.reshape(-1, 2), ends.reshape(-1, 2), grid, grid)

    # One column more than the grid takes what runs out on the right.
    place = ((pieces.segment // corners) * grid + pieces.row) * (grid + 1) + pieces.column
    to_the_right = pieces.rise * (pieces.x - pieces.column)
    cells = np.bincount(
        np.concatenate([place, place + 1]),
        weights=np.concatenate([pieces.rise - to_the_right, to_the_right]),
        minlength=number * grid * (grid + 1),
    ).reshape(number, grid, grid + 1)
    areas = np.abs(np.cumsum(cells, axis=2)[:, :, :grid])
    return np.minimum(areas, 1.0).astype(np.float32)
