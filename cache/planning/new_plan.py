"""Making a plan: sources are listed in a fixed order, spooled, and sent to their places.

A keyed permutation of its index sends each source to (shard, slot), in bounded memory.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from faceguide.cache.plan import (
    IDENTITIES,
    LISTING,
    PLAN,
    SOURCES,
    Plan,
    check_recipe,
    joint_digest,
    load_plan,
)
from faceguide.cache.planning.shard_lists import ShardLists, Spread, in_turn
from faceguide.cache.planning.spooled_listing import Row, spool_listing
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

_PATIENCE = 60  # seconds to wait for a plan that another planner is about to publish
_SHARD_BYTES = 512 << 20
_FEW_SHARDS, _MANY_SHARDS = 16, 8_000
_MANY_ROWS = 8192


def default_shard_rows(rows: int, row_bytes: int) -> int:
    """Rows per shard: enough shards to share out, at most 8192 rows and about 512 MiB each.

    More than 8,000 shards, as many as every Linux maps at once, are not made: they are larger then.
    It depends only on the data, never on the machine or the number of jobs.
    """
    cap = min(_SHARD_BYTES // max(1, row_bytes), _MANY_ROWS)
    cap = max(64, cap, -(-rows // _MANY_SHARDS))
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
    spread: Spread = in_turn,
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
        spread: runs what can be done by several processes.

    Raises:
        CacheError: when the directory holds a plan with another recipe, or none can be written.
    """
    wanted = {"seed": seed, "limit": limit, "meta": list(meta)}
    plan = load_plan(directory)
    if plan is None:
        with _staging(directory) as staging:
            spool = spool_listing(staging, listing(), progress)
            if spool.rows == 0:
                raise CacheError("no images found; check the source, or give --flat")
            count = spool.rows if limit is None else min(limit, spool.rows)
            per_shard = shard_rows or default_shard_rows(count, row_bytes)
            lists = ShardLists(staging, spool, count, seed, per_shard)
            lists.write(spread)
            digest = joint_digest(staging, lists.digests())
            ours = Plan(
                recipe, seed, count, lists.shards, per_shard, spool.identities, meta, limit, digest
            )
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
