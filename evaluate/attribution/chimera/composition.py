"""A face composed of two identities: one part from a donor, the rest from the bearer.

Which cells speak for whom is then known without asking any network.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.schema import REGIONS
from faceguide.evaluate.attribution.cells import CELLS, GRID, cell_bounds

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]

# Top, bottom, left, right in cells. The halves meet in the middle of a column.
PARTS: Mapping[str, Box] = {
    "bottom": (4, 7, 0, 7),
    "top": (0, 4, 0, 7),
    "left": (0, 7, 0, 3.5),
    "right": (0, 7, 3.5, 7),
    "eyes": (2, 4, 1, 6),
    "low centre": (4, 7, 2, 5),
}
# Small parts at eight places, each of 2×2 cells.
SMALL: Mapping[str, Box] = {
    f"cells {row}, {column}": (row, row + 2, column, column + 2)
    for row, column in ((1, 1), (1, 4), (2, 2), (3, 1), (3, 4), (4, 3), (5, 1), (5, 4))
}
# Landmark regions of either face, grown by this share of the side.
SWAPPED = tuple(f"{name}, by landmarks" for name in REGIONS)
_GROWN = 6 / 112
BOXES = {**PARTS, **SMALL}
ALL_PARTS = (*BOXES, *SWAPPED)
COMPOSITIONS = ("alpha", "poisson")
_EDGE = 3 / 112  # σ of the soft edge as a share of the side
# The face without hair and background, whose colours are matched, as shares of the side.
_FACE: Box = (24 / 112, 104 / 112, 24 / 112, 88 / 112)
_RIM = 8  # pixels around a picture for Poisson's equation, which needs a border


def _judged() -> NDArray[np.bool_]:
    """(7, 7) cells that are evaluated: without the margins of the crop."""
    inside = np.zeros((GRID, GRID), bool)
    inside[1:, 1:6] = True
    return inside


def part_cells(part: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(49,) the evaluated cells of the donor, and (49,) those of the bearer.

    A cell that a part cuts is of neither.
    """
    top, bottom, left, right = BOXES[part]
    along = np.arange(GRID)
    rows = (np.clip(np.minimum(along + 1, bottom) - np.maximum(along, top), 0, 1))[:, None]
    share = rows * np.clip(np.minimum(along + 1, right) - np.maximum(along, left), 0, 1)
    judged = _judged()
    inside, outside = (share == 1) & judged, (share == 0) & judged
    assert inside.any()
    assert outside.any()
    return inside.reshape(CELLS), outside.reshape(CELLS)


def region_mask(regions: Image, side: int) -> Image:
    """(side, side) uint8, 255 where one of two faces has a landmark region, and around it.

    Args:
        regions: (2, g, g) uint8, of the bearer and the donor.
    """
    large = cv2.resize(regions.max(0), (side, side), interpolation=cv2.INTER_LINEAR)
    width = 2 * round(_GROWN * side) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    grown = cv2.dilate((large > 127).astype(np.uint8) * 255, kernel)
    return np.asarray(grown, np.uint8)


def region_cells_of(mask: Image) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(49,) the evaluated cells that are mostly in a mask (S, S), (49,) and those outside it.

    The cell that has most of it is always of the part; without a cell outside there is no part.
    """
    share = cv2.resize(mask / 255.0, (GRID, GRID), interpolation=cv2.INTER_AREA).reshape(CELLS)
    judged = _judged().reshape(CELLS)
    inside = judged & (share >= min(0.5, float(share[judged].max())))
    outside = judged & (share <= 0.02) & ~inside
    return inside & outside.any(), outside


def part_mask(part: str, side: int) -> Image:
    """(side, side) uint8, 255 in the part."""
    edges = cell_bounds(side)
    # Halves of a cell lie between its two edges.
    places = [round(float(np.interp(at, np.arange(GRID + 1), edges))) for at in BOXES[part]]
    top, bottom, left, right = places
    mask = np.zeros((side, side), np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def matched_colours(donor: Image, bearer: Image) -> NDArray[np.float32]:
    """The donor (S, S, 3) with the bearer's mean and deviation of each channel over the face."""
    side = len(bearer)
    top, bottom, left, right = (round(share * side) for share in _FACE)
    found = donor.astype(np.float32)
    own, wanted = found[top:bottom, left:right], bearer[top:bottom, left:right].astype(np.float32)
    scale = wanted.std((0, 1)) / np.maximum(own.std((0, 1)), 1e-6)
    matched: NDArray[np.float32] = (found - own.mean((0, 1))) * scale + wanted.mean((0, 1))
    return np.clip(matched, 0, 255)


def blended(bearer: Image, filling: NDArray[np.floating] | Image, mask: Image) -> Image:
    """(S, S, 3) uint8 RGB: the bearer's face, within the mask (S, S), 0 to 255, the filling."""
    edge = _EDGE * len(bearer)
    soft = cv2.GaussianBlur(mask.astype(np.float32) / 255, (0, 0), edge)[..., None]
    return np.round(soft * filling + (1 - soft) * bearer).astype(np.uint8)


def composed(bearer: Image, donor: Image, mask: Image, composition: str = "alpha") -> Image:
    """(S, S, 3) uint8 RGB: the bearer's face with one part of the donor's.

    Args:
        bearer: (S, S, 3) uint8 RGB, aligned.
        donor: (S, S, 3), aligned alike.
        mask: (S, S), 0 to 255: the part, see `part_mask`.
        composition: "alpha", a soft edge, or "poisson" (Pérez et al., 2003, OpenCV's).
    """
    fitting = matched_colours(donor, bearer)
    if composition == "poisson":
        rim = ((_RIM, _RIM), (_RIM, _RIM))
        wide = [np.pad(image, (*rim, (0, 0)), "edge") for image in (fitting.round(), bearer)]
        area = np.pad(np.where(mask > 127, 255, 0).astype(np.uint8), rim)
        rows, columns = (np.flatnonzero(area.any(axis)) for axis in (1, 0))
        middle = tuple(int(at[0] + at[-1] + 1) // 2 for at in (columns, rows))
        found = cv2.seamlessClone(
            wide[0].astype(np.uint8), wide[1].astype(np.uint8), area, middle, cv2.NORMAL_CLONE
        )
        return np.ascontiguousarray(found[_RIM:-_RIM, _RIM:-_RIM]).astype(np.uint8)
    return blended(bearer, fitting, mask)
