"""The work of `prep landmarks`: one shard of faces, from source images to a finished file.

image bytes → decode → find the face → one transform → crop, landmarks, pose → faces-NNNNN.h5
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.plan import Plan, PlannedRow, read_sources
from faceguide.cache.schema import (
    OF_DETECTION,
    ORIGIN_CODE,
    ORIGINS,
    STATUS_CODE,
    STATUSES,
    Column,
    columns,
)
from faceguide.cache.shard import is_done, write_shard
from faceguide.core.errors import FaceguideError
from faceguide.core.faces import LANDMARKS, align
from faceguide.preprocess.aligned_face import Failure, find
from faceguide.preprocess.detect.pose import head_pose
from faceguide.preprocess.face_settings import FaceSettings
from faceguide.preprocess.parallel import Tick
from faceguide.preprocess.sources.image_sources import ReadError, Source, open_source
from faceguide.preprocess.sources.source_row import source_digest

JPEG_QUALITY = 95
_BLOCK = 256  # rows held in memory before their images go to the file


# Takes the number of the first row, (B, S, S, 3) crops and (B,) whether there is a face.
_Take = Callable[[int, NDArray[np.uint8], NDArray[np.bool_]], object]


@functools.lru_cache(maxsize=1)
def _opened_source(path: Path, flat: bool, root: Path | None, layout: str) -> Source:
    return open_source(path, flat=flat, root=root, layout=layout)


def make_faces(directory: Path, plan: Plan, settings: FaceSettings, shard: int, tick: Tick) -> None:
    """Make one shard of faces unless it is finished; a pure function of the plan and its number."""
    rows = read_sources(directory, plan, shard)
    if is_done(directory, "faces", shard, plan.recipe):
        for _ in rows:
            tick()
        return
    cv2.setNumThreads(1)  # one process per core: more threads only get in each other's way
    values = _empty(columns("faces", plan.recipe), rows)
    failures: list[dict[str, Any]] = []
    report: dict[str, Any] = {"failures": failures}
    texts = {
        "key": [row.key for row in rows],
        **{f"meta/{name}": [row.meta[i] for row in rows] for i, name in enumerate(plan.meta)},
    }
    fill = functools.partial(_fill, values, failures, rows, settings, tick)
    encoded: dict[str, list[bytes]] = {}
    if settings.store == "jpeg":  # its bytes decide where in the file the other columns lie
        pieces = encoded["image"] = []
        fill(lambda start, crops, good: pieces.extend(map(_encode, crops, good)))
    with write_shard(
        directory, "faces", shard, plan.recipe,
        rows=len(rows), texts=texts, encoded=encoded, report=report,
    ) as writer:  # fmt: skip
        if not encoded:
            fill(lambda start, crops, good: writer.write("image", start, crops))
        for name, column in values.items():
            writer.write(name, 0, column)
        for name, names in (("status", STATUSES), ("origin", ORIGINS)):
            counts = np.bincount(values[name], minlength=len(names))
            report[name] = {names[code]: int(n) for code, n in enumerate(counts) if n}


def _fill(
    values: dict[str, NDArray[Any]],
    failures: list[dict[str, Any]],
    rows: list[PlannedRow],
    settings: FaceSettings,
    tick: Tick,
    take: _Take,
) -> None:
    """Work through the rows; crops go out block by block, the other columns stay in `values`."""
    source = _opened_source(settings.source, settings.flat, settings.root, settings.source_layout)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        crops = np.zeros((len(block), settings.size, settings.size, 3), np.uint8)
        source_landmarks = np.full((len(block), LANDMARKS, 3), np.nan, np.float32)
        for inside, row in enumerate(block):
            slot = start + inside
            try:
                try:
                    data = source.read(row.key, row.at)
                except ReadError as error:
                    raise Failure(error.reason, str(error)) from None
                values["source"][slot] = source_digest(data)
                found = find(data, settings, row.key)
            except Failure as failure:
                values["status"][slot] = STATUS_CODE[failure.status]
                values["source_size"][slot] = failure.size
                about = {"status": failure.status, "reason": failure.reason}
                failures.append({"row": slot, "key": row.key, **about})
            else:
                crops[inside] = found.crop
                if settings.detect:
                    source_landmarks[inside] = found.landmarks
                points = align.apply(found.transform, found.landmarks) / settings.size
                values["landmarks"][slot] = points
                values["transform"][slot] = found.transform
                values["source_size"][slot] = found.size
                for name in (column.name for column in OF_DETECTION if column.name in values):
                    values[name][slot] = getattr(found, name)
                values["faces"][slot] = found.faces
                values["origin"][slot] = ORIGIN_CODE[found.origin]
            tick()
        # Roll is a property of the photograph: aligned landmarks would always say zero.
        end = start + len(block)
        values["pose"][start:end] = head_pose(source_landmarks)
        take(start, crops, values["status"][start:end] == STATUS_CODE["ok"])


def _empty(specs: tuple[Column, ...], rows: list[PlannedRow]) -> dict[str, NDArray[Any]]:
    """The columns but for images and digests, of rows without a face."""
    values: dict[str, NDArray[Any]] = {}
    for spec in specs:
        if spec.name not in ("image", "digest"):
            fill: Any = np.nan if spec.dtype.kind == "f" else 0
            values[spec.name] = np.full((len(rows), *spec.shape), fill, spec.dtype)
    values["label"][:] = [row.label for row in rows]
    return values


def _encode(crop: NDArray[np.uint8], good: bool) -> bytes:
    """The crop as JPEG; no bytes for a row without a face."""
    if not good:
        return b""
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    encoded, data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), settings)
    if not encoded:
        raise FaceguideError("OpenCV could not encode a crop as JPEG")
    return bytes(data)
