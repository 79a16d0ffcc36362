"""A writer of the RecordIO format, for tests of what reads it."""

from __future__ import annotations

import struct
from pathlib import Path

from faceguide.core.formats.recordio import MAGIC

MAGIC_BYTES = struct.pack("<I", MAGIC)


def part(flag: int, data: bytes) -> bytes:
    word = flag << 29 | len(data)
    return struct.pack("<II", MAGIC, word) + data + bytes(-len(data) % 4)


def record(image: bytes, label: float | list[float]) -> bytes:
    """One record as mxnet writes it, cut at every aligned magic number in the data."""
    if isinstance(label, list):
        data = struct.pack("<IfQQ", len(label), 0.0, 7, 0)
        data += struct.pack(f"<{len(label)}f", *label) + image
    else:
        data = struct.pack("<IfQQ", 0, label, 7, 0) + image
    pieces, begin = [], 0
    for at in range(0, len(data) - 3, 4):
        if data[at : at + 4] == MAGIC_BYTES:
            pieces.append(data[begin:at])
            begin = at + 4
    pieces.append(data[begin:])
    if len(pieces) == 1:
        return part(0, data)
    flags = [1] + [2] * (len(pieces) - 2) + [3]
    return b"".join(part(flag, piece) for flag, piece in zip(flags, pieces, strict=True))


def write(path: Path, records: list[bytes], *, index: bool = True) -> list[int]:
    """Write a .rec and its .idx; returns the byte offsets."""
    offsets, at = [], 0
    for data in records:
        offsets.append(at)
        at += len(data)
    path.write_bytes(b"".join(records))
    if index:
        lines = [f"{key}\t{offset}\n" for key, offset in enumerate(offsets)]
        path.with_suffix(".idx").write_text("".join(lines))
    return offsets
