"""Rows of numbered shards: columns are mapped when first needed, what is read is compared."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simplejpeg import decode_jpeg

from faceguide.cache.mapping import BytesColumn, Files, ShardColumn, open_column
from faceguide.cache.schema import Column, digested, piece_digests, row_digests
from faceguide.core.errors import CacheError

_TOGETHER = 1 << 20  # bytes that are copied and compared at a time; a core's cache holds them
Rows = NDArray[np.int64]


class ShardRows(ABC):
    """What a volume and the union of several share.

    Attributes:
        specs: the columns that can be delivered, by name.
        group_of: the group of each.
        files: the shards of each group.
        every: all columns of each group, in the order of the file.
    """

    specs: dict[str, Column]
    group_of: dict[str, str]
    files: Mapping[str, Files]
    every: Mapping[str, tuple[Column, ...]]

    def __init__(self) -> None:
        self._process = os.getpid()
        self._columns: dict[tuple[str, str], ShardColumn] = {}
        self._bytes: dict[str, BytesColumn] = {}

    @abstractmethod
    def locate(self, rows: Rows) -> tuple[Rows, Rows]:
        """Shard and slot of each row, (N,) both."""

    def take(self, rows: Rows, out: Mapping[str, NDArray[Any]], check: bool = True) -> None:
        """Copy rows of columns.

        Args:
            rows: (N,) inside the volume.
            out: by column (N, …), contiguous, which is filled.
            check: compare large columns with their digests; small ones were compared when their
                shard was opened.

        Raises:
            CacheError: when a row is not what was written, as far as it was compared.
        """
        self._forget_after_fork()
        shards, slots = self.locate(rows)
        for group in dict.fromkeys(map(self.group_of.__getitem__, out)):
            names = [name for name in out if self.group_of[name] == group]
            for part in self.files[group].held(shards):
                for name in names:
                    if isinstance(part, slice):
                        self._take(name, shards, slots, out[name], check)
                        continue
                    found = np.empty((len(part), *out[name].shape[1:]), out[name].dtype)
                    self._take(name, shards[part], slots[part], found, check)
                    out[name][part] = found

    def ahead(self, rows: Rows, names: Sequence[str]) -> None:
        """Say that columns of these rows are needed soon."""
        shards, _ = self.locate(rows)
        for group in dict.fromkeys(map(self.group_of.__getitem__, names)):
            self.files[group].ahead(shards)

    def _take(self, name: str, shards: Rows, slots: Rows, out: NDArray[Any], check: bool) -> None:
        spec, group = self.specs[name], self.group_of[name]
        check = check and spec.large and name != "digest"
        if spec.encoded:
            encoded = self._pieces(name)
            places = list(zip(shards.tolist(), slots.tolist(), strict=True))
            pieces = [encoded.get(shard, slot) for shard, slot in places]
            if check:
                self._compare(group, name, shards, slots, piece_digests(pieces))
            for place, piece, pixels in zip(places, pieces, out, strict=True):
                self._decode(spec, piece, pixels, *place)
            return
        column, found = self.column(group, spec), np.empty(len(slots), np.uint64)
        step = max(1, _TOGETHER // spec.row_bytes) if check else max(1, len(slots))
        for start in range(0, len(slots), step):
            part = slice(start, start + step)
            column.take(shards[part], slots[part], out[part])
            if check:
                found[part] = row_digests(out[part])
        if check:
            self._compare(group, name, shards, slots, found)

    def texts(self, name: str, rows: Rows) -> list[str]:
        """Values of a text column (`key`, `meta/NAME`) for these rows, in their order."""
        return [os.fsdecode(piece) for piece in self.pieces(name, rows)]

    def pieces(self, name: str, rows: Rows) -> list[bytes]:
        """The bytes of a text column, or the image files of an encoded one, for these rows."""
        self._forget_after_fork()
        column = self._pieces(name)
        shards, slots = self.locate(rows)
        found = [b""] * len(rows)
        every = np.arange(len(rows))
        for part in self.files[self.group_of.get(name, "faces")].held(shards):
            for place in every[part].tolist():
                found[place] = bytes(column.get(int(shards[place]), int(slots[place])))
        return found

    def column(self, group: str, spec: Column) -> ShardColumn:
        """A column over all shards, mapped when first asked for."""
        if (group, spec.name) not in self._columns:
            self._columns[group, spec.name] = open_column(self.files[group], spec)
        return self._columns[group, spec.name]

    def _pieces(self, name: str) -> BytesColumn:
        if name not in self._bytes:
            group = self.group_of.get(name, "faces")
            self._bytes[name] = BytesColumn(self.files[group], name)
        return self._bytes[name]

    def _compare(
        self, group: str, name: str, shards: Rows, slots: Rows, found: NDArray[np.uint64]
    ) -> None:
        """Compare the digests of rows with those stored.

        Raises:
            CacheError: naming the first row that differs and its shard file.
        """
        specs = self.every[group]
        stored = np.empty((len(found), *specs[-1].shape), np.uint64)
        self.column(group, specs[-1]).take(shards, slots, stored)
        wanted = stored[:, digested(specs).index((name,))]
        if np.array_equal(found, wanted):
            return
        for shard in np.unique(shards[found != wanted]).tolist():
            here = shards == shard
            path = self.files[group].path(shard)
            require_equal(path, name, slots[here], found[here], wanted[here])

    def _decode(
        self, spec: Column, piece: memoryview, out: NDArray[np.uint8], shard: int, slot: int
    ) -> None:
        """Write the pixels of an encoded row to `out`; black for a row without a picture."""
        if not len(piece):
            out[:] = 0
            return
        try:
            # cv2.imdecode gives the same pixels, but in new memory each time.
            shape = decode_jpeg(piece, "RGB", buffer=out).shape
        except ValueError:
            shape = None
        if shape != spec.shape:
            path = self.files[self.group_of[spec.name]].path(shard)
            raise CacheError(
                f"{path}: {spec.name} of row {slot} does not decode; run `cache verify`"
            )

    def _forget_after_fork(self) -> None:
        """What is open is never carried over into another process."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._columns, self._bytes = {}, {}


def require_equal(
    path: Path, name: str, slots: Rows, found: NDArray[np.uint64], stored: NDArray[np.uint64]
) -> None:
    """Raise a CacheError that names the first row whose digest differs."""
    wrong = np.flatnonzero(found != stored)
    if wrong.size:
        raise CacheError(
            f"{path}: {name} of row {int(slots[wrong[0]])} differs from its digest; "
            "remove the file and run the same prep command"
        )
