"""Datasets of a file that may come from anywhere, opened only when they are what is expected.

HDF5 can hold links to other files, and datasets whose values lie in other files, are filtered
into a thousandth of their size, or are as large as their header claims.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np

from faceguide.core.formats.hdf5_text import require_bounded_text

_MAXIMUM_CHUNK = 1 << 28  # bytes, unpacked
_MAXIMUM_ATTRIBUTE = 4096  # bytes


def open_dataset(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic] | None
) -> h5py.Dataset:
    """The dataset `name`, once it is inside this file and of this shape and type.

    Args:
        file: the open file.
        name: path of the dataset.
        shape: expected.
        dtype: expected; None = text of variable length.

    Raises:
        ValueError: when it is another kind of thing; in words that follow the file's name.
        OSError: when the file is damaged.
    """
    dataset = own_dataset(file, name)
    try:
        kind = dataset.dtype
    except TypeError as error:  # a damaged type
        raise ValueError(f"{name} is of no known type ({error})") from None
    text = h5py.check_string_dtype(kind)
    fits = text is not None and text.length is None if dtype is None else kind == dtype
    if dataset.shape != shape or not fits:
        raise ValueError(f"{name} is {kind} {dataset.shape}, expected {dtype or 'text'} {shape}")
    if dataset.chunks and np.prod(dataset.chunks, dtype=float) * kind.itemsize > _MAXIMUM_CHUNK:
        raise ValueError(f"{name} has chunks of {dataset.chunks}")
    if dtype is None:
        require_bounded_text(dataset)
    return dataset


def own_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset `name`, once its values lie in this file.

    Raises:
        ValueError: when it is another kind of thing; in words that follow the file's name.
        OSError: when the file is damaged.
    """
    place = ""
    for part in name.split("/"):
        place = f"{place}/{part}".lstrip("/")
        if not isinstance(file.get(place, getlink=True), h5py.HardLink):
            raise ValueError(f"{place} is missing or a link")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError(f"{name} is no dataset of this file")
    return dataset


def contiguous_dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """The dataset `name`, once all its values lie in one piece of this file.

    So reading it takes no more memory than the file is long.

    Raises:
        ValueError: when it is another kind of thing; in words that follow the file's name.
        OSError, TypeError: when the file is damaged.
    """
    dataset = own_dataset(file, name)
    if dataset.shape is None or dataset.dtype.hasobject:
        raise ValueError(f"{name} is no array of numbers")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    start = dataset.id.get_offset()
    if size and (start is None or start + size > file.id.get_filesize()):
        raise ValueError(f"{name} does not lie in this file in one piece")
    return dataset


def attribute(item: h5py.File | h5py.Dataset, name: str) -> Any:
    """An attribute of fixed size, None where there is none.

    Text of variable length counts as none: in a damaged file HDF5 may look for it forever.

    Raises:
        OSError, TypeError: when the file is damaged.
    """
    if name not in item.attrs:
        return None
    kind = item.attrs.get_id(name).dtype
    if kind.hasobject or kind.itemsize > _MAXIMUM_ATTRIBUTE:
        return None
    return item.attrs[name]
