"""FaceCache: open one sealed cache or the union of several, choose rows, read columns."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.plan import read_identities
from faceguide.cache.remote.lookahead import look_ahead
from faceguide.cache.remote.mirror import mirrors
from faceguide.cache.remote.store import is_address
from faceguide.cache.schema import GROUPS, ORIGIN_CODE, STATUS_CODE, Column
from faceguide.cache.volume import Volume
from faceguide.cache.volumes.joined import JoinedVolumes
from faceguide.cache.volumes.shard_rows import Rows, ShardRows
from faceguide.cache.volumes.volume_list import Path_, VolumeList, listed_volumes
from faceguide.core.errors import CacheError
from faceguide.core.files import digest

_CHUNK = 1 << 16
_MADE_BY = {
    **dict.fromkeys(("heatmap", "regions"), "prep guidance"),
    **dict.fromkeys(("visibility", "known"), "prep masks"),
    "estimated": "prep masks --estimate",
}


class FaceCache:
    """Sealed caches, read-only; cheap to open, files are opened when first needed.

    Several directories are a union: its rows are those of the first, then those of the second, and
    so on, and one name is one identity. May be pickled and used after a fork.

    Attributes:
        volumes: the directories, opened.
        names: of the volumes, for `volume:key`.
        directory: where the cache is; of several, their directories joined by commas, or the file
            that lists them. It opens them again.
        recipe: what the faces were made with.
        meta: names of the meta columns that all volumes have.
        specs: the columns that `read` and `Stream` deliver, those that all volumes have.
        columns: their names.
        starts: first row of each volume, and the number of rows.
    """

    def __init__(self, listed: VolumeList) -> None:
        self._listed = listed
        self.directory, self.names = listed.place, listed.names
        self.volumes = tuple(Volume(path) for path in listed.directories)
        self._joined: JoinedVolumes | None = None
        if len(self.volumes) > 1:
            prefixes = [f"{name}:" for name in self.names] if listed.prefixed else None
            self._joined = JoinedVolumes(self.volumes, prefixes)
        self._rows: ShardRows = self._joined or self.volumes[0]
        plans = [volume.plan for volume in self.volumes]
        self.recipe: dict[str, Any] = plans[0].recipe
        self.meta = tuple(n for n in plans[0].meta if all(n in plan.meta for plan in plans))
        self.specs: dict[str, Column] = self._rows.specs
        self.columns = tuple(self.specs)
        self.starts = np.cumsum([0, *map(len, self.volumes)])

    @classmethod
    def open(
        cls,
        directory: Path_ | Sequence[Path_],
        *,
        local: Path_ | None = None,
        limit: int | None = None,
    ) -> FaceCache:
        """Open a cache, or the union of several.

        Args:
            directory: a cache, a list of caches, a volumes.json (see `cache volumes`), or a text
                of caches joined by commas. With `local`, an address such as `s3://bucket/cache`, or
                a list of addresses and paths.
            local: folder for what is fetched from addresses: a shard when a row of it is first
                read. It is opened again without the address, and processes may share it.
            limit: bytes that the shards of one address may take there; the shards whose use is
                longest ago leave.

        Raises:
            CacheError: when one is missing, not sealed or contradicts itself, when a store fails,
                or when their recipes differ; the text says what to do.
        """
        given = [directory] if isinstance(directory, (str, os.PathLike)) else list(directory)
        if local is not None or any(map(is_address, given)):
            directory = mirrors([os.fspath(one) for one in given], local, limit)
        return cls(listed_volumes(directory))

    def __reduce__(self) -> tuple[Any, ...]:
        return FaceCache, (self._listed,)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __repr__(self) -> str:
        named = ", ".join(repr(str(volume.directory)) for volume in self.volumes)
        return f"FaceCache({named}, rows={len(self)}, columns={self.columns})"

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """What each group is made of: its manifest, or the digests of the volumes' manifests."""
        if len(self.volumes) == 1:
            return self.volumes[0].groups
        prefixed = {"prefixes": list(self.names)} if self._listed.prefixed else {}
        shared = [g for g in GROUPS if all(g in volume.groups for volume in self.volumes)]
        return {
            group: {"volumes": [digest(v.groups[group]) for v in self.volumes], **prefixed}
            for group in shared
        }

    @functools.cached_property
    def identities(self) -> list[str]:
        """Names of the identities, by first appearance; a label is a position in this list."""
        if self._joined is not None:
            return self._joined.identities
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
        for name in self.meta:
            values[name] = self.texts(f"meta/{name}", places)
        samples = [{name: column[i] for name, column in values.items()} for i in range(len(places))]
        return samples if index.ndim else samples[0]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[row] for row in range(len(self)))

    def read(
        self, rows: Sequence[int] | NDArray[np.integer], names: Iterable[str], check: bool = True
    ) -> dict[str, NDArray[Any]]:
        """New arrays of the named columns for these rows, in their order.

        Args:
            rows: (N,) row numbers.
            check: compare what is read with its digests.

        Raises:
            CacheError: for a column that the cache does not have, and for a row that is not what
                was written.
            IndexError: for a row outside it.
        """
        index = self.check_rows(rows)
        specs = {name: self.require(name) for name in names}
        out = {
            name: np.empty((len(index), *spec.shape), spec.dtype) for name, spec in specs.items()
        }
        self.take(index, out, check)
        return out

    def take(
        self, rows: NDArray[np.int64], out: Mapping[str, NDArray[Any]], check: bool = True
    ) -> None:
        """Copy rows of columns into the arrays of `out`; rows must have passed `check_rows`.

        Raises:
            CacheError: when a row is not what was written; see `ShardRows.take`.
        """
        self._rows.take(rows, out, check)

    def ahead(self, batches: Iterator[Rows], columns: Sequence[str]) -> Iterator[Rows]:
        """The same lists of rows; what lies elsewhere is fetched for those that come next."""
        if not any(files.elsewhere for files in self._rows.files.values()):
            return batches
        return look_ahead(batches, lambda rows: self._rows.ahead(rows, columns))

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
            hint = f"; `{_MADE_BY[name]}` makes it" if name in _MADE_BY else ""
            lacking = next(v.directory for v in self.volumes if name not in v.specs)
            raise CacheError(
                f"{lacking}: no column {name!r}{hint}; there are {', '.join(self.columns)}"
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
            meta: required values of meta columns, e.g. ``{"split": "train"}``.

        Raises:
            CacheError: for an unknown name or a column that the cache does not have.
        """
        wanted = _codes("status", [status] if status else [], STATUS_CODE)
        origins = [origin] if isinstance(origin, str) else list(origin or [])
        sources = _codes("origin", origins, ORIGIN_CODE)
        for name in meta or {}:
            if name not in self.meta:
                raise CacheError(
                    f"{self.directory}: no meta column {name!r}; "
                    f"there are {', '.join(self.meta) or 'none'}"
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

    def estimated(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(N,) of which rows the visibility is `prep masks --estimate`'s, not that of a mask."""
        if "estimated" not in self.columns:
            return np.zeros(len(rows), bool)
        return np.asarray(self.read(rows, ["estimated"])["estimated"])

    def texts(self, name: str, rows: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """Values of a text column (``key``, ``meta/NAME``) for these rows, in their order.

        Raises:
            CacheError: when the cache has no such column, or its texts were changed.
        """
        if name != "key" and name.removeprefix("meta/") not in self.meta:
            raise CacheError(f"{self.directory}: no texts {name!r}")
        index = self.check_rows(rows)
        return self._rows.texts(name, index)

    def find(self, keys: Iterable[str]) -> dict[str, int]:
        """Row numbers of the keys that the cache has; reads all keys once, holds only yours.

        A key that several volumes have is left out: only `volume:key` names a row then.
        """
        wanted = set(keys)
        found: dict[str, int] = {}
        several = set[str]()
        for prefix, rows in self.blocks():
            for row, key in zip(rows, self.texts("key", rows), strict=True):
                for name in {key, prefix + key} & wanted:
                    several.update({name} & found.keys())
                    found[name] = row
        return {key: row for key, row in found.items() if key not in several}

    def blocks(self) -> Iterator[tuple[str, range]]:
        """All rows in blocks of one volume each, with what stands before its keys in a list.

        That is `volume:`, or "" for the only volume.
        """
        ends = self.starts.tolist()
        for name, first, end in zip(self.names, ends, ends[1:], strict=False):
            for start in range(first, end, _CHUNK):
                prefix = f"{name}:" if len(self.volumes) > 1 else ""
                yield prefix, range(start, min(start + _CHUNK, end))


def _codes(what: str, names: Sequence[str], codes: Mapping[str, int]) -> list[int]:
    for name in names:
        if name not in codes:
            raise CacheError(f"{what} {name!r} is unknown; choose from {', '.join(codes)}")
    return [codes[name] for name in names]
