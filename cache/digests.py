"""Digests of rows: xxh3 over one column, or over the small columns of a row one behind another.

Fast enough to compare every row that is read: about the time of a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray


def row_digests(*columns: NDArray[Any]) -> NDArray[np.uint64]:
    """xxh3_64 of each row of the columns, one behind the other.

    Args:
        columns: (N, …) each.

    Returns:
        (N,).
    """
    flat = [
        np.ascontiguousarray(column).reshape(len(column), -1).view(np.uint8) for column in columns
    ]
    joined = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
    return piece_digests(joined)


def piece_digests(pieces: Sequence[Any] | NDArray[np.uint8]) -> NDArray[np.uint64]:
    """xxh3_64 of each piece of bytes, (N,)."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, pieces), np.uint64, len(pieces))


def bytes_digest(*parts: Any) -> str:
    """Hex xxh3_64 of bytes, one part behind the other."""
    found = xxhash.xxh3_64()
    for part in parts:
        found.update(part)
    return found.hexdigest()
