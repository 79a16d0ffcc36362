"""One shard of one column group: an HDF5 file and the sidecar that describes it.

The HDF5 file holds contiguous, unfiltered datasets that start at multiples of 4096 bytes.
h5py lays the file out, in memory; the rows themselves are written at the datasets' offsets, so
that a full disk is an ordinary error of the operating system and never a half-closed HDF5 file.
The sidecar is written last: a shard is finished when its sidecar is there.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.opening import SIGNATURE, opening_checksum
from faceguide.cache.schema import ORIGINS, SCHEMA, STATUSES, Column, columns
from faceguide.core.errors import CacheError
from faceguide.core.files import (
    digest,
    file_sha256,
    read_json,
    reading,
    replacing,
    write_json,
)
from faceguide.core.formats.hdf5_writing import new_hdf5

ALIGNMENT = 4096
_TEXT = h5py.string_dtype("utf-8")


def shard_path(directory: Path, group: str, shard: int) -> Path:
    """The HDF5 file of a shard."""
    return directory / f"{group}-{shard:05d}.h5"


def sidecar_path(directory: Path, group: str, shard: int) -> Path:
    """The JSON file that describes a shard."""
    return directory / f"{group}-{shard:05d}.json"


def is_done(directory: Path, group: str, shard: int, recipe: dict[str, Any]) -> bool:
    """Whether the shard stands finished, made with this very recipe.

    A damaged sidecar, a file of another size than it says, or one that does not begin as HDF5 does,
    as the copy of a shard that was cut off, counts as unfinished: the shard is then made again.

    Raises:
        CacheError: when the system refuses to read, which says nothing of the shard.
    """
    path = shard_path(directory, group, shard)
    try:
        sidecar = read_json(sidecar_path(directory, group, shard))
        if sidecar.get("recipe") != digest(recipe):
            return False
        with reading(path), path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            return sidecar.get("bytes") == size and file.read(len(SIGNATURE)) == SIGNATURE
    except FileNotFoundError:
        return False
    except CacheError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return False


class ShardWriter:
    """Lays out one HDF5 file and fills it; `write_shard` is the way in."""

    def __init__(self, path: Path, offsets: dict[str, int], specs: Mapping[str, Column]) -> None:
        self.offsets = offsets
        self._specs = specs
        self._descriptor = os.open(path, os.O_WRONLY)

    def write(self, name: str, start: int, rows: NDArray[Any]) -> None:
        """Write consecutive rows of one column, beginning at row `start`."""
        spec = self._specs[name]
        if rows.shape[1:] != spec.shape or rows.dtype != spec.dtype:
            raise ValueError(
                f"{name}: expected {spec.dtype} {spec.shape}, got {rows.dtype} {rows.shape[1:]}"
            )
        self._pwrite(np.ascontiguousarray(rows), self.offsets[name] + start * spec.row_bytes)

    def write_blob(self, name: str, data: Sequence[bytes]) -> None:
        """Write encoded rows one behind the other."""
        position = self.offsets[name]
        for piece in data:
            self._pwrite(piece, position)
            position += len(piece)

    def _pwrite(self, data: Any, position: int) -> None:
        view = memoryview(data if isinstance(data, bytes) else data.reshape(-1).view(np.uint8))
        while len(view):
            written = os.pwrite(self._descriptor, view, position)
            view, position = view[written:], position + written

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


@contextmanager
def write_shard(
    directory: Path,
    group: str,
    shard: int,
    recipe: dict[str, Any],
    *,
    rows: int,
    texts: Mapping[str, Sequence[str]],
    blob: Sequence[bytes] | None = None,
    report: dict[str, Any],
) -> Iterator[ShardWriter]:
    """Write one shard whole: yields a writer for the fixed columns, then seals file and sidecar.

    Args:
        directory: the cache.
        group: faces, guidance or occlusion.
        shard: its number.
        recipe: recipe of the group.
        rows: number of rows.
        texts: text columns, such as key and meta/NAME, one value per row.
        blob: encoded images, stored as `jpeg` and `offset`.
        report: what the sidecar says besides (counts, failures); may be filled until the end of
            the with-block.
    """
    path = shard_path(directory, group, shard)
    specs = {column.name: column for column in columns(group, recipe)}
    with replacing(path) as temporary:
        offsets = _lay_out(temporary, group, specs, rows, texts, blob)
        writer = ShardWriter(temporary, offsets, specs)
        try:
            if blob is not None:
                writer.write_blob("jpeg", blob)
            yield writer
        finally:
            writer.close()
        size, sha256 = temporary.stat().st_size, file_sha256(temporary)
        with temporary.open("rb") as file:
            opening = opening_checksum(file.fileno(), offsets, list(specs.values()), rows)
    write_json(
        sidecar_path(directory, group, shard),
        {
            "schema": SCHEMA,
            "group": group,
            "shard": shard,
            "recipe": digest(recipe),
            "rows": rows,
            "bytes": size,
            "sha256": sha256,
            "opening": opening,
            "offsets": offsets,
            **report,
        },
    )


def _lay_out(
    path: Path,
    group: str,
    specs: Mapping[str, Column],
    rows: int,
    texts: Mapping[str, Sequence[str]],
    blob: Sequence[bytes] | None,
) -> dict[str, int]:
    """Create the HDF5 file with its texts and empty columns; return the columns' offsets."""
    with new_hdf5(
        path,
        libver=("earliest", "v110"),
        alignment_threshold=1,
        alignment_interval=ALIGNMENT,
    ) as file:
        file.attrs["format"] = "faceguide"
        file.attrs["schema"] = SCHEMA
        file.attrs["group"] = group
        for name, values in texts.items():
            # Bytes, not str: a file name that is no UTF-8 keeps its bytes.
            file.create_dataset(name, data=[os.fsencode(value) for value in values], dtype=_TEXT)
        if blob is not None:
            ends = np.cumsum([0, *map(len, blob)], dtype=np.uint64)
            file.create_dataset("offset", data=ends)
            _allocate(file, "jpeg", (int(ends[-1]),), np.dtype("|u1"))
        for spec in specs.values():
            _allocate(file, spec.name, (rows, *spec.shape), spec.dtype)
        for name, names in (("status", STATUSES), ("origin", ORIGINS)):
            if name in file:
                file[name].attrs["names"] = ",".join(names)
        named = [*specs, *(["jpeg", "offset"] if blob is not None else [])]
        return {name: file[name].id.get_offset() for name in named if file[name].size}


def _allocate(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """A contiguous dataset that has its place in the file now and its bytes later."""
    if 0 in shape:
        file.create_dataset(name, shape=shape, dtype=dtype)
        return
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)  # times would make equal shards differ
    kind = h5py.h5t.py_create(dtype, logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), properties)


def row_checksums(
    columns: Sequence[Sequence[bytes] | NDArray[Any]], start: NDArray[np.uint32] | None = None
) -> NDArray[np.uint32]:
    """crc32 of each row over its columns one behind the other.

    Args:
        columns: in schema order, each with one item per row: arrays of fixed-size rows, or
            sequences of bytes (encoded images).
        start: checksums of the columns before these, to go on from.

    Returns:
        (N,) uint32.
    """
    total = start.tolist() if start is not None else [0] * len(columns[0])
    for part in _joined(columns):
        total = [zlib.crc32(row, crc) for row, crc in zip(part, total, strict=True)]
    return np.array(total, np.uint32)


def _joined(columns: Sequence[Sequence[bytes] | NDArray[Any]]) -> Iterator[Iterable[Any]]:
    """Rows of bytes; neighbouring small columns are joined, since every crc call costs."""
    small: list[NDArray[np.uint8]] = []
    for column in columns:
        if not isinstance(column, np.ndarray):
            if small:
                yield np.concatenate(small, axis=1)
                small = []
            yield column
            continue
        flat = np.ascontiguousarray(column).reshape(len(column), -1).view(np.uint8)
        if flat.shape[1] > 8192:
            if small:
                yield np.concatenate(small, axis=1)
                small = []
            yield flat
        else:
            small.append(flat)
    if small:
        yield np.concatenate(small, axis=1)
