"""What is checked of a shard's file when it is opened: little enough to cost nothing.

A copy or a download that was cut off after its space had been reserved has the right size, and
zeros where its bytes should be. Reading all of a shard tells (`cache verify`), but takes as long as
using it. So what is read here is the file's first and last block, its small columns, which decide
what a row is taken for, and a few rows spread over it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from faceguide.cache.schema import Column

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_BLOCK = 4096
_SMALL = 8  # bytes of a row in a small column
_SAMPLED_ROWS = 3
_ENDS = "offset"  # of encoded images; the column has a row more


def opening_checksum(
    descriptor: int, offsets: dict[str, int], specs: Sequence[Column], rows: int
) -> int:
    """crc32 over the first and the last block of a shard's file and its small columns.

    Args:
        descriptor: of the open file.
        offsets: byte offset of each contiguous dataset.
        specs: the fixed-size columns.
        rows: of the shard.
    """
    return _read(descriptor, offsets, specs, rows)[0]


def opening_fault(descriptor: int, entry: dict[str, Any], specs: Sequence[Column]) -> str:
    """What is wrong with a shard's file, as far as that is cheap to say; "" when nothing is.

    Args:
        descriptor: of the open file.
        entry: of the shard in its sidecar or manifest.
        specs: the fixed-size columns.

    Raises:
        OSError: when the system refuses to read.
    """
    size = os.fstat(descriptor).st_size
    if size != entry["bytes"]:
        return f"{size} bytes, the manifest says {entry['bytes']}"
    if os.pread(descriptor, len(_SIGNATURE), 0) != _SIGNATURE:
        return "does not begin as HDF5 does, such as a copy that was cut off"
    offsets, rows = entry["offsets"], entry["rows"]
    if not all(spec.name in offsets for spec in specs):  # laid out by another program
        return ""
    found, small = _read(descriptor, offsets, specs, rows)
    for slot in sorted({rows * part // _SAMPLED_ROWS for part in range(_SAMPLED_ROWS)}):
        *parts, stored = _row(descriptor, offsets, specs, small, slot)
        if zlib.crc32(b"".join(parts)).to_bytes(4, "little") != stored:
            return f"row {slot} differs from its checksum"
    written = entry.get("opening")  # caches of earlier versions lack it
    if written is not None and written != found:
        return "its labels, its first or its last bytes are not those that were written"
    return ""


def _read(
    descriptor: int, offsets: dict[str, int], specs: Sequence[Column], rows: int
) -> tuple[int, dict[str, bytes]]:
    """The checksum, and the small columns that went into it."""
    size = os.fstat(descriptor).st_size
    lengths = {spec.name: spec.row_bytes * rows for spec in specs if spec.row_bytes <= _SMALL}
    lengths[_ENDS] = 8 * (rows + 1)
    small = {
        # A claim takes no more memory than the file is long.
        name: os.pread(descriptor, min(length, size), offsets[name])
        for name, length in lengths.items()
        if name in offsets
    }
    crc = zlib.crc32(os.pread(descriptor, _BLOCK, 0))
    for column in small.values():
        crc = zlib.crc32(column, crc)
    return zlib.crc32(os.pread(descriptor, _BLOCK, max(size - _BLOCK, 0)), crc), small


def _row(
    descriptor: int,
    offsets: dict[str, int],
    specs: Sequence[Column],
    small: dict[str, bytes],
    slot: int,
) -> Iterator[bytes]:
    """The columns of a row in the order of its checksum, which is the last."""
    if _ENDS in small:
        start, end = np.frombuffer(small[_ENDS], "<u8", 2, 8 * slot).tolist()
        if start < end <= os.fstat(descriptor).st_size and "jpeg" in offsets:
            yield os.pread(descriptor, end - start, offsets["jpeg"] + start)
    for spec in specs:
        length = spec.row_bytes
        if spec.name in small:
            yield small[spec.name][slot * length : (slot + 1) * length]
        else:
            yield os.pread(descriptor, length, offsets[spec.name] + slot * length)
