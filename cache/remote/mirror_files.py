"""The shards of a group of a remote cache, fetched into its mirror when a row is first read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.remote.kept_shards import KeptShards, RemoteFile
from faceguide.cache.shard_files import ShardFiles
from faceguide.core.errors import CacheError

_ATTEMPTS = 20  # to open a file before another process needs its space


class MirrorFiles(ShardFiles):
    """As `ShardFiles`; `held` fetches, and what is held stays.

    Args:
        kept: the local folder, one for all groups of a cache.
    """

    def __init__(
        self, directory: Path, group: str, manifest: dict[str, Any], kept: KeptShards
    ) -> None:
        super().__init__(directory, group, manifest)
        self._kept = kept
        self._bytes = np.array([entry["bytes"] for entry in self.entries.values()], np.int64)

    @property
    def elsewhere(self) -> bool:
        return True

    def _remote(self, shard: int) -> RemoteFile:
        entry = self.entries[shard]
        return RemoteFile(self.path(shard).name, entry["bytes"], entry["sha256"])

    def held(self, shards: NDArray[np.int64]) -> Iterator[Any]:
        wanted = np.unique(shards)
        limit = self._kept.limit
        # All at once where they fit beside what other threads hold; else shard by shard.
        if (
            limit is None
            or self._bytes.sum() <= limit
            or self._bytes[wanted].sum() <= limit // 4
            or len(wanted) == 1
        ):
            with self._kept.hold(map(self._remote, wanted.tolist())):
                yield slice(None)
            return
        for shard in wanted.tolist():
            with self._kept.hold([self._remote(shard)]):
                yield np.flatnonzero(shards == shard)

    def ahead(self, shards: NDArray[np.int64]) -> None:
        self._kept.ahead(map(self._remote, dict.fromkeys(shards.tolist())))

    def watch(self, leaving: Callable[[int], object]) -> None:
        numbers = {self.path(shard).name: shard for shard in self.entries}

        def of_this_group(name: str) -> None:
            if name in numbers:
                leaving(numbers[name])

        self._kept.watch(of_this_group)

    def open(self, shard: int) -> int:
        for attempt in range(_ATTEMPTS):
            self._kept.fetch(self._remote(shard))
            try:
                return super().open(shard)
            except CacheError:
                # Gone again, or changed here since it was fetched: a second copy will do.
                if attempt == _ATTEMPTS - 1:
                    raise
                self._kept.drop(self.path(shard).name)
        raise AssertionError("unreachable")

    def faults(self) -> list[str]:
        """What is wrong with the shards that are here."""
        return [
            fault
            for shard in self.entries
            if self.path(shard).exists() and (fault := self._fault(shard))
        ]
