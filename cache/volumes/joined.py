"""The rows of several volumes as one list: a column of all their shards is one array.

So a batch over hundreds of volumes is one gather, as it is over the shards of one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.mapping import Files
from faceguide.cache.plan import read_identities
from faceguide.cache.volume import Volume
from faceguide.cache.volumes.agreement import require_agreement
from faceguide.cache.volumes.shard_rows import Rows, ShardRows
from faceguide.core.errors import CacheError


class JoinedFiles:
    """The shards of a group over all volumes, numbered one volume after another."""

    def __init__(self, volumes: Sequence[Files]) -> None:
        self._volumes = volumes
        self._first = np.cumsum([0, *(len(files.entries) for files in volumes)])
        every = (entry for files in volumes for entry in files.entries.values())
        self.entries: Mapping[int, dict[str, Any]] = dict(enumerate(every))
        self.elsewhere = any(files.elsewhere for files in volumes)  # asked for every batch

    def held(self, shards: Rows) -> Iterator[Any]:
        if not self.elsewhere:
            yield slice(None)
            return
        for files, here, inside in self._shared(shards):
            for part in files.held(inside):
                yield here[part]

    def ahead(self, shards: Rows) -> None:
        for files, _, inside in self._shared(shards):
            files.ahead(inside)

    def watch(self, leaving: Callable[[int], object]) -> None:
        for files, first in zip(self._volumes, self._first.tolist(), strict=False):
            files.watch(lambda shard, first=first: leaving(first + shard))  # type: ignore[misc]

    def _shared(self, shards: Rows) -> Iterator[tuple[Files, Rows, Rows]]:
        """The files of each volume, which rows are theirs, and their shards in that volume."""
        owners = np.searchsorted(self._first, shards, side="right") - 1
        for number in np.unique(owners).tolist():
            here = np.flatnonzero(owners == number)
            yield self._volumes[number], here, shards[here] - self._first[number]

    def _owner(self, shard: int) -> tuple[Files, int]:
        number = int(np.searchsorted(self._first, shard, side="right")) - 1
        return self._volumes[number], shard - int(self._first[number])

    def path(self, shard: int) -> Path:
        files, inside = self._owner(shard)
        return files.path(inside)

    def open(self, shard: int) -> int:
        files, inside = self._owner(shard)
        return files.open(inside)

    def check(self, shard: int) -> None:
        files, inside = self._owner(shard)
        files.check(inside)


def first_rows(volumes: Sequence[tuple[int, int]]) -> Rows:
    """The first row of each shard, in the union of volumes of (rows, rows a shard)."""
    starts = np.cumsum([0, *(rows for rows, _ in volumes)]).tolist()
    parts = [
        start + np.arange(0, rows, shard_rows)
        for start, (rows, shard_rows) in zip(starts, volumes, strict=False)
    ]
    return np.concatenate(parts).astype(np.int64)


class JoinedVolumes(ShardRows):
    """Two or more volumes; row numbers are those of the union, labels those of its identities.

    Args:
        prefixes: for the names of identities, one per volume; None: equal names are one identity.

    Raises:
        CacheError: when two of them were not made alike.
    """

    def __init__(self, volumes: Sequence[Volume], prefixes: Sequence[str] | None) -> None:
        super().__init__()
        first = volumes[0]
        for other in volumes[1:]:
            require_agreement(first, other)
        self._volumes, self._prefixes = volumes, prefixes
        self.specs = {
            name: spec
            for name, spec in first.specs.items()
            if all(volume.specs.get(name) == spec for volume in volumes)
        }
        self.group_of = first.group_of
        groups = [g for g in first.groups if all(g in volume.groups for volume in volumes)]
        self.every = {g: first.every[g] for g in groups}
        self._equal = {g for g in groups if all(v.every[g] == first.every[g] for v in volumes)}
        self.files = {g: JoinedFiles([volume.files[g] for volume in volumes]) for g in groups}
        self._first_shards = np.cumsum([0, *(volume.plan.shards for volume in volumes)])
        self._first_rows = first_rows([(len(volume), volume.plan.shard_rows) for volume in volumes])

    def locate(self, rows: Rows) -> tuple[Rows, Rows]:
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        return shards, rows - self._first_rows[shards]

    def _take(self, name: str, shards: Rows, slots: Rows, out: NDArray[Any], check: bool) -> None:
        super()._take(name, shards, slots, out, check)
        if name == "label":
            starts, counts, labels = self._labels
            places = out + 1
            if (places.view(np.uint64) > counts[shards]).any():  # one below −1 is very large there
                raise CacheError("a label names no identity of its cache; run `cache verify`")
            places += starts[shards]
            np.take(labels, places, out=out, mode="clip")

    @functools.cached_property
    def identities(self) -> list[str]:
        """Names of the identities, by first appearance."""
        return list(dict.fromkeys(name for names in self._names() for name in names))

    def _names(self) -> list[list[str]]:
        """By volume, the union's names of its identities."""
        found = []
        for number, volume in enumerate(self._volumes):
            prefix = "" if self._prefixes is None else self._prefixes[number]
            found.append([prefix + name for name in read_identities(volume.directory)])
        return found

    @functools.cached_property
    def _labels(self) -> tuple[Rows, NDArray[np.uint64], Rows]:
        """The union's labels, for −1 and each label of one volume after another.

        With each shard's first place in them, and the number of its volume's identities.
        """
        places = {name: label for label, name in enumerate(self.identities)}
        parts = [[-1, *(places[name] for name in names)] for names in self._names()]
        lengths, shards = np.array([*map(len, parts)]), np.diff(self._first_shards)
        starts = np.repeat(np.cumsum(lengths) - lengths, shards)
        counts = np.repeat(lengths - 1, shards).astype(np.uint64)
        return starts, counts, np.concatenate([np.array(part, np.int64) for part in parts])

    def _compare(
        self, group: str, name: str, shards: Rows, slots: Rows, found: NDArray[np.uint64]
    ) -> None:
        if group in self._equal:
            super()._compare(group, name, shards, slots, found)
            return
        # Optional columns that only some have: their tables of digests have other widths.
        owners = np.searchsorted(self._first_shards, shards, side="right") - 1
        for number in np.unique(owners).tolist():
            here = owners == number
            inside = shards[here] - self._first_shards[number]
            self._volumes[number]._compare(group, name, inside, slots[here], found[here])
