"""Pairs of rows: read from a list, and verified while training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache.pairs.pair_doubts import pair_doubts
from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.pairs.pair_rows import resolve
from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands.console import say
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import TrainError
from faceguide.core.files import digest
from faceguide.evaluate.metrics.roc import best_accuracy, measure, rank
from faceguide.train.run.training_data import cache_hash
from faceguide.train.training_settings import Verification


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows of one cache.

    Attributes:
        first: (P,) int64 rows.
        second: (P,) int64 rows.
        same: (P,) bool, one identity.
    """

    cache: FaceCache
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    doubts: Doubts = field(default_factory=Doubts)

    def key(self) -> str:
        """Names these pairs of this cache: scores over others are not compared with theirs."""
        content = hashlib.sha256()
        for column in (self.first, self.second, self.same):
            content.update(np.ascontiguousarray(column).tobytes())
        return digest([cache_hash(self.cache), content.hexdigest()])

    def within(self, rows: NDArray[np.int64], speak: bool) -> Pairs:
        """The pairs of which both images are among these rows.

        Raises:
            TrainError: when there are none.
        """
        both = np.isin(self.first, rows) & np.isin(self.second, rows)
        if not both.any():
            raise TrainError(
                f"--contrastive-pairs: none of its {len(both)} pairs has both images among those "
                "that are learnt; loosen --meta and --min-images, or choose another "
                "--contrastive-split"
            )
        if speak and not both.all():
            say(
                f"Note: {int((~both).sum())} of {len(both)} pairs of --contrastive-pairs are left "
                "out: an image is not among those that are learnt"
            )
        return Pairs(self.cache, self.first[both], self.second[both], self.same[both], self.doubts)


def verification_pairs(cache: FaceCache, asked: Verification, speak: bool) -> Pairs | None:
    """The pairs of --pairs, or None.

    Raises:
        TrainError: as `pairs_of`, or when all pairs are of one kind.
    """
    if asked.pairs is None:
        return None
    where = FaceCache.open(asked.eval_cache) if asked.eval_cache else cache
    pairs, further = pairs_of(where, asked.pairs, asked.pairs_split, speak)
    genuine = int(pairs.same.sum())
    if genuine in (0, len(pairs.same)):
        raise TrainError(
            f"{asked.pairs}: expected pairs of one identity and of two, found {genuine} of one and "
            f"{len(pairs.same) - genuine} of two that the cache has{further}"
        )
    return pairs


def pairs_of(cache: FaceCache, path: Path, split: str | None, speak: bool) -> tuple[Pairs, str]:
    """Pairs of a file as rows of the cache; those that it lacks are reported.

    Returns:
        The pairs, and the end of a message: how many are left out, and why the first is.

    Raises:
        TrainError: when no pair has both images in the cache; names the first that is missing.
    """
    listed = read_pairs(path, split)
    found = resolve(cache, listed)
    further = ""
    if found.left_out:
        first = found.left_out[0].reason
        if not len(found):
            raise TrainError(
                f"{path}: none of its {found.listed} pairs has both images in {cache.directory}; "
                f"the first: {first}"
            )
        further = (
            f"{len(found.left_out)} of {found.listed} pairs of {path} are left out; the first: "
            f"{first}"
        )
        if speak:
            say(f"Note: {further}")
        further = f"; {further}"
    doubts = pair_doubts(cache, listed, found).doubts
    return Pairs(cache, found.probe, found.reference, found.same, doubts), further


def verify(
    pairs: Pairs,
    describe: Callable[[dict[str, Tensor]], Tensor],
    *,
    columns: tuple[str, ...] = ("image",),
    batch_size: int,
    device: torch.device,
) -> dict[str, float]:
    """Area under the ROC and accuracy of the cosine.

    Args:
        describe: a batch of B faces → (B, D) features of length 1.
        columns: that it needs of them.

    Returns:
        `auc`, 0 to 1; `accuracy` at the threshold that suits these very pairs best, so a little
        optimistic; `score`, the AUC, which chooses the best checkpoint. All are NaN when the
        features of a face are not finite.
    """
    rows, places = np.unique(np.stack([pairs.first, pairs.second]), return_inverse=True)
    stream = Stream(
        pairs.cache, rows, columns=columns, batch_size=batch_size, shuffle=False,
        ragged="exact", device=device,
    )  # fmt: skip
    features = torch.cat([describe(batch).float().cpu() for batch in stream])
    finite = torch.isfinite(features).all(1).numpy()
    if not finite.all():
        key = pairs.cache.texts("key", rows[~finite][:1])[0]
        say(f"Warning: {pairs.cache.directory}: the features of {key} are not finite")
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
