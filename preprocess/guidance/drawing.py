"""Heatmaps and region masks from landmarks: where a network's attention is wanted.

Two definitions of the regions eyes, nose and mouth: `hull`, the filled contours of MediaPipe's
face mesh, and `points`, discs around listed landmarks. Lists, radius and sigmas are data
(``points.json``), in pixels of a crop of 448, so that one table serves every crop size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.schema import REGIONS
from faceguide.core.commands.console import say
from faceguide.core.commands.option_types import FiniteRange
from faceguide.core.commands.settings import option
from faceguide.preprocess.guidance.point_table import TABLE_SIZE, Contour, PointTable, load_points
from faceguide.preprocess.guidance.polygon import coverage, to_cells

# Landmarks farther away than this many crop sides are no face; it also keeps squares finite.
FARTHEST = 1e4
# Discs are sampled on this many sub-cells along each side of a cell.
DISC_SAMPLES = 4
_LENGTH = FiniteRange(0, TABLE_SIZE, min_open=True)


class _PointsFile(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return load_points(Path(os.fsdecode(super().convert(value, param, ctx))))


@dataclass(frozen=True)
class GuidanceSettings:
    """How heatmaps and regions are drawn."""

    regions: Literal["hull", "points"] = option(
        "hull",
        "hull: filled contours of eyes, nose and mouth; points: discs at landmarks, of the radius "
        "in --points.",
    )
    grid: int = option(
        28, "Cells on a side of heatmaps and region masks.", type=click.IntRange(1, 1024)
    )
    table: PointTable = option(
        load_points,
        "JSON file of landmark indices, and of radius and sigmas in pixels at 448, instead of "
        "ours; `prep guidance --help` shows one.",
        "--points",
        type=_PointsFile(exists=True, path_type=Path),
    )
    radius: float | None = option(
        None,
        "Radius of the discs of --regions points, in pixels of a crop of 448.  [default: as "
        "--points says]",
        type=_LENGTH,
    )
    sigma: float | None = option(
        None,
        "Standard deviation of all points of the heatmap, in pixels of a crop of 448.  [default: "
        "as --points says]",
        type=_LENGTH,
    )

    @property
    def drawn(self) -> PointTable:
        """The table, with the radius and the sigma that were given besides."""
        table = self.table
        if self.radius is not None:
            table = replace(table, radius=self.radius)
        if self.sigma is not None:
            wide = {name: replace(g, sigma=self.sigma) for name, g in table.heatmap.items()}
            table = replace(table, heatmap=wide)
        return table

    def say_unused(self) -> None:
        """Say when the discs of the table's file are not used."""
        ours = load_points()
        names = ("points", "radius")
        unused = [name for name in names if getattr(self.table, name) != getattr(ours, name)]
        if unused and self.regions == "hull":
            say(
                f"Note: {self.table.file}: {' and '.join(unused)} of this file count with "
                "--regions points only, and --regions is hull"
            )
        if self.radius is not None and self.regions == "hull":
            say("Note: --radius counts with --regions points only, and --regions is hull")

    def recipe(self) -> dict[str, Any]:
        """Whatever changes a byte of the result, and nothing else, ready for JSON."""
        table = self.drawn
        heatmap = {
            name: {"points": list(group.points), "sigma": group.sigma}
            for name, group in table.heatmap.items()
        }
        recipe = {"regions": self.regions, "grid": self.grid, "heatmap": heatmap}
        if self.regions == "points":
            points = {region: list(table.points[region]) for region in REGIONS}
            return recipe | {"radius": table.radius, "points": points}
        hull = {
            region: [
                {"convex" if contour.convex else "ring": list(contour.points)}
                for contour in table.hull[region]
            ]
            for region in REGIONS
        }
        return recipe | {"hull": hull}


def render(
    landmarks: NDArray[np.float32], settings: GuidanceSettings, *, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw a block of faces.

    Args:
        landmarks: (N, 478, 2 or 3) in crop pixels divided by `size`, as the cache stores them:
            pixel centres at whole numbers, x right, y down. z is not used.
        size: side of the crop in pixels. A stored 0 is the *centre* of the first pixel, half a
            pixel inside the crop, so the position of the crop's edge depends on it.

    Returns:
        heatmap (N, G, G) uint8 and regions (N, 3, G, G) uint8 in the order eyes, nose, mouth;
        255 = 1.0. Both are zero for a face with x or y that is not finite.
    """
    cells = to_cells(np.asarray(landmarks[..., :2], np.float64) * size, size, settings.grid)
    usable = (np.abs(cells) < FARTHEST * settings.grid).all(axis=(1, 2))  # false for NaN too
    heatmap = np.zeros((len(cells), settings.grid, settings.grid), np.uint8)
    regions = np.zeros((len(cells), len(REGIONS), settings.grid, settings.grid), np.uint8)
    table = settings.drawn
    unit = settings.grid / TABLE_SIZE  # cells per pixel at 448

    # Small blocks bound the memory at any grid and keep the accumulators in the cache.
    faces = np.flatnonzero(usable)
    block = max(1, 2**15 // settings.grid**2)
    for first in range(0, len(faces), block):
        chosen = faces[first : first + block]
        part = cells[chosen]
        heatmap[chosen] = _to_bytes(gaussian_heatmap(part, table, settings.grid, unit))
        for index, region in enumerate(REGIONS):
            if settings.regions == "points":
                points = part[:, table.points[region]]
                area = discs(points, table.radius * unit, settings.grid)
            else:
                area = contours(part, table.hull[region], settings.grid)
            regions[chosen, index] = _to_bytes(area)
    return heatmap, regions


def _to_bytes(share: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(share * 255.0).astype(np.uint8)


def gaussian_heatmap(
    cells: NDArray[np.float64], table: PointTable, grid: int, unit: float
) -> NDArray[np.float32]:
    """max over points of exp(−d²/2σ²) at the cell centres, scaled to a maximum of 1 per face.

    exp is monotone, so the maximum is one exp of the smallest d²/2σ²; the scaling is a
    subtraction before it, which cannot underflow.

    Args:
        cells: (N, 478, 2) finite landmarks in cell units.
        unit: cells per pixel at 448.

    Returns:
        (N, grid, grid) float32 in 0 … 1.
    """
    centres = np.arange(grid) + 0.5
    chosen = [index for group in table.heatmap.values() for index in group.points]
    sigmas = [group.sigma * unit for group in table.heatmap.values() for _ in group.points]
    weights = 1.0 / (2.0 * np.square(sigmas))
    distances = np.square(centres - cells[:, chosen, :, None]) * weights[:, None, None]
    distances = distances.astype(np.float32)  # (N, P, 2, G): the x and y parts of d²/2σ²

    least = np.full((len(cells), grid, grid), np.inf, np.float32)
    total = np.empty_like(least)
    for point in range(len(chosen)):
        np.add(distances[:, point, 0, None, :], distances[:, point, 1, :, None], out=total)
        np.minimum(least, total, out=least)
    least -= least.min(axis=(1, 2), keepdims=True)
    return np.exp(np.negative(least, out=least), out=least)


def contours(
    cells: NDArray[np.float64], outlines: Sequence[Contour], grid: int
) -> NDArray[np.float32]:
    """The share of each cell inside any of `outlines`: (N, 478, 2) → (N, grid, grid).

    Areas of several outlines add up, which is exact while they do not overlap within a cell.
    """
    total = np.zeros((len(cells), grid, grid), np.float32)
    for outline in outlines:
        points = cells[:, outline.points]
        total += coverage(_convex_hulls(points) if outline.convex else points, grid)
    return np.minimum(total, 1.0, out=total)


def _convex_hulls(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, P, 2) → the same shape: each hull in order, its last vertex repeated."""
    hulls = np.empty_like(points)
    for hull, cloud in zip(hulls, np.ascontiguousarray(points, np.float32), strict=True):
        ring = cv2.convexHull(cloud)[:, 0]
        hull[: len(ring)] = ring
        hull[len(ring) :] = ring[-1]
    return hulls


def discs(points: NDArray[np.float64], radius: float, grid: int) -> NDArray[np.float32]:
    """The share of each cell inside any disc around `points`.

    Each of 4×4 sub-cells is counted by its distance to the nearest circle, as if the circle
    were straight and upright there. From a radius of 0.75 cells, a cell is off by less than 0.02
    along one circle, by up to 0.08 where circles cross, by less than 0.003 on average.

    Args:
        points: (N, P, 2) finite centres in cell units.
        radius: in cells.

    Returns:
        (N, grid, grid) float32 in 0 … 1.
    """
    total = np.zeros((len(points), grid, grid), np.float32)
    # Only the cells that some face's discs can reach: regions are small, aligned faces alike.
    left, top = np.clip(np.floor(points.min(axis=(0, 1)) - radius), 0, grid).astype(int)
    right, bottom = np.clip(np.ceil(points.max(axis=(0, 1)) + radius), 0, grid).astype(int)
    if left >= right or top >= bottom:
        return total
    x = np.arange(left * DISC_SAMPLES, right * DISC_SAMPLES)
    y = np.arange(top * DISC_SAMPLES, bottom * DISC_SAMPLES)
    x_squares = np.square((x + 0.5) / DISC_SAMPLES - points[:, :, 0, None]).astype(np.float32)
    y_squares = np.square((y + 0.5) / DISC_SAMPLES - points[:, :, 1, None]).astype(np.float32)
    nearest = np.full((len(points), len(y), len(x)), np.inf, np.float32)
    squares = np.empty_like(nearest)
    for point in range(points.shape[1]):
        np.add(x_squares[:, point, None, :], y_squares[:, point, :, None], out=squares)
        np.minimum(nearest, squares, out=nearest)
    inside = (radius - np.sqrt(nearest, out=nearest)) * DISC_SAMPLES + 0.5
    inside = np.clip(inside, 0.0, 1.0, out=inside)
    split = inside.reshape(len(points), bottom - top, DISC_SAMPLES, right - left, DISC_SAMPLES)
    total[:, top:bottom, left:right] = split.mean(axis=(2, 4))
    return total
