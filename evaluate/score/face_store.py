"""Computed faces on disk: embeddings, feature maps and visibility, each row once.

A store belongs to one cache and one set of weights. Rows come in blocks, one HDF5 file each,
written whole under a name that follows from its rows; a killed run leaves finished blocks, and
the next run computes what is missing. Groups are separate files, so maps can follow later.

* `plain`: plain_embedding (N, E) float32 of length 1 and plain_norm (N,) float32, of the image
  alone.
* `embedding`: embedding and norm, likewise, of the sum of the raw embeddings of the image and its
  mirror image.
* `map`: feature_map (N, C, h, w) float16.
* `visibility`: visibility (N, h, w) float16 from the occlusion head, 1 = visible.
"""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import EvaluationError
from faceguide.core.files import (
    append_digest,
    digest,
    digest_intact,
    json_bytes,
    publish,
    read_json,
    replacing,
)
from faceguide.core.formats.hdf5 import (
    attribute,
    contiguous_dataset,
)
from faceguide.core.formats.hdf5_writing import new_hdf5

GROUPS = {
    "plain": ("plain_embedding", "plain_norm"),
    "embedding": ("embedding", "norm"),
    "map": ("feature_map",),
    "visibility": ("visibility",),
}
_KEY = "key.json"


@dataclass
class _Block:
    """One file; its arrays are mapped when first needed."""

    path: Path
    rows: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


class FaceStore:
    """Rows of one cache, seen by one network.

    Attributes:
        directory: where the blocks lie.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._blocks: dict[str, list[_Block]] = {group: [] for group in GROUPS}
        # Per group: rows in increasing order, and the block and slot of each.
        self._index: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        for group in GROUPS:
            for path in sorted(directory.glob(f"{group}-*.h5")):
                self._blocks[group].append(_Block(path, _rows_of(path)))

    @classmethod
    def open(cls, run: Path, key: dict[str, Any]) -> FaceStore:
        """The store of a run directory for this key; made when missing.

        Args:
            run: the run directory.
            key: what the rows depend on: cache, weights, network.
        """
        directory = run / f"embeddings-{digest(key)[:16]}"
        directory.mkdir(parents=True, exist_ok=True)
        if not publish(directory / _KEY, json_bytes(key)) and read_json(directory / _KEY) != key:
            raise EvaluationError(f"{directory}: belongs to another cache or network; remove it")
        return cls(directory)

    def missing(self, group: str, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `rows` that the group lacks, each once, in increasing order."""
        return np.setdiff1d(rows, self.rows(group))

    def add(self, group: str, rows: NDArray[np.int64], arrays: dict[str, NDArray[Any]]) -> None:
        """Write a block.

        Args:
            group: a name in `GROUPS`.
            rows: (N,) rows of the cache.
            arrays: one per column of the group, (N, …).

        Raises:
            CacheError: when the disk is full or fails; earlier blocks stay.
        """
        name = hashlib.sha256(np.asarray(rows, "<i8").tobytes()).hexdigest()[:16]
        path = self.directory / f"{group}-{name}.h5"
        columns = {"row": np.asarray(rows, np.int64), **arrays}
        with replacing(path) as temporary:
            with new_hdf5(temporary) as file:
                file.attrs["digest"] = "behind"
                for column, values in columns.items():
                    # Contiguous, so that it can be mapped.
                    file.create_dataset(column, data=values).attrs["crc32"] = _crc(values)
            append_digest(temporary)
        self._blocks[group] = [
            *(block for block in self._blocks[group] if block.path != path),
            _Block(path, columns["row"]),
        ]
        self._index.pop(group, None)  # made anew when somebody asks, not after every block

    def read(self, column: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """A new array of a column for these rows, in their order.

        Raises:
            EvaluationError: when a row is not there, or a block was changed since.
        """
        group = next(name for name, columns in GROUPS.items() if column in columns)
        known, places = self._indexed(group)
        where = np.searchsorted(known, rows)
        found = where < len(known)
        found[found] = known[where[found]] == rows[found]
        if not found.all():
            raise EvaluationError(
                f"{self.directory}: row {int(rows[~found][0])} has no {group}; embed it first"
            )
        if not len(rows):
            blocks = self._blocks[group]
            shape = self._array(blocks[0], column).shape[1:] if blocks else ()
            return np.empty((0, *shape), np.float32)
        blocks, slots = places[where, 0], places[where, 1]
        out: NDArray[Any] | None = None
        for number in np.unique(blocks):
            here = np.flatnonzero(blocks == number)
            values = self._array(self._blocks[group][number], column)
            if out is None:
                out = np.empty((len(rows), *values.shape[1:]), values.dtype)
            out[here] = values[slots[here]]
        assert out is not None
        return out

    def rows(self, group: str) -> NDArray[np.int64]:
        """All rows of a group, in increasing order."""
        return self._indexed(group)[0]

    def _indexed(self, group: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if group not in self._index:
            self._index[group] = self._reindexed(group)
        return self._index[group]

    def _reindexed(self, group: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        blocks = self._blocks[group]
        rows = np.concatenate([np.empty(0, np.int64), *(block.rows for block in blocks)])
        places = np.empty((len(rows), 2), np.int64)
        places[:, 0] = np.repeat(np.arange(len(blocks)), [len(block.rows) for block in blocks])
        places[:, 1] = np.concatenate(
            [np.empty(0, np.int64), *(np.arange(len(block.rows)) for block in blocks)]
        )
        # Two runs at once may have written a row twice; the values are the same.
        known, first = np.unique(rows, return_index=True)
        return known, places[first]

    def _array(self, block: _Block, column: str) -> NDArray[Any]:
        if not block.arrays:
            _require_intact(block.path)
        if column not in block.arrays:
            with _opened(block.path) as file:
                dataset = contiguous_dataset(file, column)
                block.arrays[column] = np.memmap(
                    block.path, dataset.dtype, "r", dataset.id.get_offset(), dataset.shape
                )
        return block.arrays[column]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """The file, open; whatever HDF5 finds wrong with it in the block is an EvaluationError."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as error:
        raise EvaluationError(
            f"{path}: not a readable block of faces ({error}); remove it and run the same command "
            "again"
        ) from None


def _require_intact(path: Path) -> None:
    """The file is as it was written, or an EvaluationError; one without a digest is checked by
    the checksums of its columns."""
    intact = digest_intact(path)
    if intact is None:
        with _opened(path) as file:
            intact = "digest" not in file.attrs and all(
                _crc(dataset[:]) == attribute(dataset, "crc32")
                for dataset in (contiguous_dataset(file, name) for name in file)
            )
    if not intact:
        raise EvaluationError(
            f"{path}: changed since it was written; remove the file and run the same command again"
        )


def _rows_of(path: Path) -> NDArray[np.int64]:
    with _opened(path) as file:
        dataset = contiguous_dataset(file, "row")
        rows = np.asarray(dataset[:], np.int64)
        intact = rows.ndim == 1 and _crc(rows) == attribute(dataset, "crc32")
    if not intact:
        raise EvaluationError(
            f"{path}: row differs from its checksum; remove the file and run the same command again"
        )
    return rows


def _crc(values: NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(values).view(np.uint8).reshape(-1).data)
