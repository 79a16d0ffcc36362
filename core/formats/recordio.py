"""insightface's train.rec and train.idx, read without mxnet.

A `.rec` file is a row of records, each little-endian and padded to four bytes:

    u32 magic 0xced7230a | u32 flag << 29 | length | length bytes

Flag 0 is a whole record; 1, 2 and 3 are the first, a middle and the last part of one whose data
contained the magic number, which the writer dropped at each seam. The data begins with a
24-byte header `IfQQ` (number of labels, label, id, id), then that many float32 labels, then the
encoded image. A `.idx` file has lines `key<TAB>byte offset`. In insightface's files record 0 has
no image: its first label is the key after the last image, and identity records follow from there.
Which records hold an image is asked of the records; what the header and the index say is compared
with that.

No length in these files is believed before it was held against the size of the file.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import FaceguideError

MAGIC = 0xCED7230A
_SWAPPED = int.from_bytes(MAGIC.to_bytes(4, "little"), "big")
MAXIMUM_PARTS = 1024  # of one record; a magic number inside an image is a rare accident
_WORDS = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_MAXIMUM_INDEX_LINE = 128  # bytes
_INDEX = np.dtype([("key", np.int64), ("offset", np.int64)])


class RecordError(FaceguideError):
    """A .rec or .idx file that is damaged or no such file."""


@dataclass(frozen=True)
class Record:
    """One record: its labels and the encoded image (empty in header records)."""

    labels: tuple[float, ...]
    image: bytes


@dataclass(frozen=True)
class Entry:
    """One image of the file as the listing sees it, without its pixels."""

    key: int
    offset: int  # in bytes
    label: float  # NaN where the record is damaged
    fault: str = ""  # why the record cannot be read


def read_record(path: Path, offset: int) -> Record:
    """Read the record that begins at byte `offset`.

    Raises:
        RecordError: when there is no whole record at that place.
        OSError: when the file cannot be read.
    """
    with _opened(path) as (descriptor, size):
        parts, _ = _parts(descriptor, offset, size)
        return _unpack(_join(descriptor, parts), offset)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, int]]:
    """A file's descriptor and size."""
    with path.open("rb", buffering=0) as file:
        yield file.fileno(), os.fstat(file.fileno()).st_size


def entries(path: Path) -> Iterator[Entry]:
    """List the images of `path` in the order of its index, or of the file if it has none.

    A damaged record is listed with its fault; without an index the listing ends there, since
    nothing says where the next record begins. An index is held in memory, 16 bytes a line.

    Raises:
        RecordError: when the file begins with no record, or the index is none, is empty, names a
            key or a place twice, leaves an image of the file out or fits no record of it.
        OSError: when a file cannot be read.
    """
    index = path.with_suffix(".idx")
    with _opened(path) as (descriptor, size):
        if index.is_file():
            yield from _indexed(descriptor, size, path, index)
        else:
            yield from _scanned(descriptor, size, path)


def declared_images(path: Path) -> float | None:
    """How many images the header record of `path` promises; None where there is no such record.

    It is a float32: beyond 2²⁴ images the number is rounded.
    """
    index = path.with_suffix(".idx")
    with _opened(path) as (descriptor, size):
        # Most writers put record 0 first, some last.
        lines: Iterator[tuple[int, int]] = read_index(index) if index.is_file() else iter([(0, 0)])
        offset = next((offset for key, offset in lines if key == 0), None)
        end = _header_end(descriptor, size, offset)
        return end - 1 if math.isfinite(end) else None


def read_index(path: Path) -> Iterator[tuple[int, int]]:
    """The (key, byte offset) lines of an `.idx` file, in its order; blank lines are none.

    Raises:
        RecordError: naming the line that is something else.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_MAXIMUM_INDEX_LINE):
            number += 1
            fields = line.split()
            if not fields:
                continue
            if (
                len(fields) != 2
                or not (fields[0].isdigit() and fields[1].isdigit())
                or max(map(len, fields)) > 18  # digits of what 64 bits hold for certain
            ):
                raise RecordError(
                    f"{path}, line {number}: expected key<TAB>offset, found {line[:40]!r}"
                )
            yield int(fields[0]), int(fields[1])


def _whole_index(index: Path, remedy: str) -> NDArray[np.void]:
    """The lines of an index, once no key and no offset stands there twice."""
    lines = np.fromiter(read_index(index), _INDEX)
    if not len(lines):
        raise RecordError(f"{index}: holds no line; {remedy}")
    for name in ("key", "offset"):
        values = np.sort(lines[name])
        again = values[1:][values[1:] == values[:-1]]
        if len(again):
            raise RecordError(
                f"{index}: {len(again)} lines repeat the {name} of another, {again[0]} the first; "
                f"{remedy}"
            )
    return lines


def _indexed(descriptor: int, size: int, path: Path, index: Path) -> Iterator[Entry]:
    remedy = f"fetch a fresh copy, or remove it: {path.name} is then read from its start"
    lines = _whole_index(index, remedy)
    header = lines["offset"][lines["key"] == 0]
    end = _header_end(descriptor, size, int(header[0]) if len(header) else None)
    # Where the next record that the index knows begins, for each of its lines.
    order = np.argsort(lines["offset"])
    limits = np.empty(len(lines), np.int64)
    limits[order] = np.append(lines["offset"][order][1:], size)
    good, fault = 0, ""
    left_out = _image_between(descriptor, 0, int(lines["offset"].min()), size)
    for key, offset, limit in zip(
        lines["key"].tolist(), lines["offset"].tolist(), limits.tolist(), strict=True
    ):
        promised = math.isfinite(end) and 1 <= key < end
        try:
            label, labels, has_image, following = _head(descriptor, offset, size)
        except RecordError as error:
            fault = fault or str(error)
            if promised or not math.isfinite(end):
                yield Entry(key, offset, math.nan, str(error))
            continue
        if left_out is None:
            left_out = _image_between(descriptor, following, limit, size)
        if left_out is not None:
            raise RecordError(
                f"{index}: has no line for the image at byte {left_out} of {path.name}; it is "
                f"shortened or of another file; {remedy}"
            )
        good += has_image
        if has_image or promised or (labels == 0 and key != 0):
            yield Entry(key, offset, label)
    if fault and not good:
        raise RecordError(f"{index}: fits no image of {path.name} ({fault}); {remedy}")


def _image_between(descriptor: int, offset: int, limit: int, size: int) -> int | None:
    """Where a record with an image begins between two that the index names."""
    while offset < limit:
        try:
            _, _, has_image, following = _head(descriptor, offset, size)
        except RecordError:
            return None
        if has_image:
            return offset
        offset = following
    return None


def _header_end(descriptor: int, size: int, offset: int | None) -> float:
    """The key after the last image, as record 0 at `offset` says; infinite where it does not."""
    if offset is None:
        return math.inf
    try:
        label, _, has_image, _ = _head(descriptor, offset, size)
    except RecordError:
        return math.inf
    return label if label > 1 and not has_image else math.inf


def _scanned(descriptor: int, size: int, path: Path) -> Iterator[Entry]:
    offset = key = 0
    while offset < size:
        try:
            label, labels, has_image, following = _head(descriptor, offset, size)
        except RecordError as error:
            if not offset:
                raise RecordError(f"{path}: {error}") from error
            yield Entry(key, offset, math.nan, f"{error}; what follows it cannot be found")
            return
        # Labels without an image: record 0 and the identity records.
        if has_image or (labels == 0 and key != 0):
            yield Entry(key, offset, label)
        key, offset = key + 1, following


def _parts(descriptor: int, offset: int, size: int) -> tuple[list[tuple[int, int]], int]:
    """(start, length) of each part of the record at `offset`, and where the next one begins."""
    parts: list[tuple[int, int]] = []
    begin = offset
    while True:
        if not 0 <= offset <= size - _WORDS.size:
            raise RecordError(f"the record at byte {begin} lies beyond the file's {size} bytes")
        magic, word = _WORDS.unpack(_pread(descriptor, _WORDS.size, offset))
        flag, length = word >> 29, word & 0x1FFFFFFF
        if magic == _SWAPPED:
            raise RecordError(f"byte {offset}: the numbers are big-endian; write it little-endian")
        if magic != MAGIC:
            raise RecordError(
                f"byte {offset}: expected a record (0x{MAGIC:08x}), found 0x{magic:08x}; "
                "is the index of another file?"
            )
        if flag not in ((2, 3) if parts else (0, 1)):
            raise RecordError(f"byte {offset}: part flag {flag} is out of order")
        start = offset + _WORDS.size
        if start + length > size:
            raise RecordError(
                f"the record at byte {begin} needs {start + length} bytes, the file has {size}; "
                "it is truncated"
            )
        parts.append((start, length))
        offset = start + (length + 3) // 4 * 4
        if flag in (0, 3):
            return parts, offset
        if len(parts) == MAXIMUM_PARTS:
            raise RecordError(f"the record at byte {begin} has over {MAXIMUM_PARTS} parts")


def _join(descriptor: int, parts: list[tuple[int, int]]) -> bytes:
    # The writer cuts a record wherever its data holds the magic number, and drops it there.
    seam = MAGIC.to_bytes(4, "little")
    return seam.join(_pread(descriptor, length, start) for start, length in parts)


def _pread(descriptor: int, length: int, offset: int) -> bytes:
    data = os.pread(descriptor, length, offset)
    if len(data) != length:
        raise RecordError(f"byte {offset}: {length} bytes expected, {len(data)} could be read")
    return data


def _head(descriptor: int, offset: int, size: int) -> tuple[float, int, bool, int]:
    """First label, number of labels after the header, whether an image follows, the next record."""
    parts, following = _parts(descriptor, offset, size)
    start, length = parts[0]
    if len(parts) > 1:
        record = _unpack(_join(descriptor, parts), offset)
        return record.labels[0], len(record.labels), bool(record.image), following
    data = _pread(descriptor, min(length, _HEADER.size + 4), start)
    label, labels = _label_count(data, length, offset)
    if labels:
        (label,) = struct.unpack_from("<f", data, _HEADER.size)
    return label, labels, length > _HEADER.size + 4 * labels, following


def _label_count(data: bytes, length: int, offset: int) -> tuple[float, int]:
    """The header's own label and the number of labels behind it, checked against `length`."""
    if length < _HEADER.size:
        raise RecordError(f"the record at byte {offset} has {length} bytes and no header")
    labels, label, _, _ = _HEADER.unpack_from(data)
    if _HEADER.size + 4 * labels > length:
        raise RecordError(f"the record at byte {offset} claims {labels} labels in {length} bytes")
    return label, labels


def _unpack(data: bytes, offset: int) -> Record:
    label, labels = _label_count(data, len(data), offset)
    image = data[_HEADER.size + 4 * labels :]
    if labels == 0:
        return Record((label,), image)
    return Record(struct.unpack_from(f"<{labels}f", data, _HEADER.size), image)
