"""One shard of one column group: an HDF5 file and the sidecar that describes it.

The HDF5 file holds contiguous, unfiltered datasets that start at multiples of 4096 bytes.
h5py lays the file out, in memory; texts and rows are written at the datasets' offsets, so
that a full disk is an ordinary error of the operating system and never a half-closed HDF5 file.
The sidecar is written last: a shard is finished when its sidecar is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.opening import SIGNATURE, opening_digest
from faceguide.cache.schema import (
    ORIGINS,
    SCHEMA,
    STATUSES,
    Column,
    bytes_digest,
    columns,
    digested,
    piece_digests,
    row_digests,
)
from faceguide.core.errors import CacheError
from faceguide.core.files import digest, file_sha256, read_json, reading, replacing, write_json
from faceguide.core.formats.hdf5 import new_hdf5

ALIGNMENT = 4096
MIRROR = "mirror.json"  # of a folder whose shards are fetched from elsewhere


def shard_path(directory: Path, group: str, shard: int) -> Path:
    """The HDF5 file of a shard."""
    return directory / f"{group}-{shard:05d}.h5"


def sidecar_path(directory: Path, group: str, shard: int) -> Path:
    """The JSON file that describes a shard."""
    return directory / f"{group}-{shard:05d}.json"


def is_done(directory: Path, group: str, shard: int, recipe: dict[str, Any]) -> bool:
    """Whether the shard stands finished, made with this very recipe.

    A damaged sidecar, a file of another size than it says, or one that does not begin as HDF5 does,
    as the copy of a shard that was cut off, counts as unfinished: the shard is then rebuilt.

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
    """Fills a file that is laid out; `write_shard` is the way in.

    What is written through it gets its digests here, so no writer can forget them.
    """

    def __init__(
        self, path: Path, offsets: dict[str, int], specs: Sequence[Column], rows: int
    ) -> None:
        self._offsets, self._rows = offsets, rows
        self._specs = {spec.name: spec for spec in specs}
        self._covered = digested(specs)
        self._digests = np.zeros((rows, len(self._covered)), np.uint64)
        self._small = {
            spec.name: np.zeros((rows, *spec.shape), spec.dtype) for spec in specs if not spec.large
        }
        self._written = dict.fromkeys((spec.name for spec in specs if spec.name != "digest"), 0)
        self._descriptor = os.open(path, os.O_WRONLY)

    def write(self, name: str, start: int, rows: NDArray[Any]) -> None:
        """Write consecutive rows of one column, beginning at row `start`."""
        spec = self._specs[name]
        if rows.shape[1:] != spec.shape or rows.dtype != spec.dtype:
            raise ValueError(
                f"{name}: expected {spec.dtype} {spec.shape}, got {rows.dtype} {rows.shape[1:]}"
            )
        rows, end = np.ascontiguousarray(rows), start + len(rows)
        if spec.large:
            self._digests[start:end, self._covered.index((name,))] = row_digests(rows)
        else:
            self._small[name][start:end] = rows
        self._pwrite(rows, self._offsets[name] + start * spec.row_bytes)
        self._written[name] += len(rows)

    def write_bytes(self, name: str, pieces: Sequence[bytes]) -> None:
        """Write the bytes of every row of a column, one behind the other, and where each ends."""
        self._pwrite(_ends(pieces), self._offsets[f"offset/{name}"])
        position = self._offsets.get(name, 0)  # without a place when all are empty
        for piece in pieces:
            self._pwrite(piece, position)
            position += len(piece)
        if name in self._specs:
            self._digests[:, self._covered.index((name,))] = piece_digests(pieces)
            self._written[name] = len(pieces)

    def finish(self) -> None:
        """Write the digests.

        Raises:
            ValueError: when a column was not written whole.
        """
        if lacking := [name for name, rows in self._written.items() if rows != self._rows]:
            raise ValueError(f"{', '.join(lacking)}: not written whole")
        small = [name for name in self._small if name in self._written]
        if small:
            self._digests[:, -1] = row_digests(*(self._small[name] for name in small))
        self._pwrite(self._digests, self._offsets["digest"])

    def _pwrite(self, data: Any, position: int) -> None:
        view = memoryview(data if isinstance(data, bytes) else data.reshape(-1).view(np.uint8))
        while len(view):
            written = os.pwrite(self._descriptor, view, position)
            view, position = view[written:], position + written

    def close(self) -> None:
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
    encoded: Mapping[str, Sequence[bytes]] | None = None,
    report: dict[str, Any],
) -> Iterator[ShardWriter]:
    """Write one shard whole: yields a writer for the fixed columns, then seals file and sidecar.

    Args:
        texts: text columns, such as key and meta/NAME, one value per row.
        encoded: image files of the columns that hold such, one per row.
        report: what the sidecar says besides (counts, failures); may be filled until the end of
            the with-block.
    """
    path = shard_path(directory, group, shard)
    if (directory / MIRROR).exists():
        raise CacheError(
            f"{directory}: a mirror, and nothing is written back; `cache copy` makes a cache of it"
        )
    specs = columns(group, recipe)
    # Bytes, not str: a file name that is no UTF-8 keeps its bytes.
    words = {name: [os.fsencode(value) for value in values] for name, values in texts.items()}
    pieces = {**words, **(encoded or {})}
    with replacing(path) as temporary:
        offsets = _lay_out(temporary, group, specs, rows, pieces)
        writer = ShardWriter(temporary, offsets, specs, rows)
        try:
            for name, values in pieces.items():
                writer.write_bytes(name, values)
            yield writer
            writer.finish()
        finally:
            writer.close()
        size, sha256 = temporary.stat().st_size, file_sha256(temporary)
        with temporary.open("rb") as file:
            opening = opening_digest(file.fileno(), offsets, specs, rows)
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
            "texts": {name: bytes_digest(_ends(values), *values) for name, values in words.items()},
            **report,
        },
    )


def _lay_out(
    path: Path,
    group: str,
    specs: Sequence[Column],
    rows: int,
    pieces: Mapping[str, Sequence[bytes]],
) -> dict[str, int]:
    """Create the HDF5 file with empty datasets; return where in the file they begin."""
    shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for name, values in pieces.items():
        shapes[f"offset/{name}"] = (rows + 1,), np.dtype("<u8")
        shapes[name] = (sum(map(len, values)),), np.dtype("|u1")
    for spec in specs:
        if not spec.encoded:
            shapes[spec.name] = (rows, *spec.shape), spec.dtype
    with new_hdf5(
        path, libver=("earliest", "v110"), alignment_threshold=1, alignment_interval=ALIGNMENT
    ) as file:
        file.attrs["format"] = "faceguide"
        file.attrs["schema"] = SCHEMA
        file.attrs["group"] = group
        for name, (shape, dtype) in shapes.items():
            _allocate(file, name, shape, dtype)
        for name, names in (("status", STATUSES), ("origin", ORIGINS)):
            if name in file:
                file[name].attrs["names"] = ",".join(names)
        return {name: file[name].id.get_offset() for name in shapes if file[name].size}


def _ends(pieces: Sequence[bytes]) -> NDArray[np.uint64]:
    """0, and where each piece ends."""
    return np.cumsum([0, *map(len, pieces)], dtype=np.uint64)


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
    links = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    kind, space = h5py.h5t.py_create(dtype, logical=True), h5py.h5s.create_simple(shape)
    h5py.h5d.create(file.id, os.fsencode(name), kind, space, properties, links)
