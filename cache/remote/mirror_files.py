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
        self._files = [
            RemoteFile(self.path(shard).name, entry["bytes"], entry["sha256"])
            for shard, entry in self.entries.items()
        ]

        kept.expect(len(self._files))

    @property
    def elsewhere(self) -> bool:
        return True

    def held(self, shards: NDArray[np.int64]) -> Iterator[Any]:
        if self._kept.settled():
            yield slice(None)
            return
        wanted = np.unique(shards)
        limit = self._kept.limit
        # All at once where they fit beside what other threads hold; else shard by shard.
        few = limit is None or len(wanted) == 1 or self._bytes[wanted].sum() <= limit // 4
        if few or self._bytes.sum() <= (limit or 0):
            with self._kept.hold(map(self._files.__getitem__, wanted.tolist())):
                yield slice(None)
            return
        for shard in wanted.tolist():
            with self._kept.hold([self._files[shard]]):
                yield np.flatnonzero(shards == shard)

    def ahead(self, shards: NDArray[np.int64]) -> None:
        if not self._kept.settled():
            self._kept.ahead(map(self._files.__getitem__, dict.fromkeys(shards.tolist())))

    def watch(self, leaving: Callable[[int], object]) -> None:
        numbers = {file.name: shard for shard, file in enumerate(self._files)}

        def of_this_group(name: str) -> None:
            if name in numbers:
                leaving(numbers[name])

        self._kept.watch(of_this_group)

    def open(self, shard: int) -> int:
        changed = False
        while True:
            self._kept.fetch(self._files[shard])
            try:
                return super().open(shard)
            except CacheError:
                if not self.path(shard).exists():
                    continue  # another process needed its space
                # Changed here since it was fetched: another copy will do.
                if changed:
                    raise
                changed = True
                self._kept.drop(self.path(shard).name)

    def faults(self) -> list[str]:
        """What is wrong with the shards that are here."""
        return [
            fault
            for shard in self.entries
            if self.path(shard).exists() and (fault := self._fault(shard))
        ]
