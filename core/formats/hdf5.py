"""HDF5 files: new ones, laid out in memory and then written by us, and datasets to be trusted.

HDF5 does not survive a write that the system refuses: h5py leaves objects behind that it cannot
close, and the process dies of a segmentation fault. So HDF5 writes into memory, and what it wrote
goes to the disk by plain writes, whose errors are ordinary ones.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

_PAGE = 1 << 16  # bytes


def open_dataset(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> h5py.Dataset:
    """The dataset `name`, once its values lie in this file and are of this shape and type.

    HDF5 can hold links to other files, and datasets whose values lie in other files.

    Raises:
        ValueError: when it is another kind of thing; in words that follow the file's name.
        OSError: when the file is damaged.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name} is missing or a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} is not a dataset of this file")
    try:
        kind = dataset.dtype
    except TypeError as error:  # a damaged type
        raise ValueError(f"{name} is of no known type ({error})") from None
    if dataset.shape != shape or kind != dtype:
        raise ValueError(f"{name} is {kind} {dataset.shape}, expected {dtype} {shape}")
    return dataset


@contextmanager
def new_hdf5(path: Path, **options: Any) -> Iterator[h5py.File]:
    """A new HDF5 file, open for writing; it lies at `path` once the block has ended.

    Memory is taken for what is written, not for space that is only reserved.

    Raises:
        OSError: when the system refuses to write.
    """
    memory = _Sparse()
    with h5py.File(memory, "w", **options) as file:
        yield file
    memory.save(path)


class _Sparse(io.RawIOBase):
    """A file in memory of which only the pages that were written to exist."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._size = self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self._size = self._position if size is None else size
        return self._size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            number, start = divmod(self._position + done, _PAGE)
            count = min(_PAGE - start, len(view) - done)
            page = self._pages.setdefault(number, bytearray(_PAGE))
            page[start : start + count] = view[done : done + count]
            done += count
        self._position += done
        self._size = max(self._size, self._position)
        return done

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(min(len(view), self._size - self._position), 0)
        done = 0
        while done < wanted:
            number, start = divmod(self._position + done, _PAGE)
            count = min(_PAGE - start, wanted - done)
            page = self._pages.get(number)
            view[done : done + count] = page[start : start + count] if page else bytes(count)
            done += count
        self._position += done
        return done

    def save(self, path: Path) -> None:
        """Write the pages to a new file of the full size."""
        with path.open("wb") as file:
            for number, page in sorted(self._pages.items()):
                file.seek(number * _PAGE)
                file.write(memoryview(page)[: max(self._size - number * _PAGE, 0)])
            file.truncate(self._size)
