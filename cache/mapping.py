"""Columns as memory: one array over the same dataset of all shards.

Every dataset starts at a page boundary of its file, so the shards of one column can be mapped
into one reserved address range, each at a whole number of pages and of rows behind its start.
A batch of random rows over a thousand shards is then one `numpy.take`, as if the cache were one
file. Addresses and file offsets agree modulo 2 MiB, so that a kernel that caches files in huge
pages maps them as such, which spares address look-ups. Where the system cannot do that
(another page size, too many maps, no Linux), shards are mapped one by one.
"""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.schema import Column, bytes_digest
from faceguide.core.errors import CacheError
from faceguide.core.files import reading

_MAPS, _COLUMNS = 65_530, 8  # maps that Linux allows a process, columns that share them
_HUGE_PAGE, _WORTH = 2 << 20, 4  # bytes; how many of them a column of a shard should have
_ADDRESSES_PER_COLUMN = 1 << 46  # of the 2**47 that a process has

_PROT_NONE, _PROT_READ = 0, 1
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 1, 2, 0x10, 0x20, 0x4000


class ShardColumn(Protocol):
    """Rows of one column, addressed by shard and slot."""

    spec: Column

    def take(self, shards: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy the rows into `out`, in order; shards and slots must be inside the cache."""


class Files(Protocol):
    """The shards of a group, of one volume or of several; see `ShardFiles`."""

    @property
    def entries(self) -> Mapping[int, dict[str, Any]]: ...
    @property
    def elsewhere(self) -> bool: ...
    def path(self, shard: int) -> Path: ...
    def open(self, shard: int) -> int: ...
    def check(self, shard: int) -> None: ...
    def held(self, shards: NDArray[np.int64]) -> Iterator[Any]: ...
    def ahead(self, shards: NDArray[np.int64]) -> None: ...
    def watch(self, leaving: Callable[[int], object]) -> None: ...


def open_column(files: Files, spec: Column) -> ShardColumn:
    """Map a column over all shards, or shard by shard.

    Raises:
        CacheError: when a file is missing or not what was written.
    """
    starts = [entry["offsets"][spec.name] for entry in files.entries.values()]
    lengths = [entry["rows"] for entry in files.entries.values()]
    if sys.platform == "linux" and sys.maxsize > 2**32 and len(starts) <= maps_per_column():
        # Short columns would waste addresses on huge pages, and the processor's tables with them.
        large = sum(lengths) * spec.row_bytes >= _WORTH * _HUGE_PAGE * len(lengths)
        for alignment in (_HUGE_PAGE, mmap.PAGESIZE)[not large :]:
            first_rows = place_shards(starts, lengths, spec.row_bytes, alignment)
            if first_rows is None:
                continue
            try:
                addresses = _AddressRange((first_rows[-1] + lengths[-1]) * spec.row_bytes)
            except _NoAddresses:  # such as a limit on the process (ulimit -v)
                continue
            return MappedColumn(addresses, spec, first_rows, files, alignment)
    return SplitColumn(files, spec)


@functools.cache
def maps_per_column() -> int:
    """Shards of a column that are mapped at once: 8,191, or more where the system allows it."""
    try:
        allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        allowed = _MAPS
    return allowed // _COLUMNS


def place_shards(
    starts: list[int], lengths: list[int], row_bytes: int, alignment: int
) -> list[int] | None:
    """Row numbers, in one array over all shards, of the first row of each.

    Row r of that array lies at byte r · row_bytes of an aligned address range. Every shard gets
    the first place behind the one before at which its address and its offset in the file agree
    modulo `alignment`.

    Args:
        starts: byte offset of the column in each shard's file.
        lengths: rows of each shard.
        alignment: a power of two, whole pages.

    Returns:
        One number per shard; None when an offset allows no such place, or the places take more
        addresses than a column may have.
    """
    common = math.gcd(row_bytes, alignment)
    period = alignment // common  # rows after which addresses repeat modulo the alignment
    inverse = pow(row_bytes // common, -1, period)
    places, free = [], 0
    for start, length in zip(starts, lengths, strict=True):
        if start % common:
            return None
        wanted = start // common * inverse % period
        row = free + (wanted - free) % period
        places.append(row)
        # What is mapped ends at the alignment behind the last row, and begins at the one before.
        end = (row + length) * row_bytes
        free = -(-(-(-end // alignment) * alignment) // row_bytes)
    return places if free * row_bytes <= _ADDRESSES_PER_COLUMN else None


class _NoAddresses(Exception):
    """The system does not give that many addresses."""


class _AddressRange:
    """Reserved addresses that unmap themselves when the last array over them is gone.

    The first byte that `array` shows lies at a huge page's boundary; one huge page before it and
    one behind the end are reserved too.
    """

    def __init__(self, length: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        words = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
        self._libc.mmap.argtypes = words
        self._libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._length = length + 4 * _HUGE_PAGE
        flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
        reserved = self._map(None, self._length, _PROT_NONE, flags, -1, 0)
        if reserved is None:
            raise _NoAddresses
        self._reserved = reserved
        self._base = (reserved // _HUGE_PAGE + 2) * _HUGE_PAGE

    def place(self, position: int, length: int, descriptor: int, offset: int) -> None:
        """Map part of a file at a position of the range.

        Raises:
            OSError: when the system refuses.
        """
        flags = _MAP_SHARED | _MAP_FIXED
        address = self._base + position
        if self._map(address, length, _PROT_READ, flags, descriptor, offset) is None:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def clear(self, position: int, length: int) -> None:
        """Reserve that part of the range again, with nothing in it."""
        flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED
        length = -(-length // mmap.PAGESIZE) * mmap.PAGESIZE
        self._map(self._base + position, length, _PROT_NONE, flags, -1, 0)

    def array(self, spec: Column, rows: int) -> NDArray[Any]:
        """A read-only array over the range; it keeps the range alive."""
        self.__array_interface__ = {
            "version": 3,
            "shape": (rows, *spec.shape),
            "typestr": spec.dtype.str,
            "data": (self._base, True),
        }
        return np.asarray(self)

    def _map(
        self, address: int | None, length: int, protection: int, flags: int, fd: int, offset: int
    ) -> int | None:
        result = self._libc.mmap(address, length, protection, flags, fd, offset)
        return None if result == ctypes.c_void_p(-1).value else int(result)

    def __del__(self) -> None:
        if hasattr(self, "_base"):
            self._libc.munmap(self._reserved, self._length)


class MappedColumn:
    """All shards of a column in one address range; one `numpy.take` per batch.

    Shards that lie elsewhere get their place when a row of them is first read, and lose it when
    their file leaves; `Files.held` keeps them while they are read.

    Raises:
        CacheError: when a file is missing or not what was written, or the system refuses.
    """

    def __init__(
        self,
        addresses: _AddressRange,
        spec: Column,
        first_rows: list[int],
        files: Files,
        alignment: int,
    ) -> None:
        self.spec = spec
        self._addresses, self._files, self._alignment = addresses, files, alignment
        self._first_rows = np.array(first_rows, np.int64)
        self._lock = threading.Lock()
        self._lacking = np.ones(len(first_rows), bool)
        self._complete = not files.elsewhere
        self.view = addresses.array(
            spec, first_rows[-1] + files.entries[len(first_rows) - 1]["rows"]
        )
        if files.elsewhere:
            files.watch(self._leave)
        else:
            for shard in range(len(first_rows)):
                self._place(shard)

    def _extent(self, shard: int) -> tuple[int, int, int]:
        """Position in the range, length, and offset in the file of what is mapped of a shard."""
        entry, row_bytes = self._files.entries[shard], self.spec.row_bytes
        start = entry["offsets"][self.spec.name]
        # From boundary to boundary, so that huge pages at the column's ends are used too.
        before = start % self._alignment
        end = start + entry["rows"] * row_bytes
        # Behind the end of a file there is no page: an access would kill the process.
        end = min(-(-end // self._alignment) * self._alignment, entry["bytes"])
        position = int(self._first_rows[shard]) * row_bytes - before
        return position, end - start + before, start - before

    def _place(self, shard: int) -> None:
        """Map a shard to its place."""
        position, length, offset = self._extent(shard)
        descriptor = self._files.open(shard)
        try:
            with reading(self._files.path(shard)), self._lock:
                self._addresses.place(position, length, descriptor, offset)
                self._lacking[shard] = False
        finally:
            os.close(descriptor)

    def _leave(self, shard: int) -> None:
        """Give the place of a shard back, so that the space of a removed file is free."""
        with self._lock:
            if not self._lacking[shard]:
                self._lacking[shard], self._complete = True, False
                self._addresses.clear(*self._extent(shard)[:2])

    def take(self, shards: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """One gather over the whole range; "clip" spares the temporary that "raise" needs."""
        if not self._complete:
            for shard in np.unique(shards[self._lacking[shards]]).tolist():
                self._place(shard)
            with self._lock:
                self._complete = not self._lacking.any()
        np.take(self.view, self._first_rows[shards] + slots, axis=0, out=out, mode="clip")


class SplitColumn:
    """A column mapped shard by shard."""

    def __init__(self, files: Files, spec: Column) -> None:
        self.spec = spec
        self._files = files
        self._views: dict[int, NDArray[Any]] = {}
        files.watch(lambda shard: self._views.pop(shard, None))

    def take(self, shards: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Group the rows by shard, read each group, put the rows in their places."""
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            out[here] = self._view(shard)[slots[here]]

    def _view(self, shard: int) -> NDArray[Any]:
        view = self._views.get(shard)
        if view is None:
            if len(self._views) >= maps_per_column():
                self._views.clear()
            path, entry, spec = self._files.path(shard), self._files.entries[shard], self.spec
            self._files.check(shard)
            start, shape = entry["offsets"][spec.name], (entry["rows"], *spec.shape)
            with reading(path):
                view = self._views[shard] = np.memmap(path, spec.dtype, "r", start, shape)
        return view


class BytesColumn:
    """Texts or image files of a column: byte strings of different lengths, cut by `offset/NAME`.

    The bytes of a text column are compared with their digest when a shard is first used; image
    files have one each.
    """

    def __init__(self, files: Files, name: str) -> None:
        self._files, self._name = files, name
        self._maps: dict[int, tuple[NDArray[np.uint64], NDArray[np.uint8]]] = {}
        files.watch(lambda shard: self._maps.pop(shard, None))

    def all(self, shard: int) -> Iterator[memoryview]:
        """The bytes of every row of a shard; raises as `get`."""
        return (self.get(shard, slot) for slot in range(self._files.entries[shard]["rows"]))

    def get(self, shard: int, slot: int) -> memoryview:
        """The bytes of one row, in the mapped file.

        Raises:
            CacheError: when the offset table leaves the column, or the texts were changed.
        """
        found = self._maps.get(shard)
        if found is None:
            if len(self._maps) >= maps_per_column():
                self._maps.clear()
            found = self._maps[shard] = self._map(shard)
        ends, data = found
        start, end = int(ends[slot]), int(ends[slot + 1])
        if not start <= end <= len(data):
            raise CacheError(f"{self._files.path(shard)}: damaged offset table; run `cache verify`")
        return data[start:end].data

    def _map(self, shard: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        descriptor = self._files.open(shard)
        path, entry = self._files.path(shard), self._files.entries[shard]
        try:
            with reading(path):
                whole = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        offsets, name = entry["offsets"], self._name
        ends = np.frombuffer(whole, "<u8", entry["rows"] + 1, offsets[f"offset/{name}"])
        # A column whose values are all empty has no place in the file.
        start, length = offsets.get(name, 0), int(ends[-1])
        if length > len(whole) - start:
            raise CacheError(f"{path}: damaged offset table; run `cache verify`")
        data = np.frombuffer(whole, np.uint8, length, start)
        if name in entry["texts"] and bytes_digest(ends, data) != entry["texts"][name]:
            raise CacheError(
                f"{path}: {name} differs from its digest; restore the original, or remove it and "
                "rerun the same prep command"
            )
        return ends, data
