"""Verification on pairs while training: is one person told from two?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands.console import say
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import TrainError
from faceguide.core.files import digest
from faceguide.evaluate.metrics.roc import best_accuracy, measure, rank
from faceguide.train.run.training_data import cache_hash


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows of one cache.

    Attributes:
        first: (P,) int64 rows.
        second: (P,) int64 rows.
        same: (P,) bool, one person.
        doubts: what looks wrong about their list.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    doubts: Doubts = field(default_factory=Doubts)

    def key(self, cache: FaceCache) -> str:
        """Names these pairs of this cache: scores over others are not compared with theirs."""
        content = hashlib.sha256()
        for column in (self.first, self.second, self.same):
            content.update(np.ascontiguousarray(column).tobytes())
        return digest([cache_hash(cache), content.hexdigest()])

    def require_both_kinds(self, where: str = "--pairs", further: str = "") -> None:
        """There are pairs of one identity and pairs of two.

        Args:
            where: the list, for the message.
            further: its end.

        Raises:
            TrainError: when one kind is missing.
        """
        genuine = int(self.same.sum())
        impostors = len(self.same) - genuine
        if not genuine or not impostors:
            raise TrainError(
                f"{where}: expected pairs of one identity and of two, found {genuine} of one and "
                f"{impostors} of two that the cache has{further}"
            )


def verify(
    cache: FaceCache,
    pairs: Pairs,
    describe: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    device: torch.device,
) -> dict[str, float]:
    """Area under the ROC and accuracy of the cosine.

    Args:
        cache: where the images are.
        pairs: of its rows.
        describe: (B, S, S, 3) uint8 → (B, D) features of length 1.
        batch_size: images at a time.
        device: where `describe` works.

    Returns:
        `auc`, 0 to 1; `accuracy` at the threshold that suits these very pairs best, so a little
        optimistic; `score`, the AUC, which chooses the best checkpoint.

        All are NaN when the features of a face are not finite.

    Raises:
        TrainError: when there are not both kinds of pairs.
    """
    pairs.require_both_kinds()
    rows, places = np.unique(np.stack([pairs.first, pairs.second]), return_inverse=True)
    stream = Stream(
        cache, rows, columns=("image",), batch_size=batch_size, shuffle=False, ragged="exact",
        device=device,
    )  # fmt: skip
    features = torch.cat([describe(batch["image"]).float().cpu() for batch in stream])
    finite = torch.isfinite(features).all(1).numpy()
    if not finite.all():
        key = cache.texts("key", rows[~finite][:1])[0]
        say(f"Warning: {cache.directory}: the features of {key} are not finite")
        return dict.fromkeys(("score", "auc", "accuracy"), float("nan"))
    first, second = torch.from_numpy(places.reshape(2, -1))
    cosine = torch.cat(
        [
            (features[a] * features[b]).sum(1)
            for a, b in zip(first.split(1024), second.split(1024), strict=True)
        ]
    )
    ranking = rank(cosine.double().numpy(), pairs.same)
    auc = measure(ranking).auc
    return {"score": auc, "auc": auc, "accuracy": best_accuracy(ranking)}
