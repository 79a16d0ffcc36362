"""How much of the eyes, the mouth and the face can be seen, from visibility maps and landmarks.

After OFIQ's three measures, the components of ISO/IEC 29794-5 *eyes visible*, *mouth occlusion
prevention* and *face occlusion prevention*: 100 × (1 − the occluded share of a region). OFIQ takes
the pixels of a segmentation; here each pixel counts as its cell of the map does, so a figure is
coarser, and comparable only with others of this kind.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.doubts import Doubts
from faceguide.core.faces.face_oval import filled, oval_of
from faceguide.core.files import replacing

# Contours of MediaPipe's mesh: FACEMESH_LEFT_EYE and RIGHT_EYE, the outer ring of FACEMESH_LIPS.
_EYES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (362, 398, 384, 385, 386, 387, 388, 466, 263, 249, 390, 373, 374, 380, 381, 382),
)
_MOUTH = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
_IRISES = (468, 473)
_ZONE = 1 / 20  # of the eye distance, around an eye: the eye visibility zone of ISO/IEC 39794-5
_SIDE = 112  # pixels that regions are drawn with, a multiple of 7 and of 14
_BLOCK = 1024
MEASURES = ("eyes_visible", "mouth_occlusion_prevention", "face_occlusion_prevention")


def point_visibility(
    visibility: NDArray[np.floating], landmarks: NDArray[np.floating], size: int
) -> NDArray[np.float32]:
    """Visible share of the cell that each landmark lies in.

    Args:
        visibility: (N, g, g), 1 = visible.
        landmarks: (N, P, ≥2) x and y as the cache has them: 0 is the centre of the first pixel, 1
            the width of the crop.
        size: side of the crop in pixels.

    Returns:
        (N, P); NaN outside the crop and without a landmark.
    """
    grid = visibility.shape[1]
    points = np.asarray(landmarks[..., :2], np.float64) + 0.5 / size
    inside = ((points >= 0) & (points < 1)).all(-1)  # NaN is not
    column, line = np.moveaxis(np.where(inside[..., None], points * grid, 0).astype(int), -1, 0)
    values = visibility[np.arange(len(visibility))[:, None], line, column].astype(np.float32)
    return np.where(inside, values, np.float32(np.nan))


def occlusion_measures(
    visibility: NDArray[np.floating], landmarks: NDArray[np.floating], size: int
) -> NDArray[np.float32]:
    """The `MEASURES` of one face, 0 to 100.

    Args:
        visibility: (g, g), 1 = visible; 112 is a multiple of g.
        landmarks: (478, ≥2) x and y as the cache has them.
        size: side of the crop in pixels.

    Returns:
        (3,) of what lies inside the crop, as most chins do not; NaN where nothing does.
    """
    points = (np.asarray(landmarks[:, :2], np.float64) + 0.5 / size) * _SIDE - 0.5
    across = float(np.linalg.norm(points[_IRISES[1]] - points[_IRISES[0]])) * _ZONE
    eyes = np.zeros((_SIDE, _SIDE), np.float32)
    for ring in _EYES:
        left, top = points[list(ring)].min(0) - across
        right, bottom = points[list(ring)].max(0) + across
        zone = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        eyes = np.maximum(eyes, filled(zone, _SIDE))
    fold = _SIDE // len(visibility)
    cells = np.kron(visibility.astype(np.float32), np.ones((fold, fold), np.float32))
    regions = np.stack([eyes, filled(points[list(_MOUTH)], _SIDE), oval_of(points, _SIDE)])
    area = regions.sum((1, 2), dtype=np.float64)
    seen = (regions * cells).sum((1, 2), dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(100 * seen / np.where(area > 0, area, np.nan), np.float32)


def measured(cache: FaceCache) -> Iterator[tuple[NDArray[np.int64], dict[str, Any]]]:
    """Rows whose visibility is known, with what is measured of them, block by block.

    Yields:
        (M,) rows, and `estimated` (M,), `points` (M, 478), `measures` (M, 3).

    Raises:
        CacheError: when the cache has no visibility.
    """
    rows, size = cache.select(known_occlusion=True), int(cache.recipe["size"])
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        found = cache.read(block, ["visibility", "landmarks"])
        pairs = zip(found["visibility"], found["landmarks"], strict=True)
        yield (
            block,
            {
                "estimated": cache.estimated(block),
                "points": point_visibility(found["visibility"], found["landmarks"], size),
                "measures": np.stack([occlusion_measures(*pair, size) for pair in pairs]),
            },
        )


def estimate_doubts(cache: FaceCache, rows: NDArray[np.int64]) -> Doubts:
    """How many of these rows have a visibility that was estimated, as a doubt.

    Args:
        rows: (N,), each once.
    """
    doubts = Doubts()
    doubts.add("estimated_visibility", count=int(cache.estimated(rows).sum()))
    return doubts


def mean_measures(cache: FaceCache) -> dict[str, dict[str, Any]]:
    """Number of faces and mean of each measure, of those with a mask and of the estimated ones."""
    values: dict[str, list[NDArray[np.float32]]] = {"masks": [], "estimates": []}
    for _, found in measured(cache):
        values["masks"].append(found["measures"][~found["estimated"]])
        values["estimates"].append(found["measures"][found["estimated"]])
    result: dict[str, dict[str, Any]] = {}
    for kind, blocks in values.items():
        every = np.concatenate([np.empty((0, len(MEASURES)), np.float32), *blocks])
        if len(every):
            means = np.nanmean(every.astype(np.float64), axis=0).round(2).tolist()
            result[kind] = {"faces": len(every), **dict(zip(MEASURES, means, strict=True))}
    return result


def export_occlusion(cache: FaceCache, out: Path, points: bool) -> int:
    """Write a CSV: key, known_from (mask or estimate), `MEASURES`, with `points` p0 … p477.

    Returns:
        Lines written, one per row whose visibility is known.
    """
    written = 0
    with (
        replacing(out) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        count = cache.require("landmarks").shape[0]
        numbered = [f"p{number}" for number in range(count)] if points else []
        writer.writerow(["key", "known_from", *MEASURES, *numbered])
        for rows, found in measured(cache):
            keys = cache.texts("key", rows)
            for place, key in enumerate(keys):
                numbers = [f"{value:.1f}" for value in found["measures"][place]]
                if points:
                    numbers += [f"{value:.3f}" for value in found["points"][place]]
                source = "estimate" if found["estimated"][place] else "mask"
                writer.writerow([key, source, *numbers])
            written += len(rows)
    return written
