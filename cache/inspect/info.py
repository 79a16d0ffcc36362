"""`cache info`: what a cache holds by its plan and manifests, and whether its files are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faceguide.cache.manifest import group_recipe, load_manifest, require_plan
from faceguide.cache.remote.mirror import group_files
from faceguide.cache.schema import GROUPS
from faceguide.core.commands.console import printable
from faceguide.core.commands.doubts import Doubts


def damaged_shards(directory: Path) -> Doubts:
    """Shards of sealed groups that are missing or, of those that are opened, cannot be used."""
    plan, doubts = require_plan(directory), Doubts()
    manifests = {group: load_manifest(directory, group, plan) for group in GROUPS}
    sealed = {group: manifest for group, manifest in manifests.items() if manifest is not None}
    for files in group_files(directory, sealed).values():
        for fault in files.faults():
            doubts.add("damaged_shards", fault)
    return doubts


def summary(directory: Path) -> dict[str, Any]:
    """Rows, groups, bytes and counts; reads no shard, however many there are."""
    plan = require_plan(directory)
    groups: dict[str, dict[str, Any]] = {}
    for group in GROUPS:
        recipe = group_recipe(directory, plan, group)
        manifest = load_manifest(directory, group, plan)
        if recipe is not None:
            groups[group] = {
                "sealed": manifest is not None,
                "recipe": recipe,
                "bytes": manifest["bytes"] if manifest else None,
                "status": manifest["status"] if manifest else None,
                "origin": manifest["origin"] if manifest else None,
            }
            if manifest and manifest.get("masks"):
                groups[group].update(_visible(manifest["masks"]))
    return {
        "directory": str(directory),
        "schema": plan.schema,
        "rows": plan.rows,
        "shards": plan.shards,
        "shard_rows": plan.shard_rows,
        "identities": plan.identities,
        "limit": plan.limit,
        "meta": list(plan.meta),
        "groups": groups,
        "doubts": Doubts.kept_of(directory, GROUPS).counts(),
    }


def _visible(masks: dict[str, Any]) -> dict[str, Any]:
    """Faces with a mask, and the mean share of them that is visible."""
    faces = masks["faces"]
    return {
        "masked_faces": faces,
        "visible_share": round(masks["visible"] / faces, 4) if faces else None,
    }


def describe(found: dict[str, Any]) -> str:
    """The summary in words."""
    lines = [
        f"{found['directory']}: {found['rows']:,} rows of {found['identities']:,} identities "
        f"in {found['shards']:,} shards of {found['shard_rows']:,}"
    ]
    if found["limit"] is not None:
        lines.append(f"a sample: --limit {found['limit']}")
    if found["meta"]:
        lines.append(f"meta columns: {', '.join(found['meta'])}")
    for group, facts in found["groups"].items():
        if not facts["sealed"]:
            lines.append(f"{group}: not finished; rerun the same prep command")
            continue
        counts = _counts(facts["status"])
        if facts["origin"]:
            counts += f"; landmarks: {_counts(facts['origin'])}"
        lines.append(f"{group}: {facts['bytes'] / 1e6:,.1f} MB; {counts}")
        lines.append(f"  {_settings(facts['recipe'])}")
        if facts.get("masked_faces"):
            lines.append(
                f"  {facts['visible_share']:.1%} of a face visible on average, "
                f"over {facts['masked_faces']:,} faces with a mask"
            )
    doubts = Doubts.kept_of(Path(found["directory"]), GROUPS)
    lines += [f"doubt: {line}" for line in doubts.lines()]
    return "\n".join(printable(line) for line in lines)


def _counts(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {name}" for name, count in ordered)


def _settings(recipe: dict[str, Any]) -> str:
    """The recipe's plain values; its tables and digests are for programs."""
    plain = {
        name: value
        for name, value in sorted(recipe.items())
        if isinstance(value, (str, int, float)) and name not in ("faces", "revision")
    }
    finder = recipe.get("finder")
    if isinstance(finder, dict):
        plain["finder"] = f"{finder.get('tool')} of {finder.get('version', finder.get('table'))}"
    return ", ".join(f"{name} {value}" for name, value in plain.items())
