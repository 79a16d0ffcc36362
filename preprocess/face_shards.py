"""The work of `prep landmarks`: one shard of faces, from source images to a finished file.

image bytes → decode → find the face → one transform → crop, landmarks, pose → faces-NNNNN.h5
"""

from __future__ import annotations

import functools
import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceguide.cache.plan import Plan, PlannedRow, read_sources
from faceguide.cache.schema import (
    ORIGIN_CODE,
    ORIGINS,
    QUALITY,
    SOURCE_BYTES,
    STATUS_CODE,
    STATUSES,
    Column,
    columns,
)
from faceguide.cache.shard import is_done, write_shard
from faceguide.core.commands.settings import argument, option
from faceguide.core.commands.shared_options import EXISTING
from faceguide.core.errors import FaceguideError
from faceguide.core.faces import LANDMARKS, align
from faceguide.core.faces.decode import DecodeError, decode
from faceguide.preprocess.detect.cascade import find_face
from faceguide.preprocess.detect.face_mesh import finder_of, open_boxes, open_mesh
from faceguide.preprocess.detect.landmark_check import fault
from faceguide.preprocess.detect.landmark_text import lookup, read_at
from faceguide.preprocess.detect.pose import head_pose, mean_landmarks
from faceguide.preprocess.parallel import Tick
from faceguide.preprocess.sources.image_sources import ReadError, Source, open_source

# Raise it when the same settings and tools would give other bytes.
REVISION = 3

JPEG_QUALITY = 95
_BLOCK = 256  # rows held in memory before their images go to the file


@dataclass(frozen=True)
class FaceSettings:
    """How faces are found and cut out.

    Attributes:
        source: folder, CSV, .rec or .bin.
        landmark_index: the index of `landmarks` inside the cache.
    """

    source: Path = argument(type=EXISTING)
    flat: bool = option(False, "Nested folders do not name identities.")
    align: Literal["arcface", "none"] = option(
        "arcface", "Five-point alignment, or none for images that are already aligned."
    )
    size: int = option(112, "Side of the crop in pixels.", type=click.IntRange(16, 1024))
    margin: float = option(
        0.0, "Extra share of the template's side on each side.", type=click.FloatRange(0, 2)
    )
    store: Literal["raw", "jpeg"] = option(
        "raw", "Raw pixels, or JPEG for large crops and sets larger than memory."
    )
    model: Path | None = option(
        None,
        "A face_landmarker.task file for MediaPipe's Tasks API, instead of the bundled Face Mesh.",
        type=EXISTING,
    )
    landmarks: Path | None = option(
        None,
        "Import these landmarks (text or CSV, 478 or 468 points in source pixels); detect only to "
        "compare some.",
        type=EXISTING,
    )
    landmark_index: Path | None = None
    choose: Literal["largest", "center"] = option(
        "largest", "Which face to take when there are several.", "--face"
    )
    check_all: bool = option(False, "Measure the quality of every face (one more pass).")

    def row_bytes(self) -> int:
        """Expected bytes of a row in the faces file."""
        pixels = self.size * self.size
        return (3 * pixels if self.store == "raw" else pixels // 2) + 12 * LANDMARKS + 128


def faces_recipe(settings: FaceSettings, source: Source) -> dict[str, Any]:
    """Every parameter and tool version that changes a byte of the faces."""
    if settings.landmarks is not None:
        # A table does not say what made it, and may be too long to be read by every part.
        size = settings.landmarks.stat().st_size
        finder: dict[str, Any] = {
            "finder": {"tool": "imported", "table": settings.landmarks.name, "bytes": size}
        }
    else:
        finder = {
            "finder": finder_of(settings.model),
            "choose": settings.choose,
            "check_all": settings.check_all,
            "columns": {QUALITY.name: QUALITY.described()},
        }
    return {
        "revision": REVISION,
        "source": {"kind": source.kind, "name": settings.source.resolve().name},
        "flat": settings.flat,
        "align": settings.align,
        "size": settings.size,
        "margin": settings.margin,
        "store": settings.store,
        "opencv": cv2.__version__,
        **finder,
    }


@dataclass
class _Rows:
    """The columns of one shard while it is filled."""

    values: dict[str, NDArray[Any]]
    jpegs: list[bytes] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    poses: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


@dataclass(frozen=True)
class Found:
    """One aligned face.

    Attributes:
        crop: (S, S, 3) uint8 RGB.
        landmarks: (478, 3) in source pixels.
        transform: (2, 3) source pixels → crop pixels.
        origin, quality, faces: see docs/formats.md.
    """

    crop: NDArray[np.uint8]
    landmarks: NDArray[np.floating]
    transform: align.Transform
    size: tuple[int, int]
    origin: str
    quality: float
    faces: int


class Failure(Exception):
    """This row has no face; status and reason say why."""

    def __init__(self, status: str, reason: str, size: tuple[int, int] = (0, 0)) -> None:
        super().__init__(reason)
        self.status, self.reason, self.size = status, reason, size


@functools.lru_cache(maxsize=1)
def _opened_source(path: Path, flat: bool) -> Source:
    return open_source(path, flat=flat)


_own = threading.local()


def _finder(model: Path | None) -> tuple[Any, Any]:
    """The graphs of this thread: loading them costs more than a hundred images.

    One per thread, since a Dask worker may have several and a graph serves one caller at a time.
    """
    if getattr(_own, "model", ()) != model:
        _own.model, _own.graphs = model, (open_mesh(model), open_boxes())
    graphs: tuple[Any, Any] = _own.graphs
    return graphs


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
    if settings.store == "jpeg":
        _fill(shard_rows, rows, settings, None, tick)
        with write_shard(
            directory, "faces", shard, plan.recipe,
            rows=len(rows), texts=texts, encoded={"image": shard_rows.jpegs}, report=report,
        ) as writer:  # fmt: skip
            for name, values in shard_rows.values.items():
                writer.write(name, 0, values)
            _report(report, shard_rows)
        return
    with write_shard(
        directory, "faces", shard, plan.recipe, rows=len(rows), texts=texts, report=report
    ) as writer:
        _fill(shard_rows, rows, settings, functools.partial(writer.write, "image"), tick)
        for name, values in shard_rows.values.items():
            writer.write(name, 0, values)
        _report(report, shard_rows)


def find(data: bytes | NDArray[np.uint8] | Image.Image, settings: FaceSettings, key: str) -> Found:
    """Decode one image, find its face and cut it out.

    Raises:
        Failure: with the status and the reason to record.
    """
    try:
        image = decode(data)
    except DecodeError as error:
        raise Failure(error.reason, str(error)) from None
    height, width = image.shape[:2]
    size = (width, height)
    quality, faces = float("nan"), 0
    landmarks: NDArray[np.floating] | None
    if settings.landmarks is not None:
        assert settings.landmark_index is not None
        at = lookup(settings.landmark_index, key)
        if at is None:
            raise Failure("no_landmarks", f"not in {settings.landmarks.name}", size)
        landmarks, origin, reason = read_at(settings.landmarks, at), "imported", ""
        wrong = fault(landmarks, width, height)
        if wrong:
            raise Failure("implausible", wrong, size)
    else:
        mesh, boxes = _finder(settings.model)
        face = find_face(image, mesh, boxes, choose=settings.choose, check_all=settings.check_all)
        landmarks, origin, reason = face.landmarks, face.origin, face.reason
        quality, faces = face.quality, face.count
        if face.reason == "upside_down":
            raise Failure("implausible", "the face stands upside down; turn the image", size)
    if settings.align == "none":
        transform = align.whole_image(width, height, settings.size)
        if landmarks is None:
            crop_points = mean_landmarks().astype(np.float64) * settings.size
            landmarks = align.apply(align.invert(transform), crop_points)
            origin, quality = "template", 0.0
    elif landmarks is None:
        text = {
            "no_face": "no face was found",
            "implausible": "a face was found only once: its mirror image gave another one",
        }[reason]
        raise Failure(reason, text, size)
    else:
        target = align.template(settings.size, settings.margin)
        try:
            transform = align.similarity(align.five_points(landmarks), target)
        except ValueError as error:
            raise Failure("implausible", str(error), size) from None
    crop = align.warp(image, transform, settings.size)
    return Found(crop, landmarks, transform, size, origin, quality, faces)


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
