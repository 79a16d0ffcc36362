"""Heatmaps and region masks from landmarks: where a network's attention is wanted.

Two definitions of the regions eyes, nose and mouth: `hull`, the filled contours of MediaPipe's
face mesh, and `points`, discs around listed landmarks. Lists, radius and sigmas are data
(``points.json``), in pixels of a crop of 448, so that one table serves every crop size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.commands.console import say
from faceguide.core.commands.settings import option
from faceguide.core.errors import FaceguideError
from faceguide.core.faces import LANDMARKS
from faceguide.preprocess.guidance.polygon import coverage, to_cells

REGIONS = ("eyes", "nose", "mouth")
TABLE_SIZE = 448  # the crop whose pixels are the unit of radius and sigma
POINTS_FILE = Path(__file__).with_name("points.json")

# Landmarks farther away than this many crop sides are no face; it also keeps squares finite.
FARTHEST = 1e4
# Discs are sampled on this many sub-cells along each side of a cell.
DISC_SAMPLES = 4


class PointsError(FaceguideError):
    """A points file that cannot be used as it stands."""


@dataclass(frozen=True)
class Gaussians:
    """Landmarks that share one width in the heatmap.

    Attributes:
        sigma: standard deviation in pixels at 448.
    """

    points: tuple[int, ...]
    sigma: float


@dataclass(frozen=True)
class Contour:
    """One outline of a region.

    Attributes:
        points: landmark indices; in drawing order unless `convex`.
        convex: draw the convex hull of the points instead of the ring through them.
    """

    points: tuple[int, ...]
    convex: bool


@dataclass(frozen=True)
class PointTable:
    """What a points file holds.

    Attributes:
        points: landmark indices of each region, for ``regions="points"``.
        radius: radius of their discs in pixels at 448.
        heatmap: groups of landmarks by name.
        hull: outlines of each region, for ``regions="hull"``.
        file: where it was read; None = the built-in one.
    """

    points: dict[str, tuple[int, ...]]
    radius: float
    heatmap: dict[str, Gaussians]
    hull: dict[str, tuple[Contour, ...]]
    file: Path | None = field(default=None, compare=False)


def load_points(path: Path | None = None) -> PointTable:
    """Read a points file; the built-in one without `path`.

    Raises:
        PointsError: one line that names the file and the field.
    """
    source = path or POINTS_FILE
    try:
        table = json.loads(source.read_text("utf-8"), object_pairs_hook=_unique)
        table = _fields(table, ("points", "radius", "heatmap", "hull"), "the file")
        points = _fields(table["points"], REGIONS, "points")
        hull = _fields(table["hull"], REGIONS, "hull")
        groups = table["heatmap"]
        if not isinstance(groups, dict) or not groups:
            raise ValueError("heatmap: expected named groups of points with a sigma")
        return PointTable(
            points={region: _indices(points[region], f"points.{region}") for region in REGIONS},
            radius=_length(table["radius"], "radius"),
            heatmap={name: _gaussians(group, f"heatmap.{name}") for name, group in groups.items()},
            hull={region: _contours(hull[region], f"hull.{region}") for region in REGIONS},
            file=path,
        )
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise PointsError(
            f"{source}: {reason}; the format is that of the built-in {POINTS_FILE}"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name}: the field stands there twice")
    return dict(pairs)


def _fields(value: Any, names: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object with {', '.join(names)}")
    for name in names:
        if name not in value:
            raise ValueError(f"{where}: the field {name} is missing")
    for name in value:
        if name not in names:
            raise ValueError(f"{where}: unknown field {name}, expected {', '.join(names)}")
    return value


def _indices(value: Any, where: str, at_least: int = 1) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) < at_least:
        raise ValueError(f"{where}: expected a list of at least {at_least} landmark indices")
    for place, index in enumerate(value):
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < LANDMARKS:
            raise ValueError(
                f"{where}[{place}]: expected a whole number from 0 to {LANDMARKS - 1}, "
                f"found {json.dumps(index)}"
            )
        if index in value[:place]:
            raise ValueError(f"{where}[{place}]: {index} stands there twice")
    return tuple(value)


def _length(value: Any, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value <= TABLE_SIZE:
        raise ValueError(
            f"{where}: expected pixels at {TABLE_SIZE}, above 0 and at most {TABLE_SIZE}, "
            f"found {json.dumps(value)}"
        )
    return float(value)


def _gaussians(value: Any, where: str) -> Gaussians:
    group = _fields(value, ("points", "sigma"), where)
    return Gaussians(
        _indices(group["points"], f"{where}.points"), _length(group["sigma"], f"{where}.sigma")
    )


def _contours(value: Any, where: str) -> tuple[Contour, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: expected a list of contours")
    contours = []
    for place, entry in enumerate(value):
        at = f"{where}[{place}]"
        shape = next(iter(entry)) if isinstance(entry, dict) and len(entry) == 1 else None
        if shape not in ("ring", "convex"):
            raise ValueError(f"{at}: expected an object with one field, ring or convex")
        contours.append(Contour(_indices(entry[shape], f"{at}.{shape}", 3), shape == "convex"))
    return tuple(contours)


class _PointsFile(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return load_points(Path(os.fsdecode(super().convert(value, param, ctx))))


@dataclass(frozen=True)
class GuidanceSettings:
    """How heatmaps and regions are drawn.

    Attributes:
        radius: radius of the discs in pixels at 448; that of the table when None.
    """

    regions: Literal["hull", "points"] = option(
        "hull",
        "hull: filled contours of eyes, nose and mouth; points: discs at landmarks, of the radius "
        "in --points.",
    )
    grid: int = option(
        28, "Cells on a side of heatmaps and region masks.", type=click.IntRange(1, 1024)
    )
    radius: float | None = None
    table: PointTable = option(
        load_points,
        "JSON file of landmark indices, and of radius and sigmas in pixels at 448, instead of "
        "ours; `prep guidance --help` shows one.",
        "--points",
        type=_PointsFile(exists=True, path_type=Path),
    )

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

    @property
    def disc_radius(self) -> float:
        """Radius of the discs in pixels at 448."""
        return self.table.radius if self.radius is None else self.radius

    def recipe(self) -> dict[str, Any]:
        """Whatever changes a byte of the result, and nothing else, ready for JSON."""
        heatmap = {
            name: {"points": list(group.points), "sigma": group.sigma}
            for name, group in self.table.heatmap.items()
        }
        recipe = {"regions": self.regions, "grid": self.grid, "heatmap": heatmap}
        if self.regions == "points":
            points = {region: list(self.table.points[region]) for region in REGIONS}
            return recipe | {"radius": self.disc_radius, "points": points}
        hull = {
            region: [
                {"convex" if contour.convex else "ring": list(contour.points)}
                for contour in self.table.hull[region]
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
    unit = settings.grid / TABLE_SIZE  # cells per pixel at 448

    # Small blocks bound the memory at any grid and keep the accumulators in the cache.
    faces = np.flatnonzero(usable)
    block = max(1, 2**15 // settings.grid**2)
    for first in range(0, len(faces), block):
        chosen = faces[first : first + block]
        part = cells[chosen]
        heatmap[chosen] = _to_bytes(gaussian_heatmap(part, settings.table, settings.grid, unit))
        for index, region in enumerate(REGIONS):
            if settings.regions == "points":
                points = part[:, settings.table.points[region]]
                area = discs(points, settings.disc_radius * unit, settings.grid)
            else:
                area = contours(part, settings.table.hull[region], settings.grid)
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
