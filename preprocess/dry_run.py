"""`prep landmarks --dry-run`: what would be made, how long it would take, what is wrong."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import joblib
from tqdm import tqdm

from faceguide.cache.console import printable
from faceguide.cache.plan import default_shard_rows
from faceguide.preprocess.decode import DecodeError, decode
from faceguide.preprocess.landmarks import FaceSettings, Failure, find
from faceguide.preprocess.sources import ReadError, Source, SourceRow

_TIMED = 8  # images that go through the whole chain for the estimate
_GUIDANCE_ROW_BYTES = 4 * 28 * 28


def rehearse(
    source: Source, settings: FaceSettings, limit: int | None, jobs: int
) -> dict[str, Any]:
    """Read and decode every image, find the face in a few; write nothing.

    Returns:
        images, rows, shards, bytes, seconds (estimated, with `jobs` processes), first (keys),
        problems (one line each: all of them, not only the first), doubts (counts by kind).
    """
    first: list[SourceRow] = []
    identities: set[str] = set()

    def rows() -> Iterator[SourceRow]:
        for row in source.rows():
            if len(first) < _TIMED:
                first.append(row)
            if row.identity:
                identities.add(row.identity)
            yield row

    listed = tqdm(rows(), unit=" images", desc="checking", disable=None)
    parallel = joblib.Parallel(n_jobs=jobs, prefer="threads", return_as="generator")
    checked = parallel(joblib.delayed(_problem)(source, row) for row in listed)
    images, problems = 0, []
    for problem in checked:
        images += 1
        if problem:
            problems.append(problem)
    problems += source.problems()
    count = min(limit or images, images)
    row_bytes = settings.row_bytes()
    shards = -(-count // default_shard_rows(count, row_bytes)) if count else 0
    return {
        "images": images,
        "identities": len(identities),
        "rows": count,
        "shards": shards,
        "bytes": count * (row_bytes + _GUIDANCE_ROW_BYTES),
        "seconds": round(_seconds_per_image(source, settings, first) * count / jobs, 3),
        "first": [row.key for row in first[:5]],
        "problems": problems,
        "doubts": source.doubts.counts(),
    }


def describe(rehearsal: dict[str, Any]) -> str:
    """The rehearsal in words."""
    lines = [
        f"{rehearsal['images']} images of {rehearsal['identities']} identities, "
        f"{rehearsal['rows']} rows in {rehearsal['shards']} shards",
        f"about {rehearsal['bytes'] / 1e6:,.1f} MB, about {rehearsal['seconds']:,.0f} s",
        *(f"  {printable(key)}" for key in rehearsal["first"]),
        f"{len(rehearsal['problems'])} problems",
        *(f"  {printable(problem)}" for problem in rehearsal["problems"]),
    ]
    return "\n".join(lines)


def _problem(source: Source, row: SourceRow) -> str:
    try:
        decode(source.read(row.key, row.at))
    except (ReadError, DecodeError) as error:
        return f"{row.key}: {error.reason}: {error}"
    return ""


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
