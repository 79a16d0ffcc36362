"""Computed faces on disk: embeddings, feature maps and visibility, each row once.

A store belongs to one cache and one set of weights. Rows come in blocks, one safetensors file each,
written whole under a name that follows from its rows; a killed run leaves finished blocks, and
the next run computes what is missing. Groups are separate folders, so maps can follow later. Of
many blocks the rows are listed in one file, GROUP.safetensors, with the folder's time of change:
while that is the same, opening a store neither lists the folder nor opens a block.

* `plain`: plain_embedding (N, E) float32 of length 1 and plain_norm (N,) float32, of the image
  only.
* `embedding`: embedding and norm, likewise, of the sum of the raw embeddings of the image and its
  mirror image.
* `map`: feature_map (N, C, h, w) float16.
* `visibility`: visibility (N, h, w) float16 from the occlusion head, 1 = visible.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import CacheError, EvaluationError
from faceguide.core.files import digest, json_bytes, publish, read_json, write_error
from faceguide.core.formats.container import SUFFIX, read_array, read_arrays, write_arrays

GROUPS = {
    "plain": ("plain_embedding", "plain_norm"),
    "embedding": ("embedding", "norm"),
    "map": ("feature_map",),
    "visibility": ("visibility",),
}
_LISTED_FROM = 64  # blocks
_TICK = 2_000_000_000  # ns; what changes sooner may keep the folder's time of change
_KEY = "key.json"
_REMEDY = "remove the file and rerun the same command"


@dataclass
class _Block:
    """One file; its arrays are mapped when first needed."""

    path: Path
    rows: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


class FaceStore:
    """Rows of one cache, seen by one network."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._found: dict[str, list[_Block]] = {}
        # Per group: rows in increasing order, and the block and slot of each.
        self._index: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    @classmethod
    def open(cls, run: Path, key: dict[str, Any]) -> FaceStore:
        """The store of a run directory for this key; made when missing.

        Args:
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
        path = self.directory / group / f"{_name(rows)}{SUFFIX}"
        columns = {"row": np.asarray(rows, np.int64), **arrays}
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise write_error(path.parent, error) from error
        write_arrays(path, columns)
        others = [block for block in self._blocks(group) if block.path != path]
        self._found[group] = [*others, _Block(path, columns["row"])]
        self._index.pop(group, None)  # rebuilt when it is asked for, not after every block

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
            blocks = self._blocks(group)
            shape = self._array(blocks[0], column).shape[1:] if blocks else ()
            return np.empty((0, *shape), np.float32)
        blocks, slots = places[where, 0], places[where, 1]
        out: NDArray[Any] | None = None
        for number in np.unique(blocks):
            here = np.flatnonzero(blocks == number)
            values = self._array(self._blocks(group)[number], column)
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
            blocks = self._blocks(group)
            none, sizes = np.empty(0, np.int64), [len(block.rows) for block in blocks]
            rows = np.concatenate([none, *(block.rows for block in blocks)])
            slots = np.concatenate([none, *map(np.arange, sizes)])
            places = np.stack([np.repeat(np.arange(len(blocks)), sizes), slots], 1)
            # Two runs at once may have written a row twice; the values are the same.
            known, first = np.unique(rows, return_index=True)
            self._index[group] = known, places[first]
        return self._index[group]

    def _blocks(self, group: str) -> list[_Block]:
        """The group's files; those that the list of rows lacks are opened, and listed if many."""
        if group in self._found:
            return self._found[group]
        folder, listed = self.directory / group, self.directory / f"{group}{SUFFIX}"
        try:
            changed = folder.stat().st_mtime_ns  # before the folder is listed
        except FileNotFoundError:
            return self._found.setdefault(group, [])
        known: dict[str, NDArray[np.int64]] = {}
        if listed.exists():
            found = read_arrays(listed, _REMEDY, ("row", "end"))
            parts = np.split(found.arrays["row"], found.arrays["end"])[:-1]
            known = {_name(rows): rows for rows in parts}
            settled = listed.stat().st_mtime_ns - changed > _TICK
            if settled and found.about.get("changed") == str(changed):
                blocks = [_Block(folder / f"{name}{SUFFIX}", known[name]) for name in sorted(known)]
                return self._found.setdefault(group, blocks)
        paths = sorted(folder.glob(f"*{SUFFIX}"))
        opened = sum(path.stem not in known for path in paths)
        blocks = [
            _Block(path, known[path.stem] if path.stem in known else _rows_of(path))
            for path in paths
        ]
        self._found[group] = blocks
        old = time.time_ns() - changed > _TICK
        if opened >= _LISTED_FROM or (old and len(blocks) >= _LISTED_FROM):
            ends = np.cumsum([len(block.rows) for block in blocks])
            rows = np.concatenate([block.rows for block in blocks])
            with contextlib.suppress(CacheError):  # another's run that may only be read
                write_arrays(listed, {"row": rows, "end": ends}, {"changed": str(changed)})
        return blocks

    def _array(self, block: _Block, column: str) -> NDArray[Any]:
        if not block.arrays:
            block.arrays = read_arrays(block.path, _REMEDY).arrays
        if column not in block.arrays:
            raise EvaluationError(f"{block.path}: has no {column}; {_REMEDY}")
        return block.arrays[column]


def _name(rows: NDArray[np.int64]) -> str:
    """What a block's file is called after: its rows, so that no other rows pass under its name."""
    return hashlib.sha256(np.asarray(rows, "<i8").tobytes()).hexdigest()[:16]


def _rows_of(path: Path) -> NDArray[np.int64]:
    rows = np.array(read_array(path, "row", _REMEDY))
    if rows.ndim != 1 or rows.dtype != np.int64 or path.stem != _name(rows):
        raise EvaluationError(f"{path}: changed since it was written; {_REMEDY}")
    return rows
