"""Which rows make a batch: K images of P identities, similar identities, or two kinds of rows.

Every sampler is an iterable of row lists for `Stream(batches=…)`, depends on the seed, the epoch
and the rank only, and gives each rank the same number of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from faceguide.cache.order import Order
from faceguide.core.errors import TrainError
from faceguide.core.formats.container import read_arrays, write_arrays

Rows = NDArray[np.int64]


def _groups(rows: Rows, labels: Rows, images: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Rows of every identity in a new order, in groups of `images`.

    An identity's last group is filled up from its first images, so that each image is in at least
    one group. Returns groups (M, images) and the identity of each (M,), in increasing
    order.
    """
    order = np.lexsort((rng.random(len(rows)), labels))
    people, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    groups = -(-count // images)
    person = np.repeat(np.arange(len(people)), groups)
    inside = np.arange(len(person)) - np.repeat(np.cumsum(groups) - groups, groups)
    place = (inside[:, None] * images + np.arange(images)) % count[person][:, None]
    return rows[order[start[person][:, None] + place]], people[person]


@dataclass
class _Grouped:
    """What makes batches of P identities with K images each.

    Args:
        rows: (N,) rows of the cache.
        labels: (N,) their identities.
        batch_size: P · K, on this rank.
        images: K.
        seed, rank, world: see `Order`.
    """

    rows: Rows
    labels: Rows
    batch_size: int
    images: int = 4
    seed: int = 0
    rank: int = 0
    world: int = 1
    _epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._people, self._counts = np.unique(self.labels, return_counts=True)
        self._per_batch = self.batch_size // self.images
        if (
            self.images < 2
            or self.batch_size % self.images
            or self._per_batch < 2
            or len(self._people) < 2
        ):
            raise TrainError(
                f"a batch of {self.batch_size} rows of {self.images} images each from "
                f"{len(self._people)} identities cannot be made: --batch-size must be a multiple "
                "of --images-per-person (2 or more) with room for two identities"
            )

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    @property
    def identity(self) -> dict[str, Any]:
        """As `Order.identity`: batches of all ranks together are groups in one order."""
        return {
            "sampler": type(self).__name__,
            "rows": [len(self.rows), int(self.rows[0]), int(self.rows[-1])],
            "global_batch": self.batch_size * self.world,
            "images": self.images,
            "seed": self.seed,
        }


@dataclass
class PersonBatches(_Grouped):
    """PK batches: P identities with K images each; every image is used once or more per epoch."""

    def __len__(self) -> int:
        groups = int((-(-self._counts // self.images)).sum())
        return -(-groups // (self._per_batch * self.world))

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self._epoch])
        groups, _ = _groups(self.rows, self.labels, self.images, rng)
        order = rng.permutation(len(groups))
        for batch in range(len(self)):
            first = (batch * self.world + self.rank) * self._per_batch
            # The last batch is filled up with the first groups.
            chosen = order[np.arange(first, first + self._per_batch) % len(order)]
            yield groups[chosen].ravel().tolist()


@dataclass(kw_only=True)
class GraphBatches(_Grouped):
    """Identities together with those that the matcher confuses with them.

    Source: Liao and Shao, "Graph Sampling Based Deep Metric Learning for Generalizable Person
    Re-Identification", CVPR 2022. At the start of an epoch one image per identity is compared with
    those of all others; each identity then makes a batch with its nearest ones.

    Args:
        similarity: (C,) rows, one per identity → (C, C) scores, higher = more alike.
        keep: file that holds the neighbours of the present epoch, so that a run that is resumed
            in the middle of it has the same batches.
    """

    similarity: Callable[[Rows], NDArray[np.float32]]
    keep: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self._people) < self._per_batch:
            raise TrainError(
                f"the graph sampler needs at least {self._per_batch} identities for a batch, found "
                f"{len(self._people)}; lower --batch-size"
            )

    def __len__(self) -> int:
        return -(-len(self._people) // self.world)

    @property
    def identity(self) -> dict[str, Any]:
        """A batch is one identity with its neighbours, so the number of ranks counts."""
        return {**super().identity, "processes": self.world}

    def neighbours(self) -> Rows:
        """(C, P): every identity and its P − 1 nearest, as positions among the sorted ones."""
        nearest = np.zeros((len(self._people), self._per_batch), np.int64)
        if self.rank == 0:
            nearest = self._kept()
            if not len(nearest):
                nearest = self._compared()
                when = {"epoch": str(self._epoch), "seed": str(self.seed)}
                write_arrays(self.keep, {"neighbours": nearest}, when)
        if self.world > 1:
            shared = torch.from_numpy(nearest)
            if dist.get_backend() == "nccl":
                shared = shared.cuda()
            dist.broadcast(shared, 0)
            nearest = shared.cpu().numpy()
        return nearest

    def _kept(self) -> Rows:
        """The neighbours in the file, if they are of this epoch; else none."""
        remedy = "remove it to compare the identities newly, which changes the rest of this epoch"
        if self.keep.exists():
            kept = read_arrays(self.keep, remedy, ["neighbours"])
            if kept.about == {"epoch": str(self._epoch), "seed": str(self.seed)}:
                return np.array(kept.arrays["neighbours"])
        return np.empty((0, self._per_batch), np.int64)

    def _compared(self) -> Rows:
        rng = np.random.default_rng([self.seed, self._epoch, 1])
        order = np.lexsort((rng.random(len(self.rows)), self.labels))
        one_each = order[np.unique(self.labels[order], return_index=True)[1]]
        scores = self.similarity(self.rows[one_each]).copy()
        np.fill_diagonal(scores, np.inf)
        nearest: Rows = np.argsort(-scores, axis=1, kind="stable")[:, : self._per_batch]
        return nearest

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self._epoch])
        nearest = self.neighbours()
        groups, person = _groups(self.rows, self.labels, self.images, rng)
        start = np.searchsorted(person, self._people)
        count = np.bincount(np.searchsorted(self._people, person), minlength=len(self._people))
        turn = np.zeros(len(self._people), np.int64)
        anchors = rng.permutation(len(self._people))
        for batch in range(len(self) * self.world):
            chosen = nearest[anchors[batch % len(anchors)]]
            # Each time an identity comes up, its next group of images.
            rows = groups[start[chosen] + turn[chosen] % count[chosen]]
            turn[chosen] += 1
            if batch % self.world == self.rank:
                yield rows.ravel().tolist()


@dataclass
class MixedBatches:
    """Rows that pass through an epoch once, and behind them in each batch others that go round.

    Args:
        main: the order of the rows; it decides the length of an epoch.
        turns: the order of places in `others`, whose rounds run on over epochs; None = no others.
        others: (M, k) rows, k for each place: all first ones of a batch, then all second ones.
    """

    main: Order
    turns: Order | None
    others: Rows
    _epoch: int = field(default=0, init=False)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    @property
    def identity(self) -> dict[str, Any]:
        """Those of its parts; rows of a batch on all ranks together."""
        turns = {} if self.turns is None else self.turns.identity
        total = self.main.identity["global_batch"]
        total += turns.get("global_batch", 0) * self.others.shape[1]
        return {"global_batch": total, "main": self.main.identity, "others": turns}

    def __len__(self) -> int:
        return len(self.main)

    def __iter__(self) -> Iterator[list[int]]:
        for index in range(len(self)):
            rows = self.main.batch(self._epoch, index)
            if self.turns is not None:
                turn, inside = divmod(self._epoch * len(self) + index, len(self.turns))
                chosen = self.turns.batch(turn, inside)
                rows = np.concatenate([rows, self.others[chosen].T.ravel()])
            yield rows.tolist()
