"""Batches that hold listed pairs (twins, hard negatives) beside ordinary rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.stream import Order
from faceguide.core.errors import TrainError


@dataclass
class PairBatches:
    """Row lists for `Stream(batches=…)`: ordinary rows first, then both images of some pairs.

    The ordinary rows pass through an epoch once; the pairs go round as often as they must, each
    round in another order.

    Args:
        rows: (N,) rows to train on.
        first: (P,) rows.
        second: (P,) rows.
        batch_size: of a batch on this rank.
        pairs: of a batch on this rank.
        seed, rank, world: see `Order`.
    """

    rows: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    batch_size: int
    pairs: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    _epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        ordinary = self.batch_size - 2 * self.pairs
        if self.pairs < 1 or ordinary < 1 or not len(self.first):
            raise TrainError(
                f"a batch of {self.batch_size} with {self.pairs} of {len(self.first)} listed pairs "
                "cannot be made; raise --batch-size or choose another --contrastive-pairs"
            )
        self._plain = Order(self.rows, ordinary, self.seed, self.rank, self.world)
        numbers = np.arange(len(self.first))
        self._listed = Order(numbers, self.pairs, self.seed + 1, self.rank, self.world)

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._plain)

    def __iter__(self) -> Iterator[list[int]]:
        for index in range(len(self)):
            plain = self._plain.batch(self._epoch, index)
            # Rounds of the pairs go on over epochs.
            round_, inside = divmod(self._epoch * len(self) + index, len(self._listed))
            chosen = self._listed.batch(round_, inside)
            yield np.concatenate([plain, self.first[chosen], self.second[chosen]]).tolist()
