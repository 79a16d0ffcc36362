"""A whole cache copied from one place to another; a rerun copies what is lacking."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from faceguide.cache.plan import LISTING, PLAN, SOURCES, list_path, listing_digest
from faceguide.cache.remote.kept_shards import KeptShards, RemoteFile
from faceguide.cache.remote.mirror import sealed_files
from faceguide.cache.remote.store import Store, is_address
from faceguide.cache.schema import GROUPS
from faceguide.cache.shard import MIRROR, shard_path, sidecar_path
from faceguide.core.errors import CacheError
from faceguide.core.files import file_sha256, publish, write_error

_THREADS = 8  # they wait for the store
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Contents:
    """What a cache consists of.

    Attributes:
        shards: the files that manifests describe.
        lists: names of the small files that few readers need: sources and sidecars.
        sealed: the other files, name → bytes; the plan is the last.
    """

    shards: tuple[RemoteFile, ...]
    lists: tuple[str, ...]
    sealed: dict[str, bytes]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.shards)


def store_of(place: str) -> Store:
    """The store at an address, or a local folder as one."""
    return Store(place if is_address(place) else f"file://{Path(place).absolute()}")


def contents(source: Store) -> Contents:
    """What a sealed cache consists of, by its plan and manifests.

    Raises:
        CacheError: when there is none, or it contradicts itself.
    """
    sealed = sealed_files(source)
    here, shards = Path(), []
    lists = [f"{SOURCES}/{LISTING}"]
    count = int(json.loads(sealed[PLAN])["shards"])
    lists += [str(list_path(here, shard)) for shard in range(count)]
    for group in GROUPS:
        if f"manifest-{group}.json" not in sealed:
            continue
        for shard, entry in enumerate(json.loads(sealed[f"manifest-{group}.json"])["shards"]):
            name = shard_path(here, group, shard).name
            shards.append(RemoteFile(name, entry["bytes"], entry["sha256"]))
            lists.append(sidecar_path(here, group, shard).name)
    return Contents(tuple(shards), tuple(lists), sealed)


def copy(source: Store, found: Contents, target: str, progress: Progress) -> int:
    """Copy a cache into a local folder or to an address; the plan is the last.

    Args:
        progress: called with the bytes of each shard that is there.

    Returns:
        Bytes of shards that had to be copied.

    Raises:
        CacheError: when a file is not what its manifest says, a store fails, or the target holds
            another cache.
    """
    if is_address(target):
        return _to_store(source, found, Store(target), progress)
    return _to_folder(source, found, Path(target), progress)


def _to_folder(source: Store, found: Contents, target: Path, progress: Progress) -> int:
    if (target / MIRROR).exists():
        raise CacheError(f"{target}: a mirror; choose another folder for the copy")
    if (target / PLAN).exists() and (target / PLAN).read_bytes() != found.sealed[PLAN]:
        raise CacheError(f"{target}: holds another cache; choose another folder")
    try:
        (target / SOURCES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(target, error) from error
    kept = KeptShards(target, source, None)

    def shard(file: RemoteFile) -> int:
        there = (target / file.name).exists()
        if there and file_sha256(target / file.name) != file.sha256:
            raise CacheError(f"{target / file.name}: another file; remove it and rerun")
        kept.fetch(file)
        progress(file.bytes)
        return 0 if there else file.bytes

    with _workers() as pool:
        copied = sum(pool.map(shard, found.shards))
    fetch_lists(source, found, target)
    for name, data in found.sealed.items():
        if name == PLAN and listing_digest(target, _shards(found)) != _listing(found):
            raise CacheError(f"{target / SOURCES}: not the lists of the plan; remove it and rerun")
        if not publish(target / name, data) and (target / name).read_bytes() != data:
            raise CacheError(f"{target / name}: of another cache; choose another folder")
    return copied


def _to_store(source: Store, found: Contents, target: Store, progress: Progress) -> int:
    if target.address.startswith(("http:", "https:")):
        raise CacheError(f"{target.address}: HTTP is only read; choose an object store or a folder")
    plan = target.read(PLAN)
    if plan is not None and plan != found.sealed[PLAN]:
        raise CacheError(f"{target.address}: holds another cache; choose another address")
    with tempfile.TemporaryDirectory(prefix="faceguide-") as place:
        kept = KeptShards(Path(place), source, None)

        def shard(file: RemoteFile) -> int:
            there = target.size(file.name) == file.bytes
            if not there:
                kept.fetch(file)  # compared with its digest before it travels on
                target.upload(Path(place) / file.name, file.name)
                (Path(place) / file.name).unlink()
            progress(file.bytes)
            return 0 if there else file.bytes

        def small(name: str, data: bytes | None = None) -> None:
            data = _needed(source, name) if data is None else data
            if target.size(name) != len(data) or target.read(name) != data:
                path = Path(place) / name.replace("/", "-")
                path.write_bytes(data)
                target.upload(path, name)

        try:
            with _workers() as pool:
                copied = sum(pool.map(shard, found.shards))
                list(pool.map(small, found.lists))
            for name, data in found.sealed.items():
                small(name, data)
        except OSError as error:
            raise write_error(Path(place), error) from error
    return copied


def fetch_lists(source: Store, found: Contents, target: Path) -> None:
    """Sources and sidecars into a folder; raises as `copy`."""
    (target / SOURCES).mkdir(exist_ok=True)

    def small(name: str) -> None:
        if not (target / name).exists():
            publish(target / name, _needed(source, name))

    with _workers() as pool:
        list(pool.map(small, found.lists))


@contextlib.contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing new once one of them failed."""
    pool = ThreadPoolExecutor(_THREADS)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _needed(source: Store, name: str) -> bytes:
    data = source.read(name)
    if data is None:
        raise CacheError(f"{source.where(name)}: missing; restore it")
    return data


def _shards(found: Contents) -> int:
    return int(json.loads(found.sealed[PLAN])["shards"])


def _listing(found: Contents) -> str:
    return str(json.loads(found.sealed[PLAN])["listing"])
