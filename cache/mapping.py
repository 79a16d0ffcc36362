"""Columns as memory: one array over the same dataset of all shards.

Every dataset starts at a page boundary of its file, so the shards of one column can be mapped
into one reserved address range, each at a whole number of pages and of rows behind the one
before. A batch of random rows over a thousand shards is then one `numpy.take`, as if the cache
were one file. Where the system cannot do that (another page size, too many maps, no Linux) or
the datasets are chunked, shards are read one by one.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.errors import CacheError
from faceguide.cache.schema import Column
from faceguide.cache.shard import ALIGNMENT

# Linux allows 65,530 maps in a process; other columns and libraries need some too.
_MAPS_PER_COLUMN = 8_000

_PROT_NONE, _PROT_READ = 0, 1
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 1, 2, 0x10, 0x20, 0x4000


class ShardColumn(Protocol):
    """Rows of one column, addressed by shard and slot."""

    spec: Column

    def take(self, shards: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy the rows into `out`, in order; shards and slots must be inside the cache."""


def open_column(
    paths: list[Path],
    sizes: list[int],
    offsets: list[dict[str, int]],
    spec: Column,
    shard_rows: int,
) -> ShardColumn:
    """Map a column over all shards, or fall back on reading shard by shard.

    Args:
        paths: the HDF5 file of each shard.
        sizes: bytes that each file must have (a shorter one would kill the process on access).
        offsets: byte offset of each contiguous dataset of each shard, from the manifest.
        spec: the column.
        shard_rows: rows of every shard but the last.

    Raises:
        CacheError: when a file is missing or of another size.
    """
    whole = all(spec.name in offset for offset in offsets)
    aligned = whole and all(offset[spec.name] % mmap.PAGESIZE == 0 for offset in offsets)
    if (
        aligned
        and sys.platform == "linux"
        and sys.maxsize > 2**32
        and len(paths) <= _MAPS_PER_COLUMN
    ):
        return MappedColumn(paths, sizes, offsets, spec, shard_rows)
    return SplitColumn(paths, sizes, offsets if whole else None, spec)


def open_checked(path: Path, size: int) -> int:
    """A read-only file descriptor, once the file's size is what the manifest says."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CacheError(
            f"{path}: cannot be opened ({error.strerror}); run the same prep command again"
        ) from None
    found = os.fstat(descriptor).st_size
    if found != size:
        os.close(descriptor)
        raise CacheError(
            f"{path}: {found} bytes, the manifest says {size}; "
            "remove the file and run the same prep command again"
        )
    return descriptor


class _AddressRange:
    """Reserved addresses that unmap themselves when the last array over them is gone."""

    def __init__(self, length: int) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.mmap.restype = ctypes.c_void_p
        self._libc.mmap.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_long,
        ]
        self._libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.length = length
        flags = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE
        self.base = self._map(None, length, _PROT_NONE, flags, -1, 0)

    def place(self, position: int, length: int, descriptor: int, offset: int) -> None:
        """Map part of a file at a position of the range."""
        flags = _MAP_SHARED | _MAP_FIXED
        self._map(self.base + position, length, _PROT_READ, flags, descriptor, offset)

    def array(self, spec: Column, rows: int) -> NDArray[Any]:
        """A read-only array over the range; it keeps the range alive."""
        self.__array_interface__ = {
            "version": 3,
            "shape": (rows, *spec.shape),
            "typestr": spec.dtype.str,
            "data": (self.base, True),
        }
        return np.asarray(self)

    def _map(
        self, address: int | None, length: int, protection: int, flags: int, fd: int, offset: int
    ) -> int:
        result = self._libc.mmap(address, length, protection, flags, fd, offset)
        if result is None or result == ctypes.c_void_p(-1).value:
            number = ctypes.get_errno()
            raise CacheError(f"cannot map {length} bytes of a shard: {os.strerror(number)}")
        return int(result)

    def __del__(self) -> None:
        if getattr(self, "base", None):
            self._libc.munmap(self.base, self.length)


class MappedColumn:
    """All shards of a column in one address range; one `numpy.take` per batch."""

    def __init__(
        self,
        paths: list[Path],
        sizes: list[int],
        offsets: list[dict[str, int]],
        spec: Column,
        shard_rows: int,
    ) -> None:
        self.spec = spec
        # A stride of whole pages and whole rows puts row `slot` of shard `s` at one row number.
        unit = math.lcm(ALIGNMENT, mmap.PAGESIZE, spec.row_bytes)
        stride = -(-shard_rows * spec.row_bytes // unit) * unit
        self._stride_rows = stride // spec.row_bytes
        addresses = _AddressRange(stride * len(paths))
        for shard, path in enumerate(paths):
            start = offsets[shard][spec.name]
            length = min(stride, sizes[shard] - start)
            descriptor = open_checked(path, sizes[shard])
            try:
                addresses.place(shard * stride, length, descriptor, start)
            finally:
                os.close(descriptor)
        self.view = addresses.array(spec, self._stride_rows * len(paths))

    def take(self, shards: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """One gather over the whole range; "clip" spares the temporary that "raise" needs."""
        np.take(self.view, shards * self._stride_rows + slots, axis=0, out=out, mode="clip")


class SplitColumn:
    """A column read shard by shard: mapped where contiguous, through h5py where chunked."""

    def __init__(
        self,
        paths: list[Path],
        sizes: list[int],
        offsets: list[dict[str, int]] | None,
        spec: Column,
    ) -> None:
        self.spec = spec
        self._paths, self._sizes, self._offsets = paths, sizes, offsets
        self._readers: dict[int, Callable[[NDArray[np.int64]], NDArray[Any]]] = {}

    def take(self, shards: NDArray[np.int64], slots: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Group the rows by shard, read each group, put the rows in their places."""
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            out[here] = self._reader(int(shard))(slots[here])

    def _reader(self, shard: int) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
        if shard not in self._readers:
            os.close(open_checked(self._paths[shard], self._sizes[shard]))
            if self._offsets is not None:
                view = np.memmap(
                    self._paths[shard],
                    self.spec.dtype,
                    "r",
                    self._offsets[shard][self.spec.name],
                    (self._rows(shard), *self.spec.shape),
                )
                self._readers[shard] = lambda slots: view[slots]
            else:
                dataset = h5py.File(self._paths[shard], "r")[self.spec.name]
                self._readers[shard] = lambda slots: _read_sorted(dataset, slots)
        return self._readers[shard]

    def _rows(self, shard: int) -> int:
        with h5py.File(self._paths[shard], "r") as file:
            return int(file[self.spec.name].shape[0])


class EncodedRows:
    """Encoded images of a cache: byte strings of different lengths, cut by an offset table."""

    def __init__(
        self, paths: list[Path], sizes: list[int], offsets: list[dict[str, int]], rows: list[int]
    ) -> None:
        self._paths, self._sizes, self._offsets, self._rows = paths, sizes, offsets, rows
        self._maps: dict[int, tuple[NDArray[np.uint64], NDArray[np.uint8]]] = {}

    def get(self, shard: int, slot: int) -> NDArray[np.uint8]:
        """The bytes of one row as a view of the mapped file.

        Raises:
            CacheError: when the offset table leaves the file.
        """
        if shard not in self._maps:
            self._maps[shard] = self._map(shard)
        ends, data = self._maps[shard]
        start, end = int(ends[slot]), int(ends[slot + 1])
        if not start <= end <= len(data):
            raise CacheError(f"{self._paths[shard]}: damaged offset table; run `cache verify`")
        return data[start:end]

    def _map(self, shard: int) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        descriptor = open_checked(self._paths[shard], self._sizes[shard])
        try:
            whole = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        place, rows = self._offsets[shard], self._rows[shard]
        ends = np.frombuffer(whole, "<u8", rows + 1, place["offset"])
        # A shard in which every row failed has no jpeg dataset with a place in the file.
        start = place.get("jpeg", len(whole))
        return ends, np.frombuffer(whole, np.uint8, -1, start) if start < len(whole) else _EMPTY


_EMPTY = np.empty(0, np.uint8)


def _read_sorted(dataset: h5py.Dataset, slots: NDArray[np.int64]) -> NDArray[Any]:
    """h5py wants increasing, distinct indices."""
    distinct, back = np.unique(slots, return_inverse=True)
    return np.asarray(dataset[distinct])[back]
