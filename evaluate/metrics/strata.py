"""Rates by how much of a face is occluded and how far it is turned; the cache holds both.

The bins are fixed before any result is seen. A cell with fewer than 20 probes has no figure.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache

LEAST = 20
POSES = ("0–15°", "15–30°", "30–45°", "45°+")
OCCLUSIONS = ("0", "≤10 %", "≤30 %", ">30 %")
UNKNOWN = "unknown"
_NOTHING_HIDDEN = 5e-3  # half precision rounds a clear cell to 0.9995 at worst, a mask edge more


def pose_bins(cache: FaceCache, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) place in `POSES` by |yaw|; −1 where the cache has no pose."""
    yaw = np.abs(cache.read(rows, ["pose"])["pose"][:, 0])
    return np.where(np.isfinite(yaw), np.digitize(yaw, (15.0, 30.0, 45.0)), -1)


def occlusion_bins(cache: FaceCache, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) place in `OCCLUSIONS` by the occluded share of the crop; −1 where it is not known."""
    if "visibility" not in cache.columns:
        return np.full(len(rows), -1)
    found = cache.read(rows, ["visibility", "known"])
    hidden = 1.0 - found["visibility"].astype(np.float64).mean((1, 2))
    bins = np.digitize(hidden, (_NOTHING_HIDDEN, 0.1, 0.3), right=True)
    return np.where(found["known"], bins, -1)


def table(
    occlusion: NDArray[np.int64], pose: NDArray[np.int64], hit: NDArray[np.bool_]
) -> dict[str, list[dict[str, Any]]]:
    """Rates by occlusion, by pose, and by both.

    Args:
        occlusion: (N,) from `occlusion_bins`.
        pose: (N,) from `pose_bins`.
        hit: (N,) whether the probe was found at rank 1.

    Returns:
        Under `occlusion`, `pose` and `both`, one record per bin that holds a probe: its names,
        `n`, `rate` and its Wilson interval, both None where n < 20.
    """
    result: dict[str, list[dict[str, Any]]] = {"occlusion": [], "pose": [], "both": []}
    for name, bins, names in (("occlusion", occlusion, OCCLUSIONS), ("pose", pose, POSES)):
        for place in (*range(len(names)), -1):
            inside = bins == place
            if inside.any():
                result[name].append({name: _name(names, place), **_rate(hit[inside])})
    for row in (*range(len(OCCLUSIONS)), -1):
        for column in (*range(len(POSES)), -1):
            inside = (occlusion == row) & (pose == column)
            if inside.any():
                where = {"occlusion": _name(OCCLUSIONS, row), "pose": _name(POSES, column)}
                result["both"].append({**where, **_rate(hit[inside])})
    return result


def _name(names: tuple[str, ...], place: int) -> str:
    return UNKNOWN if place < 0 else names[place]


def _rate(hit: NDArray[np.bool_]) -> dict[str, Any]:
    count, hits = len(hit), int(np.count_nonzero(hit))
    if count < LEAST:
        return {"n": count, "rate": None, "interval": None}
    return {"n": count, "rate": hits / count, "interval": wilson(hits, count)}


def wilson(count: int, n: int) -> list[float] | None:
    """95 % interval of a share of counts (Wilson, 1927); None for n = 0."""
    from scipy.stats import binomtest

    if n == 0:
        return None
    found = binomtest(count, n).proportion_ci(method="wilson")
    return [float(found.low), float(found.high)]
