"""The table of landmarks that guidance is drawn from: ``points.json``, or a user's own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faceguide.cache.schema import REGIONS
from faceguide.core.errors import FaceguideError
from faceguide.core.faces import LANDMARKS

TABLE_SIZE = 448  # the crop whose pixels are the unit of radius and sigma
POINTS_FILE = Path(__file__).with_name("points.json")


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
