"""The HDF5 files of a group, as its manifest describes them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.opening import opening_fault
from faceguide.cache.schema import columns
from faceguide.cache.shard import shard_path
from faceguide.core.errors import CacheError
from faceguide.core.files import reading

_THREADS = 8  # they wait for the disk
_MOST_OPENED = 256  # to tell what a cache holds


class ShardFiles:
    """Where the shards of a group are; each is checked when it is first opened.

    Args:
        manifest: of the group, as `load_manifest` gives it; of a group that is not sealed, its
            recipe and the entries of single shards by number.

    Attributes:
        entries: by shard its rows, bytes and the byte offset of each contiguous dataset.
    """

    def __init__(self, directory: Path, group: str, manifest: dict[str, Any]) -> None:
        self._directory, self._group = directory, group
        self._specs = columns(group, manifest["recipe"])
        shards = manifest["shards"]
        self.entries: dict[int, dict[str, Any]] = (
            shards if isinstance(shards, dict) else dict(enumerate(shards))
        )
        self._sound: set[int] = set()

    @property
    def elsewhere(self) -> bool:
        """Whether shards are fetched when needed and may leave; see `MirrorFiles`."""
        return False

    def held(self, shards: NDArray[np.int64]) -> Iterator[Any]:
        """Parts of the rows in these shards, as indices; the files of a part stay while it is out.

        Args:
            shards: (N,) of each row.
        """
        yield slice(None)

    def ahead(self, shards: NDArray[np.int64]) -> None:
        """Say that rows of these shards, (N,), are needed soon."""

    def watch(self, leaving: Callable[[int], object]) -> None:
        """Have this called with a shard before its file leaves."""

    def path(self, shard: int) -> Path:
        return shard_path(self._directory, self._group, shard)

    def open(self, shard: int) -> int:
        """A read-only file descriptor of a shard, for the caller to close.

        Raises:
            CacheError: when the file is missing or not what was written, as far as
                `opening_fault` tells; the system refuses to read it.
        """
        path = self.path(shard)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CacheError(
                f"{path}: cannot be opened ({error.strerror}); rerun the same prep command"
            ) from None
        try:
            if shard not in self._sound:
                with reading(path):
                    fault = opening_fault(descriptor, self.entries[shard], self._specs)
                if fault:
                    raise CacheError(
                        f"{path}: {fault}; restore the original, or remove it and rerun "
                        "the same prep command"
                    )
                self._sound.add(shard)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def check(self, shard: int) -> None:
        """What `open` raises, without opening for good."""
        os.close(self.open(shard))

    def faults(self) -> list[str]:
        """What `open` says of each shard that it refuses.

        All are looked up in the directory; of very many only some are opened.
        """
        count = len(self.entries)
        present = {entry.name for entry in os.scandir(self._directory)}
        chosen = set(range(0, count, -(-count // _MOST_OPENED)))
        chosen |= {shard for shard in range(count) if self.path(shard).name not in present}
        threads = joblib.Parallel(n_jobs=_THREADS, prefer="threads")
        every = threads(joblib.delayed(self._fault)(shard) for shard in sorted(chosen))
        return [fault for fault in every if fault]

    def _fault(self, shard: int) -> str:
        try:
            self.check(shard)
        except CacheError as error:
            return str(error)
        return ""
