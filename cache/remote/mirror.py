"""A mirror: the plan and manifests of a remote cache in a folder that fetches its shards itself.

The folder is opened as any cache is, by every command; `mirror.json` says where its shards come
from. Nothing is written back.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from faceguide.cache.manifest import load_manifest, manifest_path, recipe_path
from faceguide.cache.plan import IDENTITIES, PLAN, load_plan, read_identities
from faceguide.cache.remote.kept_shards import KeptShards
from faceguide.cache.remote.mirror_files import MirrorFiles
from faceguide.cache.remote.store import Store, is_address
from faceguide.cache.schema import GROUPS
from faceguide.cache.shard import MIRROR
from faceguide.cache.shard_files import ShardFiles
from faceguide.core.commands.doubts import STAGES, doubts_path
from faceguide.core.errors import CacheError
from faceguide.core.files import json_bytes, publish, read_json, write_error, write_json


def mirror(address: str, directory: Path, limit: int | None = None) -> Path:
    """Make the folder a mirror of the cache at an address, or compare it with that cache.

    Args:
        limit: bytes that the shards in the folder may take; None: as before, or no limit.

    Returns:
        The folder.

    Raises:
        CacheError: when the store fails, has no sealed cache there or another than before, or the
            folder holds something else.
    """
    store = Store(address)
    _require_ours(directory, store.address)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(directory, error) from error
    names = sealed_files(store)
    about = {"address": store.address, "limit": limit}
    if not publish(directory / MIRROR, json_bytes(about)):
        found = read_json(directory / MIRROR)
        if limit is not None and found.get("limit") != limit:
            write_json(directory / MIRROR, about)
    for name, data in names.items():  # the plan is the last: it makes a cache of the folder
        path = directory / name
        if not publish(path, data) and path.read_bytes() != data:
            raise CacheError(
                f"{store.where(name)}: not what {directory} was made from; the cache was replaced: "
                f"remove {directory} to fetch the new one"
            )
    return directory


def mirrors(
    places: list[str], local: str | os.PathLike[str] | None, limit: int | None
) -> Path | list[str | Path]:
    """A mirror of the one address in the folder itself, or of each in a folder below it.

    Paths of caches among several addresses stay as they are.

    Raises:
        CacheError: as `mirror`, or when there is no folder or no address.
    """
    if local is None:
        first = next(filter(is_address, places))
        raise CacheError(f"{first}: give local=, a folder for what is fetched")
    if not any(map(is_address, places)):
        raise CacheError(f"{places[0]}: no address such as s3://bucket/cache; it needs no local=")
    if len(places) == 1:
        return mirror(places[0], Path(local), limit)
    return [
        mirror(place, Path(local) / f"{number}-{place.rstrip('/').rpartition('/')[2]}", limit)
        if is_address(place)
        else place
        for number, place in enumerate(places)
    ]


def _require_ours(directory: Path, address: str) -> None:
    if (directory / MIRROR).exists():
        found = read_json(directory / MIRROR).get("address")
        if found != address:
            raise CacheError(f"{directory}: holds shards of {found}; choose another folder")
    elif (directory / PLAN).exists():
        raise CacheError(f"{directory}: a cache of its own; choose another folder for {address}")


def sealed_files(store: Store) -> dict[str, bytes]:
    """The files of a remote cache that are no shards, checked; the plan is the last.

    Raises:
        CacheError: when they are missing or contradict each other.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="faceguide-") as staging:
            found = _checked(store, Path(staging))
    except OSError as error:
        raise write_error(Path(tempfile.gettempdir()), error) from error
    return {name: found[name] for name in sorted(found, key=lambda name: name == PLAN)}


def _checked(store: Store, staging: Path) -> dict[str, bytes]:
    """The same in any order; they lie in the folder while they are checked."""
    found: dict[str, bytes] = {}

    def get(path: Path) -> None:
        if (data := store.read(path.name)) is not None:
            path.write_bytes(data)
            found[path.name] = data

    try:
        get(staging / PLAN)
        plan = load_plan(staging)
        if plan is None:
            raise CacheError(f"{staging}: no cache here (no plan.json)")
        get(staging / IDENTITIES)
        if len(read_identities(staging)) != plan.identities:
            raise CacheError(f"{staging / IDENTITIES}: not as long as the plan says; restore it")
        for group in GROUPS:
            get(manifest_path(staging, group))
            if load_manifest(staging, group, plan) is None:
                if group == "faces":
                    raise CacheError(f"{staging}: not sealed; finish it first (`cache seal`)")
                continue
            for stage in STAGES[group]:
                get(doubts_path(staging, stage))
            if group != "faces":
                get(recipe_path(staging, group))
    except CacheError as error:
        raise CacheError(str(error).replace(str(staging), store.address)) from None
    return found


def group_files(directory: Path, manifests: dict[str, dict[str, Any]]) -> dict[str, ShardFiles]:
    """The shards of each sealed group, of a cache or of a mirror.

    Raises:
        CacheError: when mirror.json is damaged or was made for what is not installed.
    """
    if not (directory / MIRROR).exists():
        return {group: ShardFiles(directory, group, found) for group, found in manifests.items()}
    about = read_json(directory / MIRROR)
    match about:
        case {"address": str(address), "limit": int() | None as limit}:
            kept = KeptShards(directory, Store(address), limit)
        case _:
            raise CacheError(f"{directory / MIRROR}: not a file of this version; remove the folder")
    return {g: MirrorFiles(directory, g, found, kept) for g, found in manifests.items()}
