"""Verification on pairs while training: is one person told from two?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.train.errors import TrainError


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows of one cache.

    Attributes:
        first: (P,) int64 rows.
        second: (P,) int64 rows.
        same: (P,) bool, one person.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


def embed(
    cache: FaceCache,
    rows: NDArray[np.int64],
    describe: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    device: torch.device,
) -> Tensor:
    """Features of rows.

    Args:
        cache: where the images are.
        rows: (N,) rows.
        describe: (B, S, S, 3) uint8 → (B, D).
        batch_size: images at a time.
        device: where `describe` works.

    Returns:
        (N, D) float32 on the CPU, in the order of `rows`.
    """
    stream = Stream(
        cache, rows, columns=("image",), batch_size=batch_size, shuffle=False, ragged="exact",
        device=device,
    )  # fmt: skip
    return torch.cat([describe(batch["image"]).float().cpu() for batch in stream])


def verify(
    cache: FaceCache,
    pairs: Pairs,
    describe: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    device: torch.device,
) -> dict[str, float]:
    """Area under the ROC and accuracy of the cosine.

    Args: as `embed`; `describe` gives features of length 1.

    Returns:
        `auc`, 0 to 1; `accuracy` at the threshold that suits these very pairs best, so a little
        optimistic; `score`, the AUC, which chooses the best checkpoint.

    Raises:
        TrainError: when there are not both kinds of pairs.
    """
    if pairs.same.all() or not pairs.same.any():
        raise TrainError(
            f"--pairs: expected pairs of one person and of two, found {int(pairs.same.sum())} of "
            f"one and {int((~pairs.same).sum())} of two that the cache has"
        )
    rows, places = np.unique(np.stack([pairs.first, pairs.second]), return_inverse=True)
    features = embed(cache, rows, describe, batch_size=batch_size, device=device)
    first, second = torch.from_numpy(places.reshape(2, -1))
    cosine = torch.cat(
        [
            (features[a] * features[b]).sum(1)
            for a, b in zip(first.split(1024), second.split(1024), strict=True)
        ]
    )
    auc, accuracy = separation(cosine.double().numpy(), pairs.same)
    return {"score": auc, "auc": auc, "accuracy": accuracy}


def separation(scores: NDArray[np.float64], same: NDArray[np.bool_]) -> tuple[float, float]:
    """Area under the ROC (ties count half), and the accuracy at the best threshold.

    Args:
        scores: (P,) finite.
        same: (P,) bool, with both kinds.
    """
    values, level = np.unique(scores, return_inverse=True)
    genuine = np.bincount(level[same], minlength=len(values))
    impostor = np.bincount(level[~same], minlength=len(values))
    below = np.cumsum(impostor) - impostor
    auc = float((genuine * (below + impostor / 2)).sum() / (genuine.sum() * impostor.sum()))
    # Accept from each distinct score on, or nothing at all.
    accepted = np.append(np.cumsum(genuine[::-1])[::-1], 0)
    refused = np.append(below, impostor.sum())
    return auc, float((accepted + refused).max() / len(scores))
