"""The plan: which source goes to which shard and slot, decided once and published once.

The sources are listed in a fixed order, spooled to disk, and sent to (shard, slot) by a keyed
permutation of their index. No file and no process holds all keys: a worker reads `plan.json`,
a few kilobytes, and `sources/NNNNN.jsonl`, its own list.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from json.encoder import encode_basestring_ascii as _quoted
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from faceguide.cache.permutation import permute
from faceguide.cache.schema import SCHEMA
from faceguide.core.commands.console import undisturbed
from faceguide.core.errors import CacheError
from faceguide.core.files import (
    TEMPORARY,
    file_sha256,
    json_bytes,
    publish,
    publish_file,
    read_json,
    sync,
    write_bytes,
    write_error,
)

PLAN = "plan.json"
SOURCES = "sources"
IDENTITIES = "identities.txt"
UNKNOWN = -1

_LISTING = "LISTING"  # inside sources/: the sha256 that plan.json repeats
_PATIENCE = 60  # seconds to wait for a plan that another planner is about to publish

_CHUNK = 1 << 16  # rows permuted at a time
_BUFFERED_ROWS = 1 << 19  # lines held in memory before they go to their shards' lists
_SHARD_BYTES = 512 << 20
_FEW_SHARDS, _MANY_SHARDS = 16, 50_000
_MOST_ROWS, _MOST_SHARDS = 1 << 48, 10_000_000  # of a plan that is believed: work follows them
_SAMPLE_KEY, _PLACE_KEY = 1, 2


class Row(NamedTuple):  # a tuple: there may be a billion, and it is made three times as fast
    """One source image on its way into the cache."""

    key: str  # unique; path relative to the source root
    identity: str = ""  # "" when unknown
    at: int = UNKNOWN  # where inside a packed source (.rec byte offset, .bin number)
    meta: tuple[str, ...] = ()  # values of the plan's meta columns


@dataclass(frozen=True)
class PlannedRow:
    """One line of a shard's list."""

    key: str
    label: int  # line number in identities.txt, −1 unknown
    at: int
    meta: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The content of plan.json."""

    recipe: dict[str, Any]  # every parameter and tool version that changes a byte of `faces`
    seed: int
    rows: int
    shards: int
    shard_rows: int  # rows of every shard but the last
    identities: int
    meta: tuple[str, ...]  # names of the extra columns
    limit: int | None  # rows sampled by --limit, None = all
    listing: str  # sha256 over identities and lists
    schema: int = SCHEMA

    def rows_of(self, shard: int) -> int:
        """Number of rows in a shard."""
        return min(self.shard_rows, self.rows - shard * self.shard_rows)


def default_shard_rows(rows: int, row_bytes: int) -> int:
    """Rows per shard: enough shards to share out, few enough files, at most about 512 MiB.

    It depends only on the data, never on the machine or the number of jobs.
    """
    cap = max(64, min(_SHARD_BYTES // max(1, row_bytes), max(8192, rows // _MANY_SHARDS + 1)))
    return int(np.clip(-(-rows // _FEW_SHARDS), min(64, cap), cap))


def load_plan(directory: Path) -> Plan | None:
    """The published plan, or None when there is none yet.

    Raises:
        CacheError: when plan.json is damaged or of another schema.
    """
    path = directory / PLAN
    if not path.exists():
        return None
    record = read_json(path)
    if record.get("schema") != SCHEMA:
        raise CacheError(
            f"{path}: schema {record.get('schema')!r}, this version reads schema {SCHEMA}; "
            "use the version of faceguide that wrote the cache, or rebuild it"
        )
    try:
        plan = Plan(**{**record, "meta": tuple(record["meta"])})
        whole = (plan.seed, plan.rows, plan.shards, plan.shard_rows, plan.identities)
        sound = (
            all(type(value) is int for value in whole)
            and isinstance(plan.recipe, dict)
            and all(isinstance(name, str) for name in plan.meta)
            and 0 <= plan.rows <= _MOST_ROWS
            and 1 <= plan.shard_rows <= _MOST_ROWS
            and plan.shards <= _MOST_SHARDS
            and plan.identities >= 0
            and plan.shards == -(-plan.rows // plan.shard_rows)
        )
    except (KeyError, TypeError) as error:
        raise CacheError(f"{path}: a field is missing or unknown ({error})") from None
    if not sound:
        raise CacheError(f"{path}: its numbers contradict each other; restore it or start over")
    return plan


def read_sources(directory: Path, plan: Plan, shard: int) -> list[PlannedRow]:
    """The sources of one shard in slot order.

    Raises:
        CacheError: when the list is missing, damaged or of another length than the plan says.
    """
    path = directory / SOURCES / f"{shard:05d}.jsonl"
    rows: list[PlannedRow] = []
    try:
        with path.open(encoding="ascii") as file:
            for line in file:
                key, label, at, *meta = json.loads(line)
                if not (isinstance(key, str) and type(label) is int and type(at) is int):
                    raise ValueError(f"line {len(rows) + 1} is not key, label, at")
                rows.append(PlannedRow(key, label, at, tuple(map(str, meta))))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise CacheError(f"{path}: not readable ({error}); restore it or start over") from None
    if len(rows) != plan.rows_of(shard):
        raise CacheError(f"{path}: {len(rows)} sources, the plan says {plan.rows_of(shard)}")
    return rows


def read_identities(directory: Path) -> list[str]:
    """Identity names; the position is the label."""
    path = directory / IDENTITIES
    try:
        with path.open("rb") as file:
            return [
                re.sub(
                    r"\\(.)",
                    lambda match: "\n" if match[1] == "n" else match[1],
                    os.fsdecode(line.removesuffix(b"\n")),
                )
                for line in file
            ]
    except OSError as error:
        raise CacheError(f"{path}: not readable ({error}); restore it or start over") from None


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
        meta: names of the rows' meta values.
        seed: key of the permutation.
        limit: sample this many rows uniformly before planning.
        shard_rows: rows per shard; None chooses by the number of rows and `row_bytes`.
        row_bytes: expected bytes of a row.
        progress: called with the number of rows listed since the last call.

    Raises:
        CacheError: when the directory holds a plan with another recipe, or none can be written.
    """
    wanted = {"seed": seed, "limit": limit, "meta": list(meta)}
    plan = load_plan(directory)
    if plan is None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            staging = directory / f".plan.{uuid.uuid4().hex}{TEMPORARY}"
            staging.mkdir()
        except OSError as error:
            raise write_error(directory, error) from error
        try:
            ours = _stage(
                staging, listing(), recipe, meta, seed, limit, shard_rows, row_bytes, progress
            )
            plan = _publish(directory, staging, ours)
        except OSError as error:
            raise write_error(directory, error) from error
        finally:
            with undisturbed():
                shutil.rmtree(staging, ignore_errors=True)
    if shard_rows is not None:
        wanted["shard_rows"] = shard_rows
    check_recipe(directory, plan.recipe, recipe)
    check_recipe(directory, {name: asdict(plan)[name] for name in wanted}, wanted)
    return plan


def check_recipe(directory: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise a CacheError that names what differs between two recipes."""
    found, wanted = json.loads(json.dumps(found)), json.loads(json.dumps(wanted))
    if found == wanted:
        return
    names = sorted(name for name in {*found, *wanted} if found.get(name) != wanted.get(name))
    differences = ", ".join(
        f"{name}: {found.get(name)} there, {wanted.get(name)} wanted" for name in names
    )
    raise CacheError(
        f"{directory}: made with other settings ({differences}); "
        "repeat the settings, choose another directory, or start over with --overwrite"
    )


def _stage(
    staging: Path,
    rows: Iterable[Row],
    recipe: dict[str, Any],
    meta: tuple[str, ...],
    seed: int,
    limit: int | None,
    shard_rows: int | None,
    row_bytes: int,
    progress: Callable[[int], None],
) -> Plan:
    """Write identities and lists into the staging directory."""
    spool = staging / "listing.jsonl"
    listed, identities = _spool(spool, staging / IDENTITIES, rows, progress)
    if listed == 0:
        raise CacheError("no images found; check the source and, for nested folders, --flat")
    count = listed if limit is None else min(limit, listed)
    per_shard = shard_rows or default_shard_rows(count, row_bytes)
    shards = -(-count // per_shard)
    lists = staging / SOURCES
    lists.mkdir()
    chosen = _sampled(spool, listed, count, seed)
    _distribute(lists, chosen, count, shards, per_shard, seed)
    listing = hashlib.sha256(file_sha256(staging / IDENTITIES).encode())
    for shard in range(shards):
        listing.update(_sort_list(lists / f"{shard:05d}.jsonl"))
    spool.unlink()
    return Plan(
        recipe=recipe,
        seed=seed,
        rows=count,
        shards=shards,
        shard_rows=per_shard,
        identities=identities,
        meta=meta,
        limit=limit,
        listing=listing.hexdigest(),
    )


def _spool(
    path: Path, names: Path, rows: Iterable[Row], progress: Callable[[int], None]
) -> tuple[int, int]:
    """Write the listing in order with labels; labels count identities by first appearance."""
    labels: dict[str, int] = {}
    count = 0
    with path.open("w", encoding="ascii") as file, names.open("wb") as identities:
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
        identities.writelines(_name_line(name) for name in labels)
        for handle in (file, identities):
            handle.flush()
            os.fsync(handle.fileno())
    return count, len(labels)


def _name_line(name: str) -> bytes:
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n")
    return os.fsencode(escaped) + b"\n"


def _sampled(spool: Path, listed: int, count: int, seed: int) -> Iterator[str]:
    """The spooled lines of the sample: those whose permuted index is below `count`."""
    with spool.open(encoding="ascii") as file:
        if count == listed:
            yield from file
            return
        for start in range(0, listed, _CHUNK):
            index = np.arange(start, min(start + _CHUNK, listed))
            keep = permute(index, listed, (seed, _SAMPLE_KEY)) < count
            yield from itertools.compress(file, keep.tolist())


def _distribute(
    lists: Path, lines: Iterator[str], rows: int, shards: int, per_shard: int, seed: int
) -> None:
    """Append every line, led by its slot, to its shard's list, with bounded memory."""
    buffers: list[list[str]] = [[] for _ in range(shards)]
    held = 0
    for start in range(0, rows, _CHUNK):
        index = np.arange(start, min(start + _CHUNK, rows))
        shard_of, slot_of = np.divmod(permute(index, rows, (seed, _PLACE_KEY)), per_shard)
        for shard, slot, line in zip(shard_of.tolist(), slot_of.tolist(), lines, strict=False):
            buffers[shard].append(f"{slot:010d}{line}")
        held += len(index)
        if held >= _BUFFERED_ROWS or start + _CHUNK >= rows:
            for shard, buffer in enumerate(buffers):
                if buffer:
                    with (lists / f"{shard:05d}.jsonl").open("a", encoding="ascii") as file:
                        file.writelines(buffer)
                    buffer.clear()
            held = 0


def _sort_list(path: Path) -> bytes:
    """Put one shard's list in slot order, drop the slots, flush it; return its digest."""
    with path.open(encoding="ascii") as file:
        lines = sorted(file)
    data = "".join(line[10:] for line in lines).encode("ascii")
    with path.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    return hashlib.sha256(data).digest()


def _publish(directory: Path, staging: Path, plan: Plan) -> Plan:
    """Move lists and identities into place, then create plan.json; the first planner wins.

    Planners that saw the same sources write the same bytes, so any of them may finish what
    another began; one that saw other sources waits for the winner's plan and adopts it.
    """
    # On the disk before anything points to it: after a power loss an empty LISTING under the right
    # name would look like another planner's.
    write_bytes(staging / SOURCES / _LISTING, plan.listing.encode())
    try:
        (staging / SOURCES).rename(directory / SOURCES)
    except OSError:
        if not (directory / SOURCES / _LISTING).exists():
            raise
    if (directory / SOURCES / _LISTING).read_text() == plan.listing:
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
