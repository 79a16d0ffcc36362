"""Datasets of a file that may come from anywhere, looked at without reading a value.

HDF5 can hold links to other files, and datasets whose values lie in other files.
"""

from __future__ import annotations

import h5py
import numpy as np


def open_dataset(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> h5py.Dataset:
    """The dataset `name`, once its values lie in this file and are of this shape and type.

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
