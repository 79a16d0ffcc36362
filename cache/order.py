"""The order of an epoch: which rows are which batch of which process, computed and never stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.permutation import permute
from faceguide.cache.volumes.mixture import Mixture
from faceguide.core.errors import CacheError

Shuffle = bool | Literal["blocks"]
Ragged = Literal["pad", "exact"]

BLOCK_ROWS = 64  # consecutive rows that shuffle="blocks" reads together
WINDOW_BLOCKS = 32  # blocks whose rows it mixes
_ORDERED_ROWS = 1 << 14  # rows whose order is computed at once


@dataclass(frozen=True)
class Order:
    """Which rows are batch `i` of an epoch: computed, never stored.

    Attributes:
        rows: (N,) row numbers of the cache.
        batch_size: rows of a batch on this rank.
        seed: key of the shuffle, together with the epoch.
        rank: this process, 0 … world−1; ranks get disjoint rows.
        shuffle: True, a new exact permutation each epoch; "blocks", runs of neighbouring rows
            mixed in windows, for caches beyond memory; False, the given order.
        ragged: "pad", every rank gets the same number of full batches, the first rows of the
            epoch repeat at its end; "exact", each row once, the last batch may be short.
        mixture: of several volumes by weight, with shuffle=True; an epoch has as many rows, of
            which some come more than once and others not at all.
    """

    rows: NDArray[np.int64]
    batch_size: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    shuffle: Shuffle = True
    ragged: Ragged = "pad"
    mixture: Mixture | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be in 0 … {self.world - 1}, got {self.rank}")
        if self.shuffle not in (True, False, "blocks"):
            raise ValueError(f'shuffle must be True, False or "blocks", got {self.shuffle!r}')
        if self.ragged not in ("pad", "exact"):
            raise ValueError(f'ragged must be "pad" or "exact", got {self.ragged!r}')
        if self.mixture is not None and self.shuffle is not True:
            raise ValueError("weights of volumes need shuffle=True")
        if len(self.rows) == 0:
            raise CacheError("no rows to stream: the filters leave none")

    @property
    def identity(self) -> dict[str, Any]:
        """What must be equal for batch `i` of all ranks together to hold the same rows.

        By how many ranks a batch is shared matters only where each has runs of rows of its own.
        """
        runs = {"processes": self.world} if self.shuffle == "blocks" else {}
        return {
            "order": str(self.shuffle),
            "rows": [len(self.rows), int(self.rows[0]), int(self.rows[-1])],
            "global_batch": self.batch_size * self.world,
            "seed": self.seed,
            "ragged": self.ragged,
            **runs,
            **({} if self.mixture is None else {"mixture": list(self.mixture.counts)}),
        }

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return -(-self._share() // self.batch_size)

    def batch(self, epoch: int, index: int) -> NDArray[np.int64]:
        return next(self.batches(epoch, index, index + 1))

    def batches(
        self, epoch: int, start: int = 0, stop: int | None = None
    ) -> Iterator[NDArray[np.int64]]:
        """Row numbers of the batches from `start` on, before `stop`.

        Many are computed at once: for a single batch the permutation takes longer than the
        gathering of its images.
        """
        stop = len(self) if stop is None else stop
        together = max(1, _ORDERED_ROWS // self.batch_size)
        for first in range(start, stop, together):
            rows = self._ordered(epoch, first, min(first + together, stop))
            yield from np.split(rows, range(self.batch_size, len(rows), self.batch_size))

    def _ordered(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """Row numbers of batches start … stop−1, one behind the other."""
        total = len(self.rows)
        inside = np.arange(start * self.batch_size, stop * self.batch_size)
        if self.ragged == "exact":
            inside = inside[inside < self._share()]
        if self.shuffle == "blocks":
            # Neighbouring rows stay on one rank, so that ranks do not read the same pages.
            place = inside + self._first()
        else:
            place = inside * self.world + self.rank
        place = place % total
        if self.shuffle is True:
            place = permute(place, total, (self.seed, epoch))
            if self.mixture is not None:
                return self.mixture.rows(place, self.seed, epoch)
        elif self.shuffle == "blocks":
            place = _blocks(place, total, (self.seed, epoch))
        return self.rows[place]

    def _share(self) -> int:
        """Rows of this rank in an epoch."""
        if self.ragged == "pad":
            batches = -(-len(self.rows) // (self.world * self.batch_size))
            return batches * self.batch_size
        if self.shuffle == "blocks":
            return self._first(self.rank + 1) - self._first()
        return len(range(self.rank, len(self.rows), self.world))

    def _first(self, rank: int | None = None) -> int:
        """First place of a rank under shuffle="blocks"."""
        rank = self.rank if rank is None else rank
        if self.ragged == "pad":
            return rank * self._share()
        return rank * len(self.rows) // self.world


def _blocks(place: NDArray[np.int64], total: int, key: tuple[int, int]) -> NDArray[np.int64]:
    """Mix rows within windows of blocks, and the order of the blocks over the epoch."""
    window_rows = BLOCK_ROWS * WINDOW_BLOCKS
    mixed = np.empty_like(place)
    for window in np.unique(place // window_rows):
        here = place // window_rows == window
        start = int(window) * window_rows
        length = min(window_rows, total - start)
        mixed[here] = start + permute(place[here] - start, length, (*key, int(window)))
    blocks = total // BLOCK_ROWS
    block, inside = np.divmod(mixed, BLOCK_ROWS)
    whole = block < blocks  # the last, shorter block keeps its place
    if blocks:
        block[whole] = permute(block[whole], blocks, key)
    return block * BLOCK_ROWS + inside
