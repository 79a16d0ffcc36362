"""What is checked of a shard's file when it is opened: little enough to cost nothing.

A copy or a download that was cut off after its space had been reserved has the right size, and
zeros where its bytes should be. Only reading all of a shard shows that for certain (`cache
verify`), and takes as long as using it. So what is read here is the file's first block, its end
with the small columns, which decide what a row is taken for, and a few rows spread over it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from faceguide.cache.schema import Column, bytes_digest, digested

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_BLOCK = 4096
_SAMPLED_ROWS = 3


def opening_digest(
    descriptor: int, offsets: dict[str, int], specs: Sequence[Column], rows: int
) -> str:
    """Digest over the first block of a shard's file, where encoded images end, and its end.

    Args:
        offsets: byte offset of each dataset.
        specs: the columns, in the order of the file.
    """
    first = os.pread(descriptor, _BLOCK, 0)
    ends = _ends(descriptor, offsets, specs, rows)
    return bytes_digest(first, *ends.values(), _end(descriptor, offsets, specs)[1])


def opening_fault(descriptor: int, entry: dict[str, Any], specs: Sequence[Column]) -> str:
    """What is wrong with a shard's file, as far as that is cheap to say; "" when nothing is.

    Args:
        entry: of the shard in the manifest.
        specs: the columns, in the order of the file.

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
    ends, (start, end) = _ends(descriptor, offsets, specs, rows), _end(descriptor, offsets, specs)
    for slot in sorted({rows * part // _SAMPLED_ROWS for part in range(_SAMPLED_ROWS)}):
        row = _row(descriptor, offsets, specs, slot, ends, start, end)
        found = [bytes_digest(*(row[name] for name in names)) for names in digested(specs)]
        if found != [f"{stored:016x}" for stored in np.frombuffer(row["digest"], "<u8").tolist()]:
            return f"row {slot} differs from its digest"
    if entry["opening"] != bytes_digest(first, *ends.values(), end):
        return "its labels, its first or its last bytes are not those that were written"
    return ""


def _ends(
    descriptor: int, offsets: dict[str, int], specs: Sequence[Column], rows: int
) -> dict[str, bytes]:
    """Where each image file of each encoded column ends: N + 1 numbers of eight bytes."""
    return {
        spec.name: os.pread(descriptor, 8 * (rows + 1), offsets[f"offset/{spec.name}"])
        for spec in specs
        if spec.encoded
    }


def _end(descriptor: int, offsets: dict[str, int], specs: Sequence[Column]) -> tuple[int, bytes]:
    """The file from its first small column on, and where that begins."""
    size = os.fstat(descriptor).st_size
    start = min(offsets[spec.name] for spec in specs if not spec.large or spec.name == "digest")
    return start, os.pread(descriptor, size - start, start)


def _row(
    descriptor: int,
    offsets: dict[str, int],
    specs: Sequence[Column],
    slot: int,
    ends: dict[str, bytes],
    start: int,
    end: bytes,
) -> dict[str, bytes]:
    """The bytes of a row, by column."""
    row = {}
    for spec in specs:
        if spec.encoded:
            first, last = np.frombuffer(ends[spec.name], "<u8", 2, 8 * slot).tolist()
            place, length = offsets.get(spec.name, 0) + first, last - first
            if not 0 <= length <= start or place > start:
                place = length = 0  # a damaged table: the digest will differ
        else:
            length = spec.row_bytes
            place = offsets[spec.name] + slot * length
        if place < start:
            row[spec.name] = os.pread(descriptor, length, place)
        else:
            row[spec.name] = end[place - start : place - start + length]
    return row
