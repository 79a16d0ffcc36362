"""Keys that stand in more than one volume of a union, so that a list cannot mean one of them."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import piece_digests
from faceguide.core.commands.doubts import Doubts


def shared_keys(cache: FaceCache) -> Doubts:
    """How many keys several volumes have, and the first of them; holds eight bytes of each key."""
    blocks = [_hashes(cache.texts("key", rows)) for _, rows in cache.blocks()]
    every = np.concatenate(blocks)
    order = np.argsort(every, kind="stable")
    later = order[1:][np.diff(every[order]) == 0]  # of equal keys, all but the first
    doubts = Doubts()
    if len(later):
        doubts.add("shared_keys", repr(cache.texts("key", later.min(keepdims=True))[0]), len(later))
    return doubts


def _hashes(keys: list[str]) -> NDArray[np.uint64]:
    return piece_digests([os.fsencode(key) for key in keys])
