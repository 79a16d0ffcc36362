"""FaceCache: open a sealed cache, choose rows, read columns."""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.manifest import load_manifest, require_plan
from faceguide.cache.mapping import EncodedRows, ShardColumn, open_column
from faceguide.cache.plan import Plan, read_identities
from faceguide.cache.schema import GROUPS, ORIGIN_CODE, STATUS_CODE, Column, columns
from faceguide.cache.shard import row_checksums, shard_path
from faceguide.cache.shard_files import ShardFiles
from faceguide.core.errors import CacheError
from faceguide.core.formats.hdf5 import open_dataset

_OPEN_FILES = 64  # HDF5 files kept open for keys, texts and encoded images
_CHUNK = 1 << 16


class FaceCache:
    """A sealed cache, read-only; cheap to open, files are opened when first needed.

    May be pickled and used after a fork: what is open is never carried over.

    Attributes:
        directory: where it lives.
        plan: its plan.
        groups: manifest of each group that is sealed.
        columns: names of the columns that `read` and `Stream` deliver.
    """

    def __init__(self, directory: Path, plan: Plan, groups: dict[str, dict[str, Any]]) -> None:
        self.directory = directory
        self.plan = plan
        self.groups = groups
        self.specs: dict[str, Column] = {}
        self._group_of: dict[str, str] = {}
        for group, manifest in groups.items():
            for spec in columns(group, manifest["recipe"]):
                name = spec.name
                if name in ("crc", "status") and group != "faces":
                    continue
                self.specs[name], self._group_of[name] = spec, group
        self.encoded = plan.recipe.get("store") == "jpeg"
        if self.encoded:
            size = plan.recipe["size"]
            self.specs["image"] = Column("image", np.dtype("|u1"), (size, size, 3))
            self._group_of["image"] = "faces"
        self.columns = tuple(self.specs)
        self._shards = {
            group: ShardFiles(directory, group, manifest) for group, manifest in groups.items()
        }
        self._process = os.getpid()
        self._columns: dict[tuple[str, str], ShardColumn] = {}
        self._files: OrderedDict[tuple[str, int], h5py.File] = OrderedDict()
        self._blobs: EncodedRows | None = None
        self._lock = threading.Lock()  # around the HDF5 files: another thread may close one

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> FaceCache:
        """Open a cache.

        Raises:
            CacheError: when there is none, it is not sealed, or its files contradict each other;
                the text says what to do.
        """
        path = Path(directory)
        plan = require_plan(path)
        groups = {}
        for group in GROUPS:
            manifest = load_manifest(path, group, plan)
            if manifest is not None:
                groups[group] = manifest
        if "faces" not in groups:
            raise CacheError(
                f"{path}: not finished; run the same prep command again, or `cache seal {path}`"
            )
        return cls(path, plan, groups)

    def __reduce__(self) -> tuple[Any, ...]:
        return (FaceCache.open, (str(self.directory),))

    def __len__(self) -> int:
        return self.plan.rows

    def __repr__(self) -> str:
        return f"FaceCache({str(self.directory)!r}, rows={len(self)}, columns={self.columns})"

    @functools.cached_property
    def identities(self) -> list[str]:
        """Names of the identities; a label is a position in this list."""
        return read_identities(self.directory)

    @overload
    def __getitem__(self, rows: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, rows: slice | Sequence[int] | NDArray[Any]) -> list[dict[str, Any]]: ...
    def __getitem__(
        self, rows: int | slice | Sequence[int] | NDArray[Any]
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Samples: every column as a numpy value, `row`, and `key` and the meta texts as str.

        Args:
            rows: a row number, negative from the end, for one sample; a slice, row numbers, or a
                mask of N bools for a list of them.

        Raises:
            IndexError: for a row outside the cache.
        """
        if isinstance(rows, slice):
            rows = np.array(range(len(self))[rows], np.int64)
        index = np.asarray(rows)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise IndexError(f"a mask of {index.shape}, the cache has {len(self)} rows")
            index = np.flatnonzero(index)
        elif index.size and index.dtype.kind not in "iu":
            raise IndexError(f"rows are whole numbers, found {rows!r}")
        index = index.astype(np.int64)
        places = np.atleast_1d(np.where(index < 0, index + len(self), index))
        values: dict[str, Any] = self.read(places, self.columns)
        values["row"] = places
        values["key"] = self.texts("key", places)
        for name in self.plan.meta:
            values[name] = self.texts(f"meta/{name}", places)
        samples = [{name: column[i] for name, column in values.items()} for i in range(len(places))]
        return samples if index.ndim else samples[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def read(
        self, rows: Sequence[int] | NDArray[np.integer], names: Iterable[str]
    ) -> dict[str, NDArray[Any]]:
        """New arrays of the named columns for these rows, in their order.

        Raises:
            CacheError: for a column that the cache does not have.
            IndexError: for a row outside it.
        """
        index = self.check_rows(rows)
        out = {}
        for name in names:
            spec = self.require(name)
            out[name] = np.empty((len(index), *spec.shape), spec.dtype)
            self.take(name, index, out[name])
        return out

    def take(self, name: str, rows: NDArray[np.int64], out: NDArray[Any]) -> None:
        """Copy rows of a column into `out`; rows must have passed `check_rows`."""
        shards, slots = np.divmod(rows, self.plan.shard_rows)
        if name == "image" and self.encoded:
            for position, row in enumerate(rows.tolist()):
                out[position] = self._decode(row)
        else:
            self._column(self._group_of[name], name).take(shards, slots, out)

    def check_rows(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
        """The rows as int64, once all lie inside the cache.

        Raises:
            IndexError: when one does not.
        """
        index = np.asarray(rows, np.int64)
        if index.size and (int(index.min()) < 0 or int(index.max()) >= len(self)):
            raise IndexError(
                f"rows {int(index.min())} … {int(index.max())}, the cache has 0 … {len(self) - 1}"
            )
        return index

    def require(self, name: str) -> Column:
        """The column of this name.

        Raises:
            CacheError: when the cache has none; says which command makes it.
        """
        if name not in self.specs:
            makes = {"visibility": "prep masks", "known": "prep masks"}.get(name, "prep guidance")
            hint = (
                f"; `{makes}` makes it"
                if name in ("heatmap", "regions", "visibility", "known")
                else ""
            )
            raise CacheError(
                f"{self.directory}: no column {name!r}{hint}; there are {', '.join(self.columns)}"
            )
        return self.specs[name]

    def select(
        self,
        *,
        status: str | None = "ok",
        known_occlusion: bool | None = None,
        origin: str | Sequence[str] | None = None,
        labelled: bool | None = None,
        meta: Mapping[str, str] | None = None,
    ) -> NDArray[np.int64]:
        """Row numbers, in increasing order, that pass every filter given.

        Args:
            status: "ok", another status, or None for all.
            known_occlusion: whether the visibility must be known (True) or unknown (False).
            origin: where the landmarks come from: one name or several.
            labelled: whether the identity must be known.
            meta: required values of meta columns, e.g. ``{"split": "train"}``.

        Raises:
            CacheError: for an unknown name or a column that the cache does not have.
        """
        wanted = _codes("status", [status] if status else [], STATUS_CODE)
        origins = [origin] if isinstance(origin, str) else list(origin or [])
        sources = _codes("origin", origins, ORIGIN_CODE)
        for name in meta or {}:
            if name not in self.plan.meta:
                raise CacheError(
                    f"{self.directory}: no meta column {name!r}; "
                    f"there are {', '.join(self.plan.meta) or 'none'}"
                )
        if known_occlusion is not None:
            self.require("known")
        chosen = []
        for start in range(0, len(self), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(self)))
            keep = np.ones(len(rows), bool)
            if wanted:
                keep &= np.isin(self.read(rows, ["status"])["status"], wanted)
            if sources:
                keep &= np.isin(self.read(rows, ["origin"])["origin"], sources)
            if known_occlusion is not None:
                keep &= self.read(rows, ["known"])["known"] == known_occlusion
            if labelled is not None:
                keep &= (self.read(rows, ["label"])["label"] >= 0) == labelled
            for name, value in (meta or {}).items():
                texts = self.texts(f"meta/{name}", rows)
                keep &= np.fromiter((text == value for text in texts), bool, len(rows))
            chosen.append(rows[keep])
        return np.concatenate(chosen) if chosen else np.empty(0, np.int64)

    def texts(self, name: str, rows: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """Values of a text column (``key``, ``meta/NAME``) for these rows, in their order."""
        self._forget_after_fork()
        index = self.check_rows(rows)
        shards, slots = np.divmod(index, self.plan.shard_rows)
        out = [""] * len(index)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            with self._lock:
                values = self._texts_of(name, int(shard))
            for position, slot in zip(here.tolist(), slots[here].tolist(), strict=True):
                out[position] = os.fsdecode(values[slot])
        return out

    def _texts_of(self, name: str, shard: int) -> NDArray[Any]:
        path = shard_path(self.directory, "faces", shard)
        try:
            file = self._file("faces", shard)
            values = open_dataset(file, name, (self.plan.rows_of(shard),), None)[:]
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise _unreadable(path, error) from None
        return np.asarray(values)

    def find(self, keys: Iterable[str]) -> dict[str, int]:
        """Row numbers of the keys that the cache has; reads all keys once, holds only yours."""
        wanted = set(keys)
        found = {}
        for start in range(0, len(self), self.plan.shard_rows):
            rows = range(start, min(start + self.plan.shard_rows, len(self)))
            for row, key in zip(rows, self.texts("key", rows), strict=True):
                if key in wanted:
                    found[key] = row
        return found

    def verify_rows(self, rows: NDArray[np.int64], groups: Iterable[str]) -> None:
        """Compare the rows of these groups with their checksums.

        Raises:
            CacheError: naming the first row that differs and its shard file.
        """
        for group in groups:
            shards, slots = np.divmod(rows, self.plan.shard_rows)
            parts: list[Any] = []
            if group == "faces" and self.encoded:
                parts.append([bytes(self._jpeg(row)) for row in rows.tolist()])
            stored = np.empty(len(rows), np.uint32)
            for spec in columns(group, self.groups[group]["recipe"]):
                values = np.empty((len(rows), *spec.shape), spec.dtype)
                self._column(group, spec.name).take(shards, slots, values)
                if spec.name == "crc":
                    stored = values
                else:
                    parts.append(values)
            wrong = np.flatnonzero(row_checksums(parts) != stored)
            if wrong.size:
                shard = int(shards[wrong[0]])
                raise CacheError(
                    f"{shard_path(self.directory, group, shard)}: row {int(slots[wrong[0]])} "
                    "differs from its checksum; remove the file and run the same prep command"
                )

    def group_of(self, name: str) -> str:
        """The group that a column belongs to."""
        return self._group_of[name]

    def _column(self, group: str, name: str) -> ShardColumn:
        self._forget_after_fork()
        if (group, name) not in self._columns:
            manifest = self.groups[group]
            spec = {spec.name: spec for spec in columns(group, manifest["recipe"])}[name]
            self._columns[group, name] = open_column(
                self._shards[group], spec, self.plan.shard_rows
            )
        return self._columns[group, name]

    def _file(self, group: str, shard: int) -> h5py.File:
        """An open HDF5 file of a shard; the least recently used ones are closed."""
        where = (group, shard)
        if where not in self._files:
            path = shard_path(self.directory, group, shard)
            self._shards[group].check(shard)
            try:
                self._files[where] = h5py.File(path, "r")
            except OSError as error:
                raise _unreadable(path, error) from None
            while len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(where)
        return self._files[where]

    def _jpeg(self, row: int) -> NDArray[np.uint8]:
        """The encoded image of a row, mapped; empty for a row without a picture."""
        self._forget_after_fork()
        if self._blobs is None:
            self._blobs = EncodedRows(self._shards["faces"])
        return self._blobs.get(*divmod(row, self.plan.shard_rows))

    def _decode(self, row: int) -> NDArray[np.uint8]:
        data = self._jpeg(row)
        if not len(data):
            return np.zeros(self.specs["image"].shape, np.uint8)
        image: NDArray[Any] | None = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
        if image is None or image.shape != self.specs["image"].shape:
            path = shard_path(self.directory, "faces", row // self.plan.shard_rows)
            raise CacheError(f"{path}: the image of row {row} does not decode; run `cache verify`")
        return image.astype(np.uint8, copy=False)

    def _forget_after_fork(self) -> None:
        if self._process != os.getpid():
            self._process = os.getpid()
            self._columns, self._files, self._blobs = {}, OrderedDict(), None
            self._lock = threading.Lock()


def _unreadable(path: Path, error: Exception) -> CacheError:
    return CacheError(
        f"{path}: not readable as HDF5 ({error}); "
        "remove the file and run the same prep command again"
    )


def _codes(what: str, names: Sequence[str], codes: Mapping[str, int]) -> list[int]:
    for name in names:
        if name not in codes:
            raise CacheError(f"{what} {name!r} is unknown; choose from {', '.join(codes)}")
    return [codes[name] for name in names]
