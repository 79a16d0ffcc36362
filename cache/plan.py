"""The plan: which source goes to which shard and slot, decided once and published once.

No file and no process holds all keys: a worker reads `plan.json`, a few kilobytes, and
`sources/NNNNN.jsonl`, its own list.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceguide.cache.schema import SCHEMA
from faceguide.cache.volumes.agreement import differences
from faceguide.core.errors import CacheError
from faceguide.core.files import file_sha256, read_json

PLAN = "plan.json"
SOURCES = "sources"
LISTING = "LISTING"  # inside sources/: the sha256 that plan.json repeats
IDENTITIES = "identities.txt"

_MOST_ROWS, _MOST_SHARDS = 1 << 48, 10_000_000  # of a plan that is believed: work follows them


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
    path = list_path(directory, shard)
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


def list_path(directory: Path, shard: int) -> Path:
    """The list of a shard's sources."""
    return directory / SOURCES / f"{shard:05d}.jsonl"


def listing_digest(directory: Path, shards: int) -> str:
    """Hex sha256 over the identities and all lists of sources."""
    lists = (list_path(directory, shard).read_bytes() for shard in range(shards))
    return joint_digest(directory, (hashlib.sha256(text).digest() for text in lists))


def joint_digest(directory: Path, lists: Iterable[bytes]) -> str:
    """What `listing_digest` says, by the sha256 of every list."""
    found = hashlib.sha256(file_sha256(directory / IDENTITIES).encode())
    for digest in lists:
        found.update(digest)
    return found.hexdigest()


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


def check_recipe(directory: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise a CacheError that names what differs between two recipes."""
    if different := differences(found, wanted):
        listed = ", ".join(f"{name}: {a} there, {b} wanted" for name, a, b in different)
        raise CacheError(
            f"{directory}: made with other settings ({listed}); "
            "repeat the settings, choose another directory, or start over with --overwrite"
        )
