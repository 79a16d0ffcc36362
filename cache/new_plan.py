"""Making a plan: sources are listed in a fixed order, spooled, and sent to their places.

A keyed permutation of its index sends each source to (shard, slot), in bounded memory.
"""

from __future__ import annotations

import itertools
import os
import shutil
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.permutation import permute
from faceguide.cache.plan import (
    IDENTITIES,
    LISTING,
    PLAN,
    SOURCES,
    Plan,
    check_recipe,
    list_path,
    listing_digest,
    load_plan,
)
from faceguide.core.commands.console import undisturbed
from faceguide.core.errors import CacheError
from faceguide.core.files import (
    TEMPORARY,
    json_bytes,
    publish,
    publish_file,
    sync,
    write_bytes,
    write_error,
)

UNKNOWN = -1

_PATIENCE = 60  # seconds to wait for a plan that another planner is about to publish
_CHUNK = 1 << 16  # rows permuted at a time
_BUFFERED_ROWS = 1 << 19  # lines held in memory before they go to their shards' lists
_SHARD_BYTES = 512 << 20
_FEW_SHARDS, _MANY_SHARDS = 16, 50_000
_SAMPLE_KEY, _PLACE_KEY = 1, 2
_SPOOL = "listing.jsonl"


class Row(NamedTuple):  # a tuple: there may be a billion, and it is made three times as fast
    """One source image on its way into the cache."""

    key: str  # unique; path relative to the source root
    identity: str = ""  # "" when unknown
    at: int = UNKNOWN  # where inside a packed source (.rec byte offset, .bin number)
    meta: tuple[str, ...] = ()  # values of the plan's meta columns


def default_shard_rows(rows: int, row_bytes: int) -> int:
    """Rows per shard: enough shards to share out, few enough files, at most about 512 MiB.

    It depends only on the data, never on the machine or the number of jobs.
    """
    cap = max(64, min(_SHARD_BYTES // max(1, row_bytes), max(8192, rows // _MANY_SHARDS + 1)))
    return int(np.clip(-(-rows // _FEW_SHARDS), min(64, cap), cap))


def make_plan(
    directory: Path,
    listing: Callable[[], Iterable[Row]],
    *,
    recipe: dict[str, Any],
    meta: tuple[str, ...] = (),
    seed: int = 0,
    limit: int | None = None,
    shard_rows: int | None = None,
    row_bytes: int = 1,
    progress: Callable[[int], None] = lambda rows: None,
) -> Plan:
    """List the sources, send each to its place and publish the plan; adopt one that is there.

    Args:
        directory: the cache; made when missing.
        listing: yields the rows in a fixed order; called once.
        recipe: what the faces are made with; compared with a plan that is there already.
        seed: key of the permutation.
        limit: sample this many rows uniformly before planning.
        shard_rows: rows per shard; None chooses by the number of rows and `row_bytes`.
        progress: called with the number of rows listed since the last call.

    Raises:
        CacheError: when the directory holds a plan with another recipe, or none can be written.
    """
    wanted = {"seed": seed, "limit": limit, "meta": list(meta)}
    plan = load_plan(directory)
    if plan is None:
        with _staging(directory) as staging:
            listed, identities = _spool(staging, listing(), progress)
            if listed == 0:
                raise CacheError("no images found; check the source, or give --flat")
            count = listed if limit is None else min(limit, listed)
            per_shard = shard_rows or default_shard_rows(count, row_bytes)
            shards = -(-count // per_shard)
            # Closed, for some file systems do not remove a file that is open.
            with closing(_sampled(staging / _SPOOL, listed, count, seed)) as lines:
                _distribute(staging, lines, count, shards, per_shard, seed)
            digest = listing_digest(staging, shards)
            ours = Plan(recipe, seed, count, shards, per_shard, identities, meta, limit, digest)
            plan = _publish(directory, staging, ours)
    if shard_rows is not None:
        wanted["shard_rows"] = shard_rows
    check_recipe(directory, plan.recipe, recipe)
    check_recipe(directory, {name: asdict(plan)[name] for name in wanted}, wanted)
    return plan


@contextmanager
def _staging(directory: Path) -> Iterator[Path]:
    """A folder inside the cache for as long as a plan is made."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        staging = directory / f".plan.{uuid.uuid4().hex}{TEMPORARY}"
        staging.mkdir()
        try:
            yield staging
        finally:
            with undisturbed():
                shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise write_error(directory, error) from error


def _spool(staging: Path, rows: Iterable[Row], progress: Callable[[int], None]) -> tuple[int, int]:
    """Write the listing in order with labels, by first appearance; count rows and identities."""
    labels: dict[str, int] = {}
    count = 0
    with (
        (staging / _SPOOL).open("w", encoding="ascii") as file,
        (staging / IDENTITIES).open("wb") as identities,
    ):
        for row in rows:
            label = UNKNOWN
            if row.identity:
                label = labels.setdefault(row.identity, len(labels))
            # As json.dumps writes a list, without its set-up, which costs more than the row.
            meta = "".join([f", {_quoted(value)}" for value in row.meta])
            file.write(f"[{_quoted(row.key)}, {label}, {row.at}{meta}]\n")
            count += 1
            if count % 1024 == 0:
                progress(1024)
        progress(count % 1024)
        for name in labels:
            escaped = name.replace("\\", "\\\\").replace("\n", "\\n")
            identities.write(os.fsencode(escaped) + b"\n")
        for handle in (file, identities):
            handle.flush()
            os.fsync(handle.fileno())
    return count, len(labels)


def _sampled(spool: Path, listed: int, count: int, seed: int) -> Generator[str, None, None]:
    """The spooled lines of the sample: those whose permuted index is below `count`."""
    with spool.open(encoding="ascii") as file:
        if count == listed:
            yield from file
            return
        for start in range(0, listed, _CHUNK):
            index = np.arange(start, min(start + _CHUNK, listed))
            keep = permute(index, listed, (seed, _SAMPLE_KEY)) < count
            yield from itertools.compress(file, keep.tolist())


def places(index: NDArray[np.int64], rows: int, seed: int) -> NDArray[np.int64]:
    """Row numbers in the cache of the sources listed at these positions, (N,) both."""
    return permute(index, rows, (seed, _PLACE_KEY))


def _distribute(
    staging: Path, lines: Iterator[str], rows: int, shards: int, per_shard: int, seed: int
) -> None:
    """Write every line to its shard's list, in the order of slots, with bounded memory."""
    (staging / SOURCES).mkdir()
    buffers: list[list[str]] = [[] for _ in range(shards)]
    held = 0
    for start in range(0, rows, _CHUNK):
        index = np.arange(start, min(start + _CHUNK, rows))
        shard_of, slot_of = np.divmod(places(index, rows, seed), per_shard)
        for shard, slot, line in zip(shard_of.tolist(), slot_of.tolist(), lines, strict=False):
            buffers[shard].append(f"{slot:010d}{line}")
        held += len(index)
        if held >= _BUFFERED_ROWS or start + _CHUNK >= rows:
            for shard, buffer in enumerate(buffers):
                if buffer:
                    with list_path(staging, shard).open("a", encoding="ascii") as file:
                        file.writelines(buffer)
                    buffer.clear()
            held = 0
    for shard in range(shards):
        _sort_list(list_path(staging, shard))


def _sort_list(path: Path) -> None:
    """Put one shard's list in slot order, drop the slots that lead its lines, and flush it."""
    with path.open(encoding="ascii") as file:
        lines = sorted(file)
    with path.open("w", encoding="ascii") as out:
        out.writelines(line[10:] for line in lines)
        out.flush()
        os.fsync(out.fileno())


def _publish(directory: Path, staging: Path, plan: Plan) -> Plan:
    """Move lists and identities into place, then create plan.json; the first planner wins.

    Planners that saw the same sources write the same bytes, so any of them may finish what
    another began; one that saw other sources waits for the winner's plan and adopts it.
    """
    # On the disk before anything points to it: after a power loss an empty LISTING under the right
    # name would look like another planner's.
    write_bytes(staging / SOURCES / LISTING, plan.listing.encode())
    try:
        (staging / SOURCES).rename(directory / SOURCES)
    except OSError:
        if not (directory / SOURCES / LISTING).exists():
            raise
    if (directory / SOURCES / LISTING).read_text() == plan.listing:
        publish_file(staging / IDENTITIES, directory / IDENTITIES)
        sync(directory)  # lists and names before the plan that vouches for them
        publish(directory / PLAN, json_bytes(asdict(plan)))
    for _ in range(_PATIENCE):
        published = load_plan(directory)
        if published is not None:
            return published
        time.sleep(1)
    raise CacheError(
        f"{directory}: another plan was begun from other sources and never finished; "
        "if no other prep is running, start over with --overwrite"
    )
