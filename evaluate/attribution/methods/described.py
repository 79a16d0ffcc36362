"""Rows of a cache as a matcher compares them, described in batches."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.faces.align import five_points
from faceguide.evaluate.attribution.methods.target import PairScore, Reference
from faceguide.evaluate.score.quick_forward import in_threads

BATCH = 16


def told(score: PairScore, cache: FaceCache, rows: NDArray[np.int64]) -> Reference:
    """What the network is told of rows of a cache besides their pixels: landmarks, or nothing."""
    if not score.needs_keypoints:
        return ()
    landmarks = cache.read(rows, ["landmarks"])["landmarks"]
    return (torch.from_numpy(five_points(landmarks).astype(np.float32)).to(score.device),)


def described(
    score: PairScore, cache: FaceCache, rows: NDArray[np.int64], workers: int, batch: int = BATCH
) -> Reference:
    """`PairScore.reference` of N rows.

    Args:
        workers: threads that each work at one batch.
    """
    quick = score.quick

    def one(worker: int, start: int) -> Reference:
        some = rows[start : start + batch]
        pixels = score.prepared(cache.read(some, ["image"])["image"])
        return quick.reference(pixels, *told(score, cache, some))

    parts = in_threads(one, range(0, len(rows), batch), range(workers))
    return tuple(map(torch.cat, zip(*parts, strict=True)))
