"""What is checked of a shard's file when it is opened: little enough to cost nothing.

A copy or a download that was cut off after its space had been reserved has the right size, and
zeros where its bytes should be. Reading all of a shard tells (`cache verify`), but takes as long as
using it. So what is read here is the file's first block, its end with the small columns, which
decide what a row is taken for, and a few rows spread over it.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from faceguide.cache.schema import Column

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_BLOCK = 4096
_SMALL = 8  # bytes of a row in a small column
_SAMPLED_ROWS = 3


def opening_checksum(
    descriptor: int, offsets: dict[str, int], specs: Sequence[Column], rows: int
) -> int:
    """crc32 over the first block of a shard's file, where encoded images end, and its end.

    Args:
        descriptor: of the open file.
        offsets: byte offset of each contiguous dataset.
        specs: the fixed-size columns, in the order of the file.
        rows: of the shard.
    """
    parts = (os.pread(descriptor, _BLOCK, 0), _ends(descriptor, offsets, rows))
    return zlib.crc32(b"".join((*parts, _end(descriptor, offsets, specs)[1])))


def opening_fault(descriptor: int, entry: dict[str, Any], specs: Sequence[Column]) -> str:
    """What is wrong with a shard's file, as far as that is cheap to say; "" when nothing is.

    Args:
        descriptor: of the open file.
        entry: of the shard in the manifest.
        specs: the fixed-size columns, in the order of the file.

    Raises:
        OSError: when the system refuses to read.
    """
    size = os.fstat(descriptor).st_size
    if size != entry["bytes"]:
        return f"{size} bytes, the manifest says {entry['bytes']}"
    first = os.pread(descriptor, _BLOCK, 0)
    if not first.startswith(SIGNATURE):
        return "does not begin as HDF5 does, such as a copy that was cut off"
    offsets, rows = entry["offsets"], entry["rows"]
    if not all(spec.name in offsets for spec in specs):  # laid out by another program
        return ""
    ends, (start, end) = _ends(descriptor, offsets, rows), _end(descriptor, offsets, specs)
    for slot in sorted({rows * part // _SAMPLED_ROWS for part in range(_SAMPLED_ROWS)}):
        *parts, stored = _row(descriptor, offsets, specs, slot, ends, start, end)
        if zlib.crc32(b"".join(parts)).to_bytes(4, "little") != stored:
            return f"row {slot} differs from its checksum"
    written = entry.get("opening")  # caches of earlier versions lack it
    if written is not None and written != zlib.crc32(b"".join((first, ends, end))):
        return "its labels, its first or its last bytes are not those that were written"
    return ""


def _ends(descriptor: int, offsets: dict[str, int], rows: int) -> bytes:
    """Where each encoded image ends: N + 1 numbers of eight bytes; nothing in a raw shard."""
    return os.pread(descriptor, 8 * (rows + 1), offsets["offset"]) if "offset" in offsets else b""


def _end(descriptor: int, offsets: dict[str, int], specs: Sequence[Column]) -> tuple[int, bytes]:
    """The file from its first small column on, and where that begins."""
    size = os.fstat(descriptor).st_size
    start = min(offsets[spec.name] for spec in specs if spec.row_bytes <= _SMALL)
    return start, os.pread(descriptor, size - start, start)


def _row(
    descriptor: int,
    offsets: dict[str, int],
    specs: Sequence[Column],
    slot: int,
    ends: bytes,
    start: int,
    end: bytes,
) -> Iterator[bytes]:
    """The columns of a row in the order of its checksum, which is the last."""
    if ends:
        first, last = np.frombuffer(ends, "<u8", 2, 8 * slot).tolist()
        if first < last <= start and "jpeg" in offsets:
            yield os.pread(descriptor, last - first, offsets["jpeg"] + first)
    for spec in specs:
        length = spec.row_bytes
        place = offsets[spec.name] + slot * length
        if place < start:
            yield os.pread(descriptor, length, place)
        else:
            yield end[place - start : place - start + length]
