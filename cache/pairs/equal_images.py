"""Which rows of a cache hold the same picture."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache

_READ = 256  # pictures held at once


def pictures(cache: FaceCache, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) a number of the picture of each row; rows with equal pixels have equal numbers.

    Few pixels are read: equal pictures lie equally in their sources and have equal poses.

    Args:
        rows: (N,) rows, each once.
    """
    numbers = np.arange(len(rows))
    if not len(rows):
        return numbers
    facts = cache.read(rows, ["source_size", "transform", "pose"]).values()
    flat = [values.reshape(len(rows), -1).view(np.uint8) for values in facts]
    _, alike, counts = np.unique(
        np.concatenate(flat, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    left = np.flatnonzero(counts[alike.reshape(-1)] > 1)
    seen: dict[bytes, int] = {}
    for start in range(0, len(left), _READ):
        part = left[start : start + _READ]
        images = cache.read(rows[part], ["image"])["image"]
        for place, image in zip(part.tolist(), images, strict=True):
            numbers[place] = seen.setdefault(hashlib.blake2b(image.tobytes()).digest(), place)
    return numbers
