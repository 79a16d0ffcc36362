"""Where maps point: landmark regions, and cells that an occlusion hides.

These say where a map looks, not whether it is right. Every share is given with its lift: share of
energy over share of area; 1 is what a map without preference has.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import REGIONS
from faceguide.evaluate.attribution.cells import CELLS, GRID


def _to_cells(grids: NDArray[np.floating]) -> NDArray[np.float64]:
    """(…, g, g) → (…, 49), area means."""
    means = [
        cv2.resize(grid, (GRID, GRID), interpolation=cv2.INTER_AREA)
        for grid in grids.reshape(-1, *grids.shape[-2:]).astype(np.float64)
    ]
    return np.reshape(means, (*grids.shape[:-2], CELLS))


def region_cells(
    cache: FaceCache, rows: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]] | None:
    """Region → (N, 49) share of each cell that it covers; `rest` is what none covers.

    None when the cache has no regions (`prep guidance` makes them).
    """
    if "regions" not in cache.columns:
        return None
    masks = cache.read(rows, ["regions"])["regions"].astype(np.float64) / 255.0
    found = {name: _to_cells(masks[:, place]) for place, name in enumerate(REGIONS)}
    found["rest"] = np.clip(1.0 - sum(found.values()), 0.0, 1.0)
    return found


def hidden_cells(
    cache: FaceCache, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]] | None:
    """(N, 49) occluded share of each cell, (N,) where it is known; None without `prep masks`."""
    if "visibility" not in cache.columns:
        return None
    found = cache.read(rows, ["visibility", "known"])
    return 1.0 - _to_cells(found["visibility"].astype(np.float64)), found["known"]


def energy_lift(
    cells: NDArray[np.floating], region: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) share of the energy inside the region, and its lift; NaN for maps without energy.

    Args:
        cells: (N, 49) ≥ 0.
        region: (N, 49) 0 to 1.
    """
    energy = cells.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (energy * region).sum(1) / energy.sum(1)
        lift = share / region.mean(1)
    return share, np.where(np.isfinite(lift), lift, np.nan)


def pointing(cells: NDArray[np.floating], region: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) the region's share of the highest cells (their mean where several tie)."""
    top = cells == cells.max(1, keepdims=True)
    found: NDArray[np.float64] = (region * top).sum(1) / np.maximum(top.sum(1), 1)
    return np.where(np.isfinite(cells).all(1), found, np.nan)


def _mean(values: NDArray[np.float64]) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    return {"mean": float(finite.mean()) if len(finite) else None, "n": len(finite)}


def region_record(
    cells: NDArray[np.floating],
    regions: dict[str, NDArray[np.float64]] | None,
    hidden: tuple[NDArray[np.float64], NDArray[np.bool_]] | None,
    same: NDArray[np.bool_],
) -> dict[str, Any]:
    """Per region `energy`, `lift`, `pointing`, `pointing_chance`; and `occluded` for genuine pairs.

    Args:
        cells: (N, 49) attributions of a method.
        regions: from `region_cells`, of the probes.
        hidden: from `hidden_cells`, of the probes.
        same: (N,) one identity. Evidence for two photographs of one identity cannot lie on what
            covers the face: LOWER is better there.
    """
    record: dict[str, Any] = {"regions": None, "occluded": None}
    if regions is not None:
        record["regions"] = {}
        for name, region in regions.items():
            share, lift = energy_lift(cells, region)
            record["regions"][name] = {
                "energy": _mean(share),
                "lift": _mean(lift),
                "pointing": _mean(pointing(cells, region)),
                "pointing_chance": float(region.mean()),
            }
    if hidden is not None:
        covered, known = hidden
        counted = known & same & (covered.mean(1) > 0.01)
        if counted.any():
            share, lift = energy_lift(cells[counted], covered[counted])
            record["occluded"] = {"energy": _mean(share), "lift": _mean(lift)}
    return record
