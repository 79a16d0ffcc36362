"""Text of variable length, looked at before HDF5 makes room for it.

A dataset of such text holds 16 bytes per value: its length, and where in the file a heap of values
begins. HDF5 takes both on trust and makes room first, gigabytes where a bit has flipped. Layouts:
HDF5 file format specification, III.D (global heap) and IV.A.2.d (variable-length types).
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

_DESCRIPTOR = np.dtype([("length", "<u4"), ("heap", "<u8"), ("index", "<u4")])
_OBJECT = struct.Struct("<HH4xQ")  # index, references, length
_HEAP = np.dtype([("magic", "S4"), ("version", "u1"), ("reserved", "V3"), ("size", "<u8")])


def require_bounded_text(dataset: h5py.Dataset) -> None:
    """Refuse text that claims to be longer than the file that holds it.

    Args:
        dataset: text of variable length, contiguous or in chunks, as they are or gzipped.

    Raises:
        ValueError: when it is anything else, or damaged; in words that follow the file's name.
        OSError: when the file cannot be read.
    """
    if dataset.file.id.get_create_plist().get_sizes() != (8, 8):
        raise ValueError(f"{dataset.name} has addresses of another width than 8 bytes")
    with Path(os.fsdecode(dataset.file.filename)).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        heaps: set[int] = set()
        for packed in _descriptors(dataset, file.fileno(), size):
            used = packed[packed["heap"] != 0]
            if used.size and int(used["length"].max()) > size:
                raise ValueError(f"{dataset.name} claims text of {used['length'].max()} bytes")
            heaps.update(np.unique(used["heap"]).tolist())
        for place in heaps:
            head = os.pread(file.fileno(), _HEAP.itemsize, place) if place < size else b""
            heap = np.frombuffer(head.ljust(_HEAP.itemsize, b"\0"), _HEAP)[0]
            length = int(heap["size"])
            if heap["magic"] != b"GCOL" or length > size - place:
                raise ValueError(f"{dataset.name} points to no text at byte {place}")
            if not _walks(os.pread(file.fileno(), length, place)):
                raise ValueError(f"{dataset.name}: its texts at byte {place} are damaged")


def _walks(heap: bytes) -> bool:
    """Whether the objects of a heap lead to its end, which HDF5 would else look for forever."""
    place = _HEAP.itemsize
    while place + _OBJECT.size <= len(heap):
        index, _, length = _OBJECT.unpack_from(heap, place)
        # Index 0 is what is free, its own header counted; the others are padded to 8 bytes.
        step = length if index == 0 else _OBJECT.size + (length + 7) // 8 * 8
        if not 0 < step <= len(heap) - place:
            return False
        place += step
    return True


def _descriptors(dataset: h5py.Dataset, descriptor: int, size: int) -> Iterator[NDArray[np.void]]:
    """The 16 bytes of every value, block by block."""
    if not dataset.size:
        return
    properties = dataset.id.get_create_plist()
    if dataset.chunks is None:
        start, length = dataset.id.get_offset(), dataset.size * _DESCRIPTOR.itemsize
        if start is None or start + length > size:
            raise ValueError(f"{dataset.name} does not lie in its file")
        yield np.frombuffer(os.pread(descriptor, length, start), _DESCRIPTOR)
        return
    filters = [properties.get_filter(number)[0] for number in range(properties.get_nfilters())]
    if filters not in ([], [h5py.h5z.FILTER_DEFLATE]):
        raise ValueError(f"{dataset.name} is packed otherwise than by gzip")
    length = prod(dataset.chunks) * _DESCRIPTOR.itemsize
    for number in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(number)
        if chunk.byte_offset is None or chunk.byte_offset + chunk.size > size:
            raise ValueError(f"{dataset.name} does not lie in its file")
        packed = os.pread(descriptor, chunk.size, chunk.byte_offset)
        if filters and not chunk.filter_mask:
            try:
                packed = zlib.decompressobj().decompress(packed, length)
            except zlib.error as error:
                raise ValueError(f"{dataset.name} cannot be unpacked ({error})") from None
        if len(packed) != length:
            raise ValueError(f"{dataset.name} has a chunk of {len(packed)} bytes")
        yield np.frombuffer(packed, _DESCRIPTOR)
