"""What a process of a test runs; apart, so that it need not import what tests do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from faceguide.cache import FaceCache


def digest_of_rows(folder: str, columns: Sequence[str], seed: int, queue: Any) -> None:
    """Read all rows in an order of their own, and digest them in theirs."""
    cache = FaceCache.open(folder)
    rows = np.random.default_rng(seed).permutation(len(cache))
    found = cache.read(rows, columns)
    ordered = np.argsort(rows)
    queue.put(hashlib.sha256(b"".join(found[n][ordered].tobytes() for n in columns)).hexdigest())
