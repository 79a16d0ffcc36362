"""Stream: batches of cached rows, in an exact and repeatable order, gathered ahead by threads.

Threads, not processes: `numpy.take` and the JPEG decoder release the interpreter, and a worker
process would spend more on handing a batch over than on gathering it (docs/formats.md).
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.permutation import permute
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import Column
from faceguide.core.errors import CacheError

Shuffle = bool | Literal["blocks"]
Ragged = Literal["pad", "exact"]
Transform = Callable[[dict[str, torch.Tensor], int], dict[str, torch.Tensor]]

BLOCK_ROWS = 64  # consecutive rows that shuffle="blocks" reads together
WINDOW_BLOCKS = 32  # blocks whose rows it mixes
_ALIGNMENT = 64  # bytes: a column begins at a cache line
_ORDERED_ROWS = 1 << 14  # rows whose order is computed at once


@dataclass(frozen=True)
class Order:
    """Which rows are batch `i` of an epoch: computed, never stored.

    Attributes:
        rows: (N,) row numbers of the cache.
        batch_size: rows of a batch on this rank.
        seed: key of the shuffle, together with the epoch.
        rank: this process, 0 … world−1; ranks get disjoint rows.
        world: number of processes.
        shuffle: True, a new exact permutation each epoch; "blocks", runs of neighbouring rows
            mixed in windows, for caches beyond memory; False, the given order.
        ragged: "pad", every rank gets the same number of full batches, the first rows of the
            epoch repeat at its end; "exact", each row once, the last batch may be short.
    """

    rows: NDArray[np.int64]
    batch_size: int
    seed: int = 0
    rank: int = 0
    world: int = 1
    shuffle: Shuffle = True
    ragged: Ragged = "pad"

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if not 0 <= self.rank < self.world:
            raise ValueError(f"rank must be in 0 … {self.world - 1}, got {self.rank}")
        if self.shuffle not in (True, False, "blocks"):
            raise ValueError(f'shuffle must be True, False or "blocks", got {self.shuffle!r}')
        if self.ragged not in ("pad", "exact"):
            raise ValueError(f'ragged must be "pad" or "exact", got {self.ragged!r}')
        if len(self.rows) == 0:
            raise CacheError("no rows to stream: the filters leave none")

    def __len__(self) -> int:
        """Batches of this rank in an epoch."""
        return -(-self._share() // self.batch_size)

    def batch(self, epoch: int, index: int) -> NDArray[np.int64]:
        """Row numbers of one batch."""
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


class Stream:
    """Batches of a cache as dicts of torch tensors.

    Iterating delivers the rest of the current epoch; the next iteration is the next epoch. A
    batch lends the ring's memory until the next one is asked for; `copy=True` gives tensors to
    keep. Every batch has `row`, (B,) int64, besides the columns asked for.

    Args:
        rows: (N,) row numbers, such as `cache.select()`; None with `batches`.
        columns: column names, e.g. ("image", "regions", "label").
        batch_size: rows of a batch on this rank.
        seed, rank, world, shuffle, ragged: see `Order`.
        batches: your own order instead: row lists, one per batch, only for this rank. It is
            iterated once per epoch (after `set_epoch(epoch)`, if it has that method).
        threads: batches gathered at the same time, ahead of the caller.
        depth: finished batches held ready.
        copy: deliver tensors that stay valid.
        check: compare what is delivered with its digests.
        device: a CUDA device gets the batch copied to it; the copy has finished before its
            memory is reused.
        transform: (batch, epoch) → batch, run in the threads before the copy to a device. It must
            depend on nothing else, and may write into the tensors or leave some out.
        state: what `state()` returned: resume exactly there.

    Raises:
        CacheError: for columns the cache lacks, no rows, or a state of another stream.
    """

    def __init__(
        self,
        cache: FaceCache,
        rows: NDArray[np.int64] | Sequence[int] | None = None,
        *,
        columns: Sequence[str] = ("image", "label"),
        batch_size: int = 256,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: Shuffle = True,
        ragged: Ragged = "pad",
        batches: Iterable[Sequence[int]] | None = None,
        threads: int = 2,
        depth: int = 2,
        copy: bool = False,
        check: bool = True,
        device: torch.device | str | None = None,
        transform: Transform | None = None,
        state: dict[str, Any] | None = None,
    ) -> None:
        if (rows is None) == (batches is None):
            raise ValueError("give either rows or batches")
        if threads < 1 or depth < 1:
            raise ValueError("threads and depth must be at least 1")
        self.cache = cache
        self.columns = tuple(columns)
        for name in self.columns:
            cache.require(name)
        self._batches = batches
        self._order = (
            Order(cache.check_rows(rows), batch_size, seed, rank, world, shuffle, ragged)
            if rows is not None
            else None
        )
        self._threads, self._depth = threads, depth
        self._copy, self._check, self._transform = copy, check, transform
        self._device = torch.device(device) if device is not None else None
        self._pinned = self._device is not None and self._device.type == "cuda"
        self._slots: list[_Slot] = []
        self._epoch, self._delivered = 0, 0
        if state is not None:
            self.resume(state)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._epoch

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        if self._order is not None:
            return len(self._order)
        return len(self._batches)  # type: ignore[arg-type]

    def state(self) -> dict[str, Any]:
        """Where the stream stands, for a checkpoint: batches delivered, not those prefetched."""
        epoch, batch = self._epoch, self._delivered
        if self._order is not None and batch == len(self._order):
            epoch, batch = epoch + 1, 0  # the last batch is out, though no more was asked for
        return {"epoch": epoch, "batch": batch, **self._identity()}

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a state to mean the same batches."""
        if self._order is None:
            return {"order": "batches"}
        order = self._order
        ends = [int(order.rows[0]), int(order.rows[-1])]
        return {
            "order": str(order.shuffle),
            "rows": [len(order.rows), *ends],
            "batch_size": order.batch_size,
            "seed": order.seed,
            "world": order.world,
            "ragged": order.ragged,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state()` was asked for.

        Raises:
            CacheError: for a state of another stream.
        """
        ours = self._identity()
        different = [name for name in ours if state.get(name) != ours[name]]
        if different:
            listed = ", ".join(f"{name} {state.get(name)} → {ours[name]}" for name in different)
            raise CacheError(f"the stream's state is of another stream: {listed}")
        self._epoch, self._delivered = int(state["epoch"]), int(state["batch"])

    def _plan(self, epoch: int, start: int) -> Iterator[NDArray[np.int64]]:
        """Row numbers of the batches of an epoch from batch `start` on."""
        if self._order is not None:
            return self._order.batches(epoch, start)
        assert self._batches is not None
        if hasattr(self._batches, "set_epoch"):
            self._batches.set_epoch(epoch)
        return (
            self.cache.check_rows(rows) for rows in itertools.islice(self._batches, start, None)
        )

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        # The memory outlives the epoch: fresh pages cost more than the rows copied into them.
        slots, self._slots = self._slots, []
        slots = slots or [
            _Slot(self.cache, self.columns, self._pinned)
            for _ in range(self._depth + self._threads)  # few: they share the processor's cache
        ]
        ring = deque(slots)
        pending: deque[tuple[Future[None], _Slot]] = deque()
        plan = self._plan(self._epoch, self._delivered)
        pool = ThreadPoolExecutor(self._threads, "faceguide-stream")
        try:
            while True:
                while ring:  # without the caller's slot: it comes back when the next is asked for
                    rows = next(plan, None)
                    if rows is None:
                        break
                    slot = ring.popleft()
                    future = pool.submit(slot.fill, rows, self._check, self._transform, self._epoch)
                    pending.append((future, slot))
                if not pending:
                    break
                future, slot = pending.popleft()
                future.result()
                self._delivered += 1
                yield slot.deliver(self._device, self._copy)
                ring.append(slot)
            self._epoch, self._delivered = self._epoch + 1, 0
        finally:
            for future, _ in pending:
                future.cancel()
            pool.shutdown(wait=True)
            self._slots = slots


class _Slot:
    """Memory of one batch; grows to the longest batch it has held."""

    def __init__(self, cache: FaceCache, columns: tuple[str, ...], pinned: bool) -> None:
        self._cache, self._columns, self._pinned = cache, columns, pinned
        self._tensors: dict[str, torch.Tensor] = {}
        self._batch: dict[str, torch.Tensor] = {}
        self._arrays: dict[str, NDArray[Any]] = {}  # the same memory
        self._capacity = -1
        self._copied: torch.cuda.Event | None = None

    def fill(
        self, rows: NDArray[np.int64], check: bool, transform: Transform | None, epoch: int
    ) -> None:
        """Gather the rows; runs in a thread."""
        if self._copied is not None:
            self._copied.synchronize()
        if len(rows) > self._capacity:
            self._allocate(len(rows))
        self._arrays["row"][: len(rows)] = rows
        for name in self._columns:
            self._cache.take(name, rows, self._arrays[name][: len(rows)], check)
        self._batch = {name: tensor[: len(rows)] for name, tensor in self._tensors.items()}
        if transform is not None:
            made = transform(self._batch, epoch)
            self._batch = {
                name: tensor.pin_memory() if self._pinned else tensor
                for name, tensor in made.items()
            }

    def deliver(self, device: torch.device | None, copy: bool) -> dict[str, torch.Tensor]:
        """The batch as tensors."""
        batch = self._batch
        if device is not None and device.type == "cuda":
            batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(device))
            return batch
        return {name: tensor.clone() for name, tensor in batch.items()} if copy else batch

    def _allocate(self, length: int) -> None:
        """One block of memory for all columns: large enough for NumPy to ask for huge pages."""
        specs = [Column("row", np.dtype(np.int64)), *map(self._cache.require, self._columns)]
        ends = np.cumsum([-(-length * spec.row_bytes // _ALIGNMENT) * _ALIGNMENT for spec in specs])
        if self._pinned:
            block = torch.empty(int(ends[-1]), dtype=torch.uint8, pin_memory=True)
        else:
            memory = np.empty(int(ends[-1]) + _ALIGNMENT, np.uint8)
            block = torch.from_numpy(memory)[-memory.ctypes.data % _ALIGNMENT :]
        for spec, end, start in zip(specs, ends.tolist(), [0, *ends.tolist()], strict=False):
            like = torch.from_numpy(np.empty(0, spec.dtype)).dtype
            piece = block[start:end].view(like)[: length * math.prod(spec.shape)]
            self._tensors[spec.name] = piece.view(length, *spec.shape)
            self._arrays[spec.name] = self._tensors[spec.name].numpy()
        self._capacity = length
