"""The work of `prep landmarks`: one shard of faces, from source images to a finished file.

image bytes → decode → find the face → one transform → crop, landmarks, pose → faces-NNNNN.h5
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.plan import Plan, PlannedRow, read_sources
from faceguide.cache.schema import (
    ORIGIN_CODE,
    ORIGINS,
    SOURCE_BYTES,
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

JPEG_QUALITY = 95
_BLOCK = 256  # rows held in memory before their images go to the file


@dataclass
class _Rows:
    """The columns of one shard while it is filled."""

    values: dict[str, NDArray[Any]]
    jpegs: list[bytes] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    poses: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


@functools.lru_cache(maxsize=1)
def _opened_source(path: Path, flat: bool) -> Source:
    return open_source(path, flat=flat)


def make_faces(directory: Path, plan: Plan, settings: FaceSettings, shard: int, tick: Tick) -> None:
    """Make one shard of faces unless it is finished; a pure function of the plan and its number."""
    rows = read_sources(directory, plan, shard)
    if is_done(directory, "faces", shard, plan.recipe):
        for _ in rows:
            tick()
        return
    cv2.setNumThreads(1)  # one process per core: more threads only get in each other's way
    specs = columns("faces", plan.recipe)
    shard_rows = _empty(specs, rows)
    report: dict[str, Any] = {}
    texts = {
        "key": [row.key for row in rows],
        **{f"meta/{name}": [row.meta[i] for row in rows] for i, name in enumerate(plan.meta)},
    }
    encoded = None
    if settings.store == "jpeg":  # its bytes decide where in the file the other columns lie
        _fill(shard_rows, rows, settings, None, tick)
        encoded = {"image": shard_rows.jpegs}
    with write_shard(
        directory, "faces", shard, plan.recipe,
        rows=len(rows), texts=texts, encoded=encoded, report=report,
    ) as writer:  # fmt: skip
        if encoded is None:
            _fill(shard_rows, rows, settings, functools.partial(writer.write, "image"), tick)
        for name, values in shard_rows.values.items():
            writer.write(name, 0, values)
        _report(report, shard_rows)


def _fill(
    shard: _Rows, rows: list[PlannedRow], settings: FaceSettings, flush: Any, tick: Tick
) -> None:
    """Work through the rows; images go out block by block, the small columns stay."""
    source = _opened_source(settings.source, settings.flat)
    values = shard.values
    source_landmarks = np.full((_BLOCK, LANDMARKS, 3), np.nan, np.float32)
    images = np.zeros((_BLOCK, settings.size, settings.size, 3), np.uint8)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        images[:] = 0
        source_landmarks[:] = np.nan
        for inside, row in enumerate(block):
            slot = start + inside
            jpeg = b""
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
                shard.failures.append(
                    {
                        "row": slot,
                        "key": row.key,
                        "status": failure.status,
                        "reason": failure.reason,
                    }
                )
            else:
                images[inside] = found.crop
                source_landmarks[inside] = found.landmarks
                points = align.apply(found.transform, found.landmarks) / settings.size
                values["landmarks"][slot] = points
                values["transform"][slot] = found.transform
                values["source_size"][slot] = found.size
                if "quality" in values:
                    values["quality"][slot] = found.quality
                values["faces"][slot] = found.faces
                values["origin"][slot] = ORIGIN_CODE[found.origin]
                if settings.store == "jpeg":
                    jpeg = _encode(found.crop)
            if settings.store == "jpeg":
                shard.jpegs.append(jpeg)
            tick()
        # Roll is a property of the photograph: aligned landmarks would always say zero.
        values["pose"][start : start + len(block)] = head_pose(source_landmarks[: len(block)])
        if flush is not None:
            flush(start, images[: len(block)])


def source_digest(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first 16 bytes of the sha256 of an image as it lies in its source, (16,).

    sha256, because `sha256sum` finds the file again and nobody can make two files that share it;
    it takes 1 % of the time that finding the face takes.
    """
    return np.frombuffer(hashlib.sha256(bytes(data)).digest()[:SOURCE_BYTES], np.uint8)


def _empty(specs: tuple[Column, ...], rows: list[PlannedRow]) -> _Rows:
    values: dict[str, NDArray[Any]] = {}
    for spec in specs:
        if spec.name in ("image", "digest"):
            continue
        fill: Any = np.nan if spec.dtype.kind == "f" else 0
        values[spec.name] = np.full((len(rows), *spec.shape), fill, spec.dtype)
    values["label"][:] = [row.label for row in rows]
    return _Rows(values)


def _report(report: dict[str, Any], shard: _Rows) -> None:
    for name, names in (("status", STATUSES), ("origin", ORIGINS)):
        counts = np.bincount(shard.values[name], minlength=len(names))
        report[name] = {names[code]: int(n) for code, n in enumerate(counts) if n}
    report["failures"] = shard.failures


def _encode(crop: NDArray[np.uint8]) -> bytes:
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    good, data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), settings)
    if not good:
        raise FaceguideError("OpenCV could not encode a crop as JPEG")
    return bytes(data)
