"""One sealed cache directory: its columns, read by row number."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.manifest import finished_shard, load_manifest, require_plan
from faceguide.cache.mapping import BytesColumn, ShardColumn, SplitColumn, open_column
from faceguide.cache.plan import Plan
from faceguide.cache.schema import GROUPS, Column, columns, digested, piece_digests, row_digests
from faceguide.cache.shard import is_done, shard_path
from faceguide.cache.shard_files import ShardFiles
from faceguide.core.errors import CacheError

_TOGETHER = 1 << 18  # bytes that are copied and compared at a time


class Volume:
    """A directory that `prep` filled and sealed; files are opened when first needed.

    Attributes:
        groups: manifest of each group that is sealed.
        specs: the columns that can be delivered, by name.
    """

    def __init__(self, directory: Path) -> None:
        """Open a directory.

        Raises:
            CacheError: when it is no cache, it is not sealed, or its files contradict each other.
        """
        self.directory = directory
        self.plan = require_plan(directory)
        self.groups: dict[str, dict[str, Any]] = {}
        self.specs: dict[str, Column] = {}
        self.group_of: dict[str, str] = {}
        for group in GROUPS:
            manifest = load_manifest(directory, group, self.plan)
            if manifest is None:
                continue
            self.groups[group] = manifest
            for spec in columns(group, manifest["recipe"]):
                if group == "faces" or spec.name not in ("digest", "status"):
                    self.specs[spec.name], self.group_of[spec.name] = spec, group
        if "faces" not in self.groups:
            raise CacheError(
                f"{directory}: not finished; rerun the same prep command, "
                f"or `cache seal {directory}`"
            )
        self._shards = {
            group: ShardFiles(directory, group, manifest) for group, manifest in self.groups.items()
        }
        self._process = os.getpid()
        self._columns: dict[tuple[str, str], ShardColumn] = {}
        self._bytes: dict[str, BytesColumn] = {}

    def __len__(self) -> int:
        return self.plan.rows

    def take(
        self, name: str, rows: NDArray[np.int64], out: NDArray[Any], check: bool = True
    ) -> None:
        """Copy rows of a column into `out`, (N, …), contiguous.

        Args:
            rows: (N,) inside the volume.
            check: compare large columns with their digests; small ones were compared when their
                shard was opened.

        Raises:
            CacheError: when a row is not what was written, as far as it was compared.
        """
        self._forget_after_fork()
        spec, group = self.specs[name], self.group_of[name]
        shards, slots = np.divmod(rows, self.plan.shard_rows)
        check = check and spec.large and name != "digest"
        if spec.encoded:
            encoded = self._pieces(name)
            pieces = [
                encoded.get(shard, slot)
                for shard, slot in zip(shards.tolist(), slots.tolist(), strict=True)
            ]
            if check:
                self._compare(group, name, shards, slots, piece_digests(pieces))
            for position, piece in enumerate(pieces):
                out[position] = self._decode(spec, piece, int(rows[position]))
            return
        column, found = self.column(group, spec), np.empty(len(rows), np.uint64)
        # Compared while the processor's cache still holds what was copied.
        step = max(1, _TOGETHER // spec.row_bytes) if check else max(1, len(rows))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            column.take(shards[part], slots[part], out[part])
            if check:
                found[part] = row_digests(out[part])
        if check:
            self._compare(group, name, shards, slots, found)

    def texts(self, name: str, rows: NDArray[np.int64]) -> list[str]:
        """Values of a text column (`key`, `meta/NAME`) for these rows, in their order."""
        self._forget_after_fork()
        column = self._pieces(name)
        shards, slots = np.divmod(rows, self.plan.shard_rows)
        return [
            os.fsdecode(bytes(column.get(shard, slot)))
            for shard, slot in zip(shards.tolist(), slots.tolist(), strict=True)
        ]

    def column(self, group: str, spec: Column) -> ShardColumn:
        """A column over all shards, mapped when first asked for."""
        if (group, spec.name) not in self._columns:
            self._columns[group, spec.name] = open_column(
                self._shards[group], spec, self.plan.shard_rows
            )
        return self._columns[group, spec.name]

    def _pieces(self, name: str) -> BytesColumn:
        if name not in self._bytes:
            group = self.group_of.get(name, "faces")
            self._bytes[name] = BytesColumn(self._shards[group], name)
        return self._bytes[name]

    def _compare(
        self,
        group: str,
        name: str,
        shards: NDArray[np.int64],
        slots: NDArray[np.int64],
        found: NDArray[np.uint64],
    ) -> None:
        """Compare the digests of rows with those stored.

        Raises:
            CacheError: naming the first row that differs and its shard file.
        """
        specs = columns(group, self.groups[group]["recipe"])
        stored = np.empty((len(found), *specs[-1].shape), np.uint64)
        self.column(group, specs[-1]).take(shards, slots, stored)
        wanted = stored[:, digested(specs).index((name,))]
        for shard in np.unique(shards[found != wanted]).tolist():
            here = shards == shard
            path = self._shards[group].path(shard)
            _require_equal(path, name, slots[here], found[here], wanted[here])

    def _decode(self, spec: Column, piece: Sequence[int], row: int) -> NDArray[np.uint8]:
        """The pixels of an encoded row; black for a row without a picture."""
        if not len(piece):
            return np.zeros(spec.shape, np.uint8)
        data = np.frombuffer(piece, np.uint8)  # type: ignore[call-overload]
        image: NDArray[Any] | None = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        if image is None or image.shape != spec.shape:
            path = self._shards[self.group_of[spec.name]].path(row // self.plan.shard_rows)
            raise CacheError(
                f"{path}: {spec.name} of row {row} does not decode; run `cache verify`"
            )
        return image.astype(np.uint8, copy=False)

    def _forget_after_fork(self) -> None:
        """What is open is never carried over into another process."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._columns, self._bytes = {}, {}


def read_faces(directory: Path, plan: Plan, shard: int, *names: str) -> list[NDArray[Any]]:
    """Columns of a finished shard of faces, sealed or not; checked as `Volume.take` checks.

    Raises:
        CacheError: when the shard is not there yet, or is not what was written.
    """
    if not is_done(directory, "faces", shard, plan.recipe):
        path = shard_path(directory, "faces", shard)
        raise CacheError(f"{path}: not there yet; run `prep landmarks` to its end first")
    specs = {spec.name: spec for spec in columns("faces", plan.recipe)}
    entry = finished_shard(directory, plan, "faces", plan.recipe, shard)
    files = ShardFiles(directory, "faces", {"recipe": plan.recipe, "shards": {shard: entry}})
    slots = np.arange(plan.rows_of(shard))

    def read(name: str) -> NDArray[Any]:
        out = np.empty((len(slots), *specs[name].shape), specs[name].dtype)
        SplitColumn(files, specs[name]).take(np.full(len(slots), shard), slots, out)
        return out

    found = {name: read(name) for name in names}
    for name in names:
        if specs[name].large:
            stored = read("digest")[:, digested(specs.values()).index((name,))]
            _require_equal(files.path(shard), name, slots, row_digests(found[name]), stored)
    return list(found.values())


def _require_equal(
    path: Path,
    name: str,
    slots: NDArray[np.int64],
    found: NDArray[np.uint64],
    stored: NDArray[np.uint64],
) -> None:
    """Raise a CacheError that names the first row whose digest differs."""
    wrong = np.flatnonzero(found != stored)
    if wrong.size:
        raise CacheError(
            f"{path}: {name} of row {int(slots[wrong[0]])} differs from its digest; "
            "remove the file and run the same prep command"
        )
