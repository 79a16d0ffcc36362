"""The 49 cells of a face crop: attributions per cell, and the cells that a map claims.

A map is tested in 7×7 cells of equal area, the grid of the occlusion targets. Pixels would make
"the high part" a few specks and "the low part" the whole face, and the test one of area.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GRID = 7
CELLS = GRID * GRID
SHARE = 0.2  # of the cells that make the high set, and likewise the low set
Q = int(SHARE * CELLS)  # 9


def cell_bounds(side: int) -> NDArray[np.int64]:
    """(8,) pixel edges of the cells along one axis; widths differ by one pixel at most."""
    return np.round(np.linspace(0, side, GRID + 1)).astype(np.int64)


def cell_index(side: int) -> NDArray[np.int64]:
    """(side, side) number of the cell, 0 to 48 row by row, that each pixel lies in."""
    along = np.repeat(np.arange(GRID), np.diff(cell_bounds(side)))
    return along[:, None] * GRID + along[None, :]


def cell_masks(side: int) -> Tensor:
    """(49, S, S) bool: the pixels of each cell."""
    index = torch.from_numpy(cell_index(side))
    return index[None] == torch.arange(CELLS)[:, None, None]


def pool(maps: Tensor) -> Tensor:
    """Mean over each cell, (N, 49).

    Args:
        maps: (N, h, w). A map whose side is no multiple of 7 and that is coarser than 56 is
            interpolated first (bilinear), so that no cell is a mixture by accident of rounding.
    """
    side = maps.shape[-1]
    if side % GRID and side < 8 * GRID:
        maps = torch.nn.functional.interpolate(
            maps[:, None], size=(8 * GRID, 8 * GRID), mode="bilinear", align_corners=False
        )[:, 0]
        side = 8 * GRID
    if side % GRID == 0:
        return torch.nn.functional.avg_pool2d(maps[:, None], side // GRID)[:, 0].flatten(1)
    index = torch.from_numpy(cell_index(side)).to(maps.device).flatten()
    total = maps.new_zeros(len(maps), CELLS).index_add_(1, index, maps.flatten(1))
    return total / torch.bincount(index, minlength=CELLS)


def cell_attribution(maps: Tensor, rectify: bool = False) -> Tensor:
    """Claimed importance per cell, (N, 49) ≥ 0: the mean of |map| over the cell.

    Args:
        maps: (N, h, w) raw and signed, summed over channels.
        rectify: count positive values only, as the CAM family is defined.
    """
    return pool(maps.clamp_min(0) if rectify else maps.abs())


def pair_rng(pair: int, seed: int, what: str = "") -> np.random.Generator:
    """Random numbers of a pair: the same for every method, part and order of the work."""
    text = f"{seed}/{pair}/{what}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "little"))


def claimed_sets(
    cells: NDArray[np.floating], rng: np.random.Generator, q: int = Q
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The high and the low set of one map, as masks over its cells.

    The q highest and the q lowest cells, ties broken at random. Where the two sets meet at one
    value, the cells of that value leave the set that has others: a map with one clear cell and
    48 zeros claims that one cell. Every high cell is then strictly above every low one; where
    that cannot be had, both sets are empty ("tied").

    Args:
        cells: (U,) attributions.
        q: size of either set before ties are taken out.
    """
    order = np.lexsort((rng.random(len(cells)), cells))
    low, high = np.zeros(len(cells), bool), np.zeros(len(cells), bool)
    low[order[:q]], high[order[-q:]] = True, True
    meeting = cells[low].max()
    if cells[high].min() <= meeting:
        if (cells[high] > meeting).any():
            high &= cells > meeting
        elif (cells[low] < meeting).any():
            low &= cells < meeting
        else:
            low[:], high[:] = False, False
    return high, low
