"""Some rows of a cache as a cache of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.manifest import (
    failures,
    group_recipe,
    missing_shards,
    seal,
    set_recipe,
)
from faceguide.cache.plan import Plan, read_identities, read_sources
from faceguide.cache.planning.new_plan import make_plan
from faceguide.cache.planning.shard_lists import places
from faceguide.cache.planning.spooled_listing import Row
from faceguide.cache.schema import ORIGINS, STATUS_CODE, STATUSES, Column
from faceguide.cache.shard import write_shard
from faceguide.cache.volume import Volume
from faceguide.core.errors import CacheError
from faceguide.core.files import digest, json_bytes, publish, read_json

_ROWS = 1 << 10  # copied at a time
_LISTED = 1 << 16
CUT = "cut.json"  # which rows a cut was begun with
Rows = NDArray[np.int64]


def cut(
    volume: Volume, rows: Rows, target: Path, progress: Callable[[int], None] = lambda rows: None
) -> Plan:
    """Write a new cache of these rows; a rerun writes the shards that are lacking.

    Identities without rows are left out, so labels change and names stay. The counts of masks are
    not carried over: they cannot be had for some of the rows.

    Args:
        rows: (N,) in increasing order.
        target: the directory; made when missing.
        progress: called with the rows of each shard of each group.

    Raises:
        CacheError: when no rows are given, a row is damaged, or the target holds something else.
    """
    if not len(rows):
        raise CacheError(f"{volume.directory}: no row passes --rows; nothing was written")
    target.mkdir(parents=True, exist_ok=True)
    about = {"listing": volume.plan.listing, "rows": digest(rows.tolist())}
    if not publish(target / CUT, json_bytes(about)) and read_json(target / CUT) != about:
        raise CacheError(f"{target}: a cut of other rows was begun here; choose another folder")
    plan = make_plan(
        target, lambda: _listed(volume, rows), recipe=volume.plan.recipe, meta=volume.plan.meta,
        seed=volume.plan.seed, shard_rows=min(volume.plan.shard_rows, len(rows)),
    )  # fmt: skip
    order = np.empty(len(rows), np.int64)  # the listed row at each place
    order[places(np.arange(len(rows)), len(rows), plan.seed)] = np.arange(len(rows))
    reasons = {(f["group"], f["row"]): f for f in failures(volume.directory)}
    for group in volume.groups:
        if group != "faces":
            of_group = {k: v for k, v in volume.groups[group]["recipe"].items() if k != "faces"}
            set_recipe(target, plan, group, of_group, replace=False)
        recipe = group_recipe(target, plan, group)
        assert recipe is not None
        lacking = set(missing_shards(target, group, recipe, range(plan.shards)))
        for shard in range(plan.shards):
            start = shard * plan.shard_rows
            if shard in lacking:
                here = rows[order[start : start + plan.rows_of(shard)]]
                _write(volume, here, target, plan, group, recipe, shard, reasons)
            progress(plan.rows_of(shard))
        seal(target, group)
    return plan


def _listed(volume: Volume, rows: Rows) -> Iterator[Row]:
    names = ["", *read_identities(volume.directory)]
    for start in range(0, len(rows), _LISTED):
        block = rows[start : start + _LISTED]
        labels = _values(volume, "faces", volume.specs["label"], block)
        meta = [volume.texts(f"meta/{name}", block) for name in volume.plan.meta]
        keys = volume.texts("key", block)
        for key, label, *texts in zip(keys, labels.tolist(), *meta, strict=True):
            yield Row(key, names[label + 1], meta=tuple(texts))


def _write(
    volume: Volume,
    rows: Rows,
    target: Path,
    plan: Plan,
    group: str,
    recipe: dict[str, Any],
    shard: int,
    reasons: dict[tuple[str, int], dict[str, Any]],
) -> None:
    """One shard of a group."""
    planned = read_sources(target, plan, shard)
    specs = [spec for spec in volume.every[group] if spec.name != "digest"]
    small = {s.name: _values(volume, group, s, rows) for s in specs if not s.large}
    texts: dict[str, list[str]] = {}
    if group == "faces":
        small["label"] = np.array([row.label for row in planned], np.int64)
        texts = {name: volume.texts(name, rows) for name in _texts(plan)}
    report: dict[str, Any] = {
        "failures": [
            {**_without(found, "group"), "row": slot}
            for slot, row in enumerate(rows.tolist())
            if (found := reasons.get((group, row)))
        ]
    }
    encoded = {s.name: volume.pieces(s.name, rows) for s in specs if s.encoded}
    finite = np.ones(len(rows), bool)
    with write_shard(
        target, group, shard, recipe, rows=len(rows), texts=texts, encoded=encoded, report=report
    ) as writer:
        for spec in (spec for spec in specs if spec.large and not spec.encoded):
            for start in range(0, len(rows), _ROWS):
                block = rows[start : start + _ROWS]
                writer.write(spec.name, start, _values(volume, group, spec, block))
        for name, values in small.items():
            writer.write(name, 0, values)
        if group == "guidance":
            for start in range(0, len(rows), _LISTED):
                block = rows[start : start + _LISTED]
                points = _values(volume, "faces", volume.specs["landmarks"], block)
                finite[start : start + _LISTED] = np.isfinite(points[:, :, :2]).all((1, 2))
        report |= _counts(group, small, finite)


def _values(volume: Volume, group: str, spec: Column, rows: Rows) -> NDArray[Any]:
    """A column of these rows; also of those that `Volume.take` does not deliver."""
    out = np.empty((len(rows), *spec.shape), spec.dtype)
    if volume.group_of.get(spec.name) == group:
        volume.take(rows, {spec.name: out})
        return out
    shards, slots = volume.locate(rows)
    every = np.arange(len(rows))
    for part in volume.files[group].held(shards):
        found = np.empty((len(every[part]), *spec.shape), spec.dtype)
        volume.column(group, spec).take(shards[part], slots[part], found)
        out[part] = found
    return out


def _counts(group: str, small: dict[str, NDArray[Any]], finite: NDArray[np.bool_]) -> Any:
    """What the sidecar counts, as the commands that make the group count it."""
    if group == "faces":
        return {
            name: _named(small[name], names)
            for name, names in (("status", STATUSES), ("origin", ORIGINS))
        }
    if group == "guidance":
        counts = {"ok": int(finite.sum()), "no_face": int((~finite).sum())}
    else:
        refused = int((small["status"] == STATUS_CODE["mask_refused"]).sum())
        known = int(small["known"].sum())
        counts = {"ok": known, "unknown": len(finite) - known - refused, "mask_refused": refused}
    return {"status": {name: count for name, count in counts.items() if count}}


def _named(codes: NDArray[Any], names: Iterable[str]) -> dict[str, int]:
    counts = Counter(codes.tolist())
    return {name: counts[code] for code, name in enumerate(names) if counts[code]}


def _texts(plan: Plan) -> list[str]:
    return ["key", *(f"meta/{name}" for name in plan.meta)]


def _without(found: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in found.items() if key != name}
