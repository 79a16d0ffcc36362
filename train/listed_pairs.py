"""Pairs of rows: read from a list, and verified while training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache.pairs.name_rows import find_rows
from faceguide.cache.pairs.pair_doubts import pair_doubts
from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.pairs.pair_rows import resolve
from faceguide.cache.pairs.twin_lists import TRAIN, VALIDATION, is_twin_list, read_twins
from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands.console import say
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import TrainError
from faceguide.core.files import digest
from faceguide.evaluate.metrics.roc import best_accuracy, measure, rank
from faceguide.train.run.training_data import cache_hash
from faceguide.train.training_settings import Verification

if TYPE_CHECKING:
    from faceguide.train.cal.cal_settings import ContrastiveList


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
    split = asked.pairs_split or _split_of(asked.pairs, VALIDATION)
    pairs, further = pairs_of(where, asked.pairs, split, speak)
    genuine = int(pairs.same.sum())
    if genuine in (0, len(pairs.same)):
        raise TrainError(
            f"{asked.pairs}: expected pairs of one identity and of two, found {genuine} of one and "
            f"{len(pairs.same) - genuine} of two that the cache has{further}"
        )
    return pairs


def twins_to_learn(cache: FaceCache, asked: Verification, speak: bool) -> NDArray[np.int64] | None:
    """Rows of the training split of an ND-TWIN list; None = all rows may be learnt.

    So weights are never learnt from identities that choose or test them.

    Raises:
        TrainError: when weights would be chosen on the split that is learnt, or the cache has none
            of it.
    """
    if asked.pairs is None or asked.allow_leak or _split_of(asked.pairs, TRAIN) is None:
        return None
    twins = read_twins(asked.pairs)
    if asked.pairs_split == TRAIN:
        raise TrainError(
            f"--pairs-split {TRAIN}: weights would be chosen on identities that are learnt; choose "
            f"another split, or --allow-leak"
        )
    names = [name for name, split in twins.split_of().items() if split == TRAIN]
    found = find_rows(cache, (image for name in names for image in twins.images[name]))
    rows = np.array(sorted({row for row in found.values() if isinstance(row, int)}), np.int64)
    if not len(rows):
        raise TrainError(
            f"{asked.pairs}: {cache.directory} has no image of its split {TRAIN}; give the cache "
            "of that set, or --allow-leak to learn what the cache has"
        )
    if speak:
        say(f"Learning split {TRAIN} of {asked.pairs}: {len(names)} identities, {len(rows)} images")
    return rows


def contrastive_pairs(
    cache: FaceCache, wanted: ContrastiveList, asked: Verification, speak: bool
) -> Pairs | None:
    """The pairs that contrastive guidance is given; None = those of a batch.

    Raises:
        TrainError: as `pairs_of`, or when they are of a split that is not learnt.
    """
    path = wanted.contrastive_pairs
    if path is None:
        if asked.allow_leak or asked.pairs is None or _split_of(asked.pairs, TRAIN) is None:
            return None
        path = asked.pairs
    learnt = _split_of(path, TRAIN)
    split = wanted.contrastive_split or learnt
    if learnt and split != learnt and not asked.allow_leak:
        raise TrainError(
            f"--contrastive-split {split}: only split {TRAIN} of {path} is learnt; leave it out, "
            "or --allow-leak"
        )
    return pairs_of(cache, path, split, speak)[0]


def _split_of(path: Path, wanted: str) -> str | None:
    """The name of a split, if the list is ND-TWIN's and has it."""
    there = is_twin_list(path) and read_twins(path).splits.get(wanted)
    return wanted if there else None


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
