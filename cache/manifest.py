"""Sealing: one manifest per column group, gathered from the shards' sidecars.

Nothing rereads the shards themselves, and writing a manifest twice writes the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from faceguide.cache.plan import SOURCES, Plan, check_recipe, load_plan
from faceguide.cache.schema import GROUPS, SCHEMA, columns
from faceguide.cache.shard import MIRROR, is_done, sidecar_path
from faceguide.core.commands.doubts import STAGES, doubts_path
from faceguide.core.commands.parts import parts_of
from faceguide.core.errors import CacheError
from faceguide.core.files import digest, json_bytes, publish, read_json, stray_files, write_json

# What a manifest says of each shard, out of its sidecar.
_OF_A_SHARD = ("rows", "bytes", "sha256", "opening", "offsets", "texts")


def manifest_path(directory: Path, group: str) -> Path:
    return directory / f"manifest-{group}.json"


def recipe_path(directory: Path, group: str) -> Path:
    """Where a later group's recipe lives; that of `faces` is part of the plan."""
    return directory / f"recipe-{group}.json"


def require_plan(directory: Path) -> Plan:
    """The plan of a cache.

    Raises:
        CacheError: when the directory holds none.
    """
    plan = load_plan(directory)
    if plan is None:
        raise CacheError(
            f"{directory}: no cache here (no plan.json); make one with `prep landmarks`"
        )
    return plan


def group_recipe(directory: Path, plan: Plan, group: str) -> dict[str, Any] | None:
    """The recipe of a group, or None when the group was never begun."""
    if group == "faces":
        return plan.recipe
    path = recipe_path(directory, group)
    return read_json(path) if path.exists() else None


def set_recipe(
    directory: Path, plan: Plan, group: str, recipe: dict[str, Any], *, replace: bool
) -> None:
    """Settle the recipe of a later group; its manifest goes when the recipe changes.

    Raises:
        CacheError: when another recipe is there and `replace` is False.
    """
    recipe = {**recipe, "faces": digest({"recipe": plan.recipe, "listing": plan.listing})}
    path = recipe_path(directory, group)
    if publish(path, json_bytes(recipe)):
        return
    found = read_json(path)
    if found == recipe:
        return
    if not replace:
        check_recipe(directory, found, recipe)
    manifest_path(directory, group).unlink(missing_ok=True)
    write_json(path, recipe)


def missing_shards(
    directory: Path, group: str, recipe: dict[str, Any], shards: Iterable[int]
) -> list[int]:
    """Those of the shards that are not finished under the group's recipe."""
    return [shard for shard in shards if not is_done(directory, group, shard, recipe)]


def seal_if_complete(directory: Path, group: str, plan: Plan) -> bool:
    """Seal a group once all its shards are there; whether it is sealed.

    One listing of the directory decides in nearly all calls: of a thousand parts that end one
    by one, each must not look at every shard of the others.
    """
    sidecars = sum(
        entry.name.startswith(f"{group}-") and entry.name.endswith(".json")
        for entry in os.scandir(directory)
    )
    if sidecars < plan.shards:
        return False
    recipe = group_recipe(directory, plan, group)
    if recipe is None or missing_shards(directory, group, recipe, range(plan.shards)):
        return False
    seal(directory, group)
    return True


def missing_parts(directory: Path, groups: Iterable[str], parts: int) -> list[int]:
    """Which of N parts have shards to make in any of the groups; reads only the sidecars."""
    plan = require_plan(directory)
    missing: set[int] = set()
    for group in groups:
        recipe = group_recipe(directory, plan, group)
        every = range(plan.shards)
        missing.update(every if recipe is None else missing_shards(directory, group, recipe, every))
    return parts_of(missing, parts)


def seal(directory: Path, group: str) -> dict[str, Any]:
    """Gather the sidecars of a group into its manifest.

    Raises:
        CacheError: when shards are missing; names them.
    """
    plan = require_plan(directory)
    recipe = group_recipe(directory, plan, group)
    if recipe is None:
        raise CacheError(f"{directory}: the group {group} was never begun")
    missing = missing_shards(directory, group, recipe, range(plan.shards))
    if missing:
        listed = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        raise CacheError(
            f"{directory}: {len(missing)} of {plan.shards} {group} shards are not there "
            f"({listed}); rerun the same prep command, it makes only these"
        )
    status: Counter[str] = Counter()
    origin: Counter[str] = Counter()
    masks: Counter[str] = Counter()  # what they show, in a group made of masks
    shards, total = [], 0
    for shard in range(plan.shards):
        path = sidecar_path(directory, group, shard)
        try:
            sidecar = read_json(path)
            status.update(sidecar["status"])
            origin.update(sidecar.get("origin", {}))
            masks.update(dict(sidecar.get("masks", {})))
            shards.append({name: sidecar[name] for name in _OF_A_SHARD})
            total += sidecar["bytes"]
        except (KeyError, TypeError, ValueError) as error:
            raise wrong_sidecar(path, error) from None
    manifest = {
        "schema": SCHEMA,
        "group": group,
        "recipe": recipe,
        "columns": _described(group, recipe, plan),
        "listing": plan.listing,
        "rows": plan.rows,
        "bytes": total,
        "status": dict(status),
        "origin": dict(origin),
        **({"masks": dict(masks)} if masks else {}),
        "shards": shards,
    }
    path = manifest_path(directory, group)
    # A sealed cache can be resealed where nothing can be written.
    if not path.exists() or path.read_bytes() != json_bytes(manifest):
        write_json(path, manifest)
    return manifest


def load_manifest(directory: Path, group: str, plan: Plan) -> dict[str, Any] | None:
    """A sealed group's manifest, or None when the group is not sealed.

    Raises:
        CacheError: when the manifest is damaged or belongs to another plan.
    """
    path = manifest_path(directory, group)
    if not path.exists():
        return None
    manifest = read_json(path)
    if manifest.get("schema") != SCHEMA or manifest.get("listing") != plan.listing:
        raise CacheError(f"{path}: belongs to another plan; run `cache seal {directory}`")
    if not _sound(manifest, group, plan):
        raise CacheError(f"{path}: does not match the plan; run `cache seal {directory}`")
    return manifest


def _sound(manifest: dict[str, Any], group: str, plan: Plan) -> bool:
    """Whether a manifest describes files that a reader may map: what it says is believed."""
    shards, recipe = manifest.get("shards"), manifest.get("recipe")
    return (
        isinstance(shards, list)
        and len(shards) == plan.shards
        and isinstance(recipe, dict)
        and _are_sums(manifest.get("masks", {}))
        and manifest.get("columns") == _described(group, recipe, plan)
        and all(_is_entry(shard, plan.rows_of(number)) for number, shard in enumerate(shards))
        and _inside(group, recipe, plan, shards)
    )


def _is_entry(shard: Any, rows: int) -> bool:
    return (
        isinstance(shard, dict)
        and shard.get("rows") == rows
        and type(shard.get("bytes")) is int
        and isinstance(shard.get("opening"), str)
        and isinstance(shard.get("texts"), dict)
        and isinstance(shard.get("offsets"), dict)
    )


def _texts(group: str, plan: Plan) -> list[str]:
    """Names of a group's text columns."""
    return ["key", *(f"meta/{name}" for name in plan.meta)] if group == "faces" else []


def _described(group: str, recipe: dict[str, Any], plan: Plan) -> list[dict[str, Any]]:
    """Every column in the order of the file, for readers that know nothing of groups."""
    texts = [{"name": name, "dtype": "text", "shape": []} for name in _texts(group, plan)]
    return texts + [{"name": spec.name, **spec.described()} for spec in columns(group, recipe)]


def finished_shard(
    directory: Path, plan: Plan, group: str, recipe: dict[str, Any], shard: int
) -> dict[str, Any]:
    """What a manifest will say of a shard, while the group is not sealed.

    Raises:
        CacheError: when the shard's sidecar is not one.
    """
    path = sidecar_path(directory, group, shard)
    sidecar = read_json(path)
    try:
        entry = {name: sidecar[name] for name in _OF_A_SHARD}
        if not _is_entry(entry, plan.rows_of(shard)) or not _inside(group, recipe, plan, [entry]):
            raise ValueError("its numbers contradict each other")
    except (KeyError, ValueError) as error:
        raise wrong_sidecar(path, error) from None
    return entry


def wrong_sidecar(path: Path, error: Exception) -> CacheError:
    """What to say about a sidecar that reads well and holds something else."""
    return CacheError(
        f"{path}: not what a writer of shards leaves ({error}); remove it and rerun the same "
        "prep command"
    )


def _are_sums(masks: Any) -> bool:
    if not isinstance(masks, dict):
        return False
    named = not masks or {"faces", "visible"} <= set(masks)
    return named and all(type(number) in (int, float) for number in masks.values())


def _inside(group: str, recipe: dict[str, Any], plan: Plan, shards: list[dict[str, Any]]) -> bool:
    """Whether every column has a place with room for it: what lies beyond would be mapped."""
    texts, specs = _texts(group, plan), columns(group, recipe)
    pieces = [*texts, *(spec.name for spec in specs if spec.encoded)]
    row_bytes = {
        **{f"offset/{name}": 8 for name in pieces},
        **{spec.name: spec.row_bytes for spec in specs if not spec.encoded},
    }
    for shard in shards:
        offsets = shard["offsets"]
        if set(shard["texts"]) != set(texts) or not row_bytes.keys() <= offsets.keys():
            return False
        for name, start in offsets.items():
            rows = shard["rows"] + name.startswith("offset/")
            length = row_bytes.get(name, 0) * rows
            if type(start) is not int or not 0 <= start <= shard["bytes"] - length:
                return False
    return True


def require_files(directory: Path) -> None:
    """Raise a CacheError for a mirror, which has few of a cache's files."""
    if (directory / MIRROR).exists() and not (directory / SOURCES).exists():
        raise CacheError(
            f"{directory}: a mirror, which lacks what this needs; `cache copy` the cache whole"
        )


def failures(directory: Path) -> Iterator[dict[str, Any]]:
    """Every recorded failure, group by group and shard by shard.

    Yields:
        group, row (number in the cache), key, status, reason.
    """
    plan = require_plan(directory)
    require_files(directory)
    for group in GROUPS:
        for shard in range(plan.shards):
            path = sidecar_path(directory, group, shard)
            if path.exists():
                try:
                    for failure in read_json(path).get("failures", []):
                        row = shard * plan.shard_rows + failure["row"]
                        yield {"group": group, **failure, "row": row}
                except (KeyError, TypeError) as error:
                    raise wrong_sidecar(path, error) from None


def clean(directory: Path) -> list[Path]:
    """Remove what killed writers left behind. Only for a directory that nothing writes to."""
    strays = stray_files(directory)
    for path in strays:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return strays


def start_over(directory: Path) -> None:
    """Remove everything that a plan and its groups wrote, the plan first, and nothing else."""
    (directory / "plan.json").unlink(missing_ok=True)
    for group in GROUPS:
        start_group_over(directory, group)
    shutil.rmtree(directory / "sources", ignore_errors=True)
    for name in ("identities.txt", "landmarks.index", "shared-stems.json"):
        (directory / name).unlink(missing_ok=True)


def start_group_over(directory: Path, group: str) -> None:
    """Remove everything that one group wrote, its manifest first."""
    manifest_path(directory, group).unlink(missing_ok=True)
    recipe_path(directory, group).unlink(missing_ok=True)
    for stage in STAGES[group]:
        doubts_path(directory, stage).unlink(missing_ok=True)
    for path in directory.glob(f"{group}-[0-9]*"):
        if path.suffix in (".h5", ".json"):
            path.unlink(missing_ok=True)
