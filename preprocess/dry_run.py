"""`prep landmarks --dry-run`: what would be made, how long it would take, what is wrong."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
from tqdm import tqdm

from faceguide.cache.planning.new_plan import default_shard_rows
from faceguide.core.commands.console import printable
from faceguide.core.commands.doubts import Doubts
from faceguide.core.faces.decode import DecodeError, decode
from faceguide.preprocess.aligned_face import Failure, find
from faceguide.preprocess.detect.finders.open_finder import open_finder
from faceguide.preprocess.detect.landmark_check import checked_index
from faceguide.preprocess.detect.landmark_text import LandmarkTextError
from faceguide.preprocess.face_settings import FaceSettings
from faceguide.preprocess.sources.identities import checked_rows
from faceguide.preprocess.sources.image_sources import ReadError, Source, SourceRow
from faceguide.preprocess.sources.repeated_images import SeenImages, pixel_digest

_TIMED = 8  # images that go through the whole chain for the estimate
_GUIDANCE_ROW_BYTES = 4 * 28 * 28


def rehearse(
    source: Source, settings: FaceSettings, limit: int | None, jobs: int
) -> tuple[dict[str, Any], Doubts]:
    """Read and decode every image, find the face in a few; write nothing.

    Returns:
        images, rows, shards, bytes, seconds (estimated, with `jobs` processes), first (keys),
        problems (one line each: all of them, not only the first), doubts (counts by kind); and
        the doubts themselves.
    """
    first: list[SourceRow] = []
    identities: dict[str, int] = {}

    def rows() -> Iterator[tuple[SourceRow, int]]:
        for row in checked_rows(source):
            if len(first) < _TIMED:
                first.append(row)
            label = identities.setdefault(row.identity, len(identities)) if row.identity else -1
            yield row, label

    listed = tqdm(rows(), unit=" images", desc="checking", disable=None)
    parallel = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    checked = parallel(joblib.delayed(_checked)(source, row, label) for row, label in listed)
    images, problems, seen = 0, [], SeenImages()
    for problem, label, pixels in checked:
        images += 1
        if problem:
            problems.append(problem)
        seen.add(pixels, -1 if problem else label)
    problems += source.problems()
    doubts = source.doubts
    if settings.landmarks is not None:
        rows_again = ((row.key, row.at) for row in source.rows())
        try:
            with tempfile.TemporaryDirectory() as folder:
                index = Path(folder) / "landmarks.index"
                finder = functools.partial(open_finder, settings.finder, settings.model)
                doubts.update(checked_index(settings.landmarks, index, rows_again, source, finder))
        except LandmarkTextError as error:
            problems.append(str(error))
    doubts.update(seen.doubts(source))
    count = min(limit or images, images)
    row_bytes = settings.row_bytes()
    shards = -(-count // default_shard_rows(count, row_bytes)) if count else 0
    rehearsal = {
        "images": images,
        "identities": len(identities),
        "rows": count,
        "shards": shards,
        "bytes": count * (row_bytes + _GUIDANCE_ROW_BYTES),
        "seconds": round(_seconds_per_image(source, settings, first) * count / jobs, 3),
        "first": [row.key for row in first[:5]],
        "problems": problems,
        "doubts": doubts.counts(),
    }
    return rehearsal, doubts


def describe(rehearsal: dict[str, Any]) -> str:
    lines = [
        f"{rehearsal['images']} images of {rehearsal['identities']} identities, "
        f"{rehearsal['rows']} rows in {rehearsal['shards']} shards",
        f"about {rehearsal['bytes'] / 1e6:,.1f} MB, about {rehearsal['seconds']:,.0f} s",
        *(f"  {printable(key)}" for key in rehearsal["first"]),
        f"{len(rehearsal['problems'])} problems",
        *(f"  {printable(problem)}" for problem in rehearsal["problems"]),
    ]
    return "\n".join(lines)


def _checked(source: Source, row: SourceRow, label: int) -> tuple[str, int, bytes]:
    """What is wrong with an image, or else its digest."""
    try:
        pixels = decode(source.read(row.key, row.at))
    except (ReadError, DecodeError) as error:
        return f"{row.key}: {error.reason}: {error}", label, b""
    return "", label, pixel_digest(pixels)


def _seconds_per_image(source: Source, settings: FaceSettings, rows: list[SourceRow]) -> float:
    if not rows or settings.landmarks is not None:
        return 0.001  # an import only decodes and warps
    _try(source, settings, rows[0])  # the first image of a process pays for loading the graphs
    started = time.monotonic()
    for row in rows:
        _try(source, settings, row)
    return (time.monotonic() - started) / len(rows)


def _try(source: Source, settings: FaceSettings, row: SourceRow) -> None:
    with contextlib.suppress(ReadError, Failure):
        find(source.read(row.key, row.at), settings, row.key)
