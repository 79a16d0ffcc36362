"""Which rows make a batch: K images of P persons, persons that are alike, veiled and clean faces.

Every sampler is an iterable of row lists for `Stream(batches=…)`, depends on the seed, the epoch
and the rank alone, and gives each rank the same number of batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from faceguide.cache.stream import Order
from faceguide.core.errors import TrainError
from faceguide.core.formats.container import read_arrays, write_arrays

Rows = NDArray[np.int64]


def _groups(rows: Rows, labels: Rows, images: int, rng: np.random.Generator) -> tuple[Rows, Rows]:
    """Rows of every person in a new order, in groups of `images`.

    A person's last group is filled up from its first images, so that each image is in at least
    one group. Returns groups (M, images) and the person of each (M,), persons in order.
    """
    order = np.lexsort((rng.random(len(rows)), labels))
    people, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    groups = -(-count // images)
    person = np.repeat(np.arange(len(people)), groups)
    inside = np.arange(len(person)) - np.repeat(np.cumsum(groups) - groups, groups)
    place = (inside[:, None] * images + np.arange(images)) % count[person][:, None]
    return rows[order[start[person][:, None] + place]], people[person]


def _check(rows: Rows, labels: Rows, batch_size: int, images: int) -> int:
    """Persons per batch, or a TrainError."""
    people = len(np.unique(labels))
    per_batch = batch_size // images
    if images < 2 or batch_size % images or per_batch < 2 or people < 2:
        raise TrainError(
            f"a batch of {batch_size} rows of {images} images each from {people} persons cannot "
            "be made: --batch-size must be a multiple of --images-per-person (2 or more) with "
            "room for two persons"
        )
    return per_batch


@dataclass
class PersonBatches:
    """PK batches: P persons with K images each; every image is used once or more per epoch.

    Args:
        rows: (N,) rows of the cache.
        labels: (N,) their persons.
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
        self._people = _check(self.rows, self.labels, self.batch_size, self.images)
        count = np.unique(self.labels, return_counts=True)[1]
        self._groups = int((-(-count // self.images)).sum())

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._groups // (self._people * self.world))

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self._epoch])
        groups, _ = _groups(self.rows, self.labels, self.images, rng)
        order = rng.permutation(len(groups))
        for batch in range(len(self)):
            first = (batch * self.world + self.rank) * self._people
            # The last batch goes on with the first groups.
            chosen = order[np.arange(first, first + self._people) % len(order)]
            yield groups[chosen].ravel().tolist()


@dataclass
class GraphBatches:
    """Persons together with those whom the matcher confuses with them.

    Source: Liao and Shao, "Graph Sampling Based Deep Metric Learning for Generalizable Person
    Re-Identification", CVPR 2022. At the start of an epoch one image per person is compared with
    those of all others; each person then makes a batch with its nearest ones.

    Args:
        rows, labels, batch_size, images, seed, rank, world: as in `PersonBatches`.
        similarity: (C,) rows, one per person → (C, C) scores, higher = more alike.
        keep: file that holds the neighbours of the present epoch, so that a run that goes on in
            the middle of it has the same batches.
    """

    rows: Rows
    labels: Rows
    batch_size: int
    similarity: Callable[[Rows], NDArray[np.float32]]
    keep: Path
    images: int = 4
    seed: int = 0
    rank: int = 0
    world: int = 1
    _epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._per_batch = _check(self.rows, self.labels, self.batch_size, self.images)
        self._people = np.unique(self.labels)
        if len(self._people) < self._per_batch:
            raise TrainError(
                f"the graph sampler needs at least {self._per_batch} persons for a batch, found "
                f"{len(self._people)}; lower --batch-size"
            )

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._people) // self.world)

    def neighbours(self) -> Rows:
        """(C, P): every person and its P − 1 nearest, as positions among the sorted persons."""
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
        remedy = "remove it to compare the persons anew, which changes the rest of this epoch"
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
            # Each time a person comes up, its next group of images.
            rows = groups[start[chosen] + turn[chosen] % count[chosen]]
            turn[chosen] += 1
            if batch % self.world == self.rank:
                yield rows.ravel().tolist()


@dataclass
class VeiledBatches:
    """Covered faces and wholly visible ones, in a fixed proportion.

    The covered ones pass through an epoch once, the clean ones go round as often as they must.

    Args:
        veiled: (N,) rows of the cache.
        clean: (M,) rows; may be empty, and then all are covered ones.
        batch_size: of a batch on this rank.
        clean_share: of a batch, 0 to 1.
        seed, rank, world: see `Order`.
    """

    veiled: Rows
    clean: Rows
    batch_size: int
    clean_share: float = 0.2
    seed: int = 0
    rank: int = 0
    world: int = 1
    _epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.clean_share < 1.0:
            raise TrainError(f"--clean-share must be from 0 to below 1, found {self.clean_share}")
        clean = round(self.batch_size * self.clean_share) if len(self.clean) else 0
        clean = min(clean, self.batch_size - 1)
        if not len(self.veiled):
            raise TrainError("no covered face with a known mask; `prep masks` makes them known")
        shared = (self.seed, self.rank, self.world)
        self._veiled = Order(self.veiled, self.batch_size - clean, *shared)
        self._clean = Order(self.clean, clean, *shared) if clean else None

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._veiled)

    def __iter__(self) -> Iterator[list[int]]:
        for index in range(len(self)):
            rows = self._veiled.batch(self._epoch, index)
            if self._clean is not None:
                # Rounds of the clean faces go on over epochs.
                turn, inside = divmod(self._epoch * len(self) + index, len(self._clean))
                rows = np.concatenate([rows, self._clean.batch(turn, inside)])
            yield rows.tolist()
