"""FaceCache: open one sealed cache or the union of several, choose rows, read columns."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.plan import read_identities
from faceguide.cache.schema import GROUPS, ORIGIN_CODE, STATUS_CODE, Column
from faceguide.cache.volume import Volume
from faceguide.core.errors import CacheError
from faceguide.core.files import digest

_CHUNK = 1 << 16
# Of a recipe, what says where rows come from and not how they were made.
_ORIGIN = (
    "source", "flat", "columns", "faces", "masks", "table", "polarity", "classes", "clean",
)  # fmt: skip
_MADE_BY = {
    **dict.fromkeys(("heatmap", "regions"), "prep guidance"),
    **dict.fromkeys(("visibility", "known"), "prep masks"),
}

Path_ = str | os.PathLike[str]


class FaceCache:
    """Sealed caches, read-only; cheap to open, files are opened when first needed.

    Several directories are a union: its rows are those of the first, then those of the second, and
    so on, and one name is one identity. May be pickled and used after a fork.

    Attributes:
        volumes: the directories, opened.
        directory: the first of them.
        recipe: what the faces were made with.
        meta: names of the meta columns that all volumes have.
        specs: the columns that `read` and `Stream` deliver, those that all volumes have.
        columns: their names.
    """

    def __init__(self, volumes: Sequence[Volume]) -> None:
        self.volumes = tuple(volumes)
        first = self.volumes[0]
        for other in self.volumes[1:]:
            _require_agreement(first, other)
        self.directory = first.directory
        self.recipe: dict[str, Any] = first.plan.recipe
        self.meta = tuple(
            name for name in first.plan.meta if all(name in v.plan.meta for v in self.volumes)
        )
        self.specs: dict[str, Column] = {
            name: spec
            for name, spec in first.specs.items()
            if all(name in volume.specs for volume in self.volumes)
        }
        self.columns = tuple(self.specs)
        self._starts = np.cumsum([0, *map(len, self.volumes)])

    @classmethod
    def open(cls, directory: Path_ | Sequence[Path_]) -> FaceCache:
        """Open a cache, or the union of several.

        Raises:
            CacheError: when one is missing, not sealed or contradicts itself, or when their
                recipes differ; the text says what to do.
        """
        paths = [directory] if isinstance(directory, (str, os.PathLike)) else list(directory)
        if not paths:
            raise CacheError("no cache given; name at least one directory")
        return cls([Volume(Path(path)) for path in paths])

    def __reduce__(self) -> tuple[Any, ...]:
        return (FaceCache.open, ([str(volume.directory) for volume in self.volumes],))

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __repr__(self) -> str:
        named = ", ".join(repr(str(volume.directory)) for volume in self.volumes)
        return f"FaceCache({named}, rows={len(self)}, columns={self.columns})"

    @property
    def groups(self) -> dict[str, dict[str, Any]]:
        """What each group is made of: its manifest, or the digests of the volumes' manifests."""
        if len(self.volumes) == 1:
            return self.volumes[0].groups
        return {
            group: {"volumes": [digest(volume.groups[group]) for volume in self.volumes]}
            for group in GROUPS
            if all(group in volume.groups for volume in self.volumes)
        }

    @functools.cached_property
    def identities(self) -> list[str]:
        """Names of the identities, by first appearance; a label is a position in this list."""
        names: dict[str, None] = {}
        for volume in self.volumes:
            names.update(dict.fromkeys(read_identities(volume.directory)))
        return list(names) if len(self.volumes) > 1 else read_identities(self.directory)

    @functools.cached_property
    def _labels(self) -> list[NDArray[np.int64]]:
        """Per volume, the union's label of each of its own; the last entry is that of −1."""
        places = {name: label for label, name in enumerate(self.identities)}
        return [
            np.array([*(places[name] for name in read_identities(volume.directory)), -1], np.int64)
            for volume in self.volumes
        ]

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
        out = {}
        for name in names:
            spec = self.require(name)
            out[name] = np.empty((len(index), *spec.shape), spec.dtype)
            self.take(name, index, out[name], check)
        return out

    def take(
        self, name: str, rows: NDArray[np.int64], out: NDArray[Any], check: bool = True
    ) -> None:
        """Copy rows of a column into `out`; rows must have passed `check_rows`.

        Raises:
            CacheError: when a row is not what was written; see `Volume.take`.
        """
        if len(self.volumes) == 1:
            self.volumes[0].take(name, rows, out, check)
            return
        for number, here, inside in self._shares(rows):
            values = np.empty((len(here), *out.shape[1:]), out.dtype)
            self.volumes[number].take(name, inside, values, check)
            out[here] = self._labels[number][values] if name == "label" else values

    def _shares(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
        """Number of a volume, places in `rows` that lie in it, their rows there."""
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(owners).tolist():
            here = np.flatnonzero(owners == number)
            yield number, here, rows[here] - self._starts[number]

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

    def texts(self, name: str, rows: Sequence[int] | NDArray[np.integer]) -> list[str]:
        """Values of a text column (``key``, ``meta/NAME``) for these rows, in their order.

        Raises:
            CacheError: when the cache has no such column, or its texts were changed.
        """
        if name != "key" and name.removeprefix("meta/") not in self.meta:
            raise CacheError(f"{self.directory}: no texts {name!r}")
        index = self.check_rows(rows)
        if len(self.volumes) == 1:
            return self.volumes[0].texts(name, index)
        out = [""] * len(index)
        for number, here, inside in self._shares(index):
            values = self.volumes[number].texts(name, inside)
            for position, value in zip(here.tolist(), values, strict=True):
                out[position] = value
        return out

    def find(self, keys: Iterable[str]) -> dict[str, int]:
        """Row numbers of the keys that the cache has; reads all keys once, holds only yours.

        Of a key that several volumes have, the last one's.
        """
        wanted = set(keys)
        found = {}
        for start in range(0, len(self), _CHUNK):
            rows = range(start, min(start + _CHUNK, len(self)))
            for row, key in zip(rows, self.texts("key", rows), strict=True):
                if key in wanted:
                    found[key] = row
        return found


def _require_agreement(first: Volume, other: Volume) -> None:
    """Raise a CacheError that names where the recipes of two volumes differ."""
    for group in GROUPS:
        if group not in first.groups or group not in other.groups:
            continue
        ours, theirs = first.groups[group]["recipe"], other.groups[group]["recipe"]
        different = sorted(
            name for name in {*ours, *theirs} - {*_ORIGIN} if ours.get(name) != theirs.get(name)
        )
        if different:
            listed = ", ".join(
                f"{name} {ours.get(name)} and {theirs.get(name)}" for name in different
            )
            raise CacheError(
                f"{first.directory} and {other.directory}: their {group} were made with other "
                f"settings ({listed}); rebuild one of them"
            )


def _codes(what: str, names: Sequence[str], codes: Mapping[str, int]) -> list[int]:
    for name in names:
        if name not in codes:
            raise CacheError(f"{what} {name!r} is unknown; choose from {', '.join(codes)}")
    return [codes[name] for name in names]
