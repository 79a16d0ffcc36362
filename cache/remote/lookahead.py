"""What a stream will need soon is said before it is needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

_ROWS = 1 << 15  # a few shards, when rows come in their order


def look_ahead(
    batches: Iterator[NDArray[np.int64]], needed_soon: Callable[[NDArray[np.int64]], None]
) -> Iterator[NDArray[np.int64]]:
    """The batches unchanged; each is announced thousands of rows before it comes out."""
    waiting: deque[NDArray[np.int64]] = deque()
    rows = 0
    for batch in batches:
        needed_soon(batch)
        waiting.append(batch)
        rows += len(batch)
        while rows > _ROWS:
            rows -= len(waiting[0])
            yield waiting.popleft()
    yield from waiting
