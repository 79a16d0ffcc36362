"""Stream: batches of cached rows, in an exact and repeatable order, gathered ahead by threads.

Threads, not processes: `numpy.take` and the JPEG decoder release the interpreter, and a worker
process would spend more on handing a batch over than on gathering it (docs/formats.md). Trainers
that want a DataLoader get one all the same: its workers deal the batches of the same order.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from faceguide.cache.order import Order, Ragged, Shuffle
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import Column
from faceguide.cache.volumes.agreement import differences
from faceguide.cache.volumes.mixture import mixture_of
from faceguide.core.errors import CacheError

Transform = Callable[[dict[str, torch.Tensor], int], dict[str, torch.Tensor]]

_PLACE = ("epoch", "batch", "delivered", "second")  # of a state, what says where and not of what
_ALIGNMENT = 64  # bytes: a column begins at a cache line


class Stream(IterableDataset[dict[str, torch.Tensor]]):
    """Batches of a cache as dicts of torch tensors.

    Iterating delivers the rest of the current epoch; the next iteration is the next epoch. A
    batch lends the ring's memory until the next one is asked for; `copy=True` gives tensors to
    keep. Every batch has `row`, (B,) int64, besides the columns asked for.

    In `DataLoader(stream, batch_size=None, num_workers=W)` worker w gathers batches w, w + W, …
    so that the loader delivers the same batches in the same order for any W; see `set_epoch`.
    May be pickled: every process opens the files for itself, when it first needs them.

    Args:
        rows: (N,) row numbers, such as `cache.select()`; None with `batches`.
        columns: column names, e.g. ("image", "regions", "label").
        batch_size: rows of a batch on this rank.
        seed, rank, world, shuffle, ragged: see `Order`.
        weights: name of each volume of a union → how often its rows come; see `mixture_of`.
        batches: your own order instead: row lists, one per batch, only for this rank. It is
            iterated once per epoch (after `set_epoch(epoch)`, if it has that method). `identity`,
            if it has it, names what a state must agree in, as `Order.identity` does.
        threads: batches gathered at the same time, ahead of the caller.
        depth: finished batches held ready.
        copy: deliver tensors that stay valid.
        check: compare what is delivered with its digests.
        device: a CUDA device gets the batch copied to it; the copy has finished before its
            memory is reused.
        transform: (batch, epoch) → batch, run in the threads before the copy to a device. It must
            depend on nothing else, and may write into the tensors or leave some out.
        state: what `state_dict()` returned: resume exactly there.

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
        weights: Mapping[str, float] = MappingProxyType({}),
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
        if weights and rows is None:
            raise ValueError("weights are for rows, not for batches")
        if threads < 1 or depth < 1:
            raise ValueError("threads and depth must be at least 1")
        self.cache = cache
        self.columns = tuple(columns)
        for name in self.columns:
            cache.require(name)
        self._batches = batches
        self._order: Order | None = None
        if rows is not None:
            index = cache.check_rows(rows)
            mixture = mixture_of(cache, index, weights)
            self._order = Order(index, batch_size, seed, rank, world, shuffle, ragged, mixture)
        self._threads, self._depth = threads, depth
        self._copy, self._check, self._transform = copy, check, transform
        self._device = torch.device(device) if device is not None else None
        self._pinned = self._device is not None and self._device.type == "cuda"
        self._slots: list[_Slot] = []
        self._epoch, self._delivered = 0, 0
        self._begun = False  # an epoch, as a worker
        if state is not None:
            self.load_state_dict(state)

    @property
    def epoch(self) -> int:
        """The epoch that the next batch belongs to."""
        return self._epoch

    def set_epoch(self, epoch: int) -> None:
        """Make this the next epoch: from where the stream stands, if it is in it, or its beginning.

        A DataLoader with workers needs it before every epoch: they begin where the stream of the
        main process stands, which never iterates. Persistent workers count for themselves.
        """
        if epoch != self._epoch:
            self._epoch, self._delivered = epoch, 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_slots": [], "_begun": False}

    def __len__(self) -> int:
        """Batches of an epoch on this rank."""
        if self._order is not None:
            return len(self._order)
        return len(self._batches)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, for a checkpoint: what was delivered, not what is prefetched.

        Returns:
            `epoch`, `batch` (batches of the epoch that were delivered), `delivered` (their rows on
            all ranks together), and what makes the order: any number of ranks resumes there whose
            batches together are as large.
        """
        epoch, batch, identity = self._epoch, self._delivered, self._identity()
        if self._order is not None and batch == len(self._order):
            epoch, batch = epoch + 1, 0  # the last batch is out, though no more was asked for
        rows = {"delivered": batch * identity["global_batch"]} if "global_batch" in identity else {}
        return {"epoch": epoch, "batch": batch, **rows, **identity}

    def _identity(self) -> dict[str, Any]:
        """What must be equal for a state to mean the same batches."""
        if self._order is not None:
            return self._order.identity
        own: dict[str, Any] = getattr(self._batches, "identity", {})
        return {"order": "batches", **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume exactly where `state_dict()` was asked for, on this many ranks or another.

        Raises:
            CacheError: for a state of another stream; names what differs.
        """
        self._load(state)
        self._begun = False

    def _load(self, state: dict[str, Any]) -> None:
        ours = self._identity()
        theirs = {name: value for name, value in state.items() if name not in _PLACE}
        if different := differences(theirs, ours):
            listed = ", ".join(f"{name} {there} → {here}" for name, there, here in different)
            few = {name.rpartition(".")[2] for name, *_ in different}
            remedy = ""
            if "processes" in few:
                remedy = "; these batches need the same number of processes"
            elif few == {"global_batch"}:
                remedy = "; rows of a batch × processes must stay the same"
            raise CacheError(f"the stream's state is of another stream: {listed}{remedy}")
        self._epoch, self._delivered = int(state["epoch"]), int(state["batch"])

    def _plan(self, epoch: int, start: int, step: int) -> Iterator[NDArray[np.int64]]:
        """Row numbers of every `step`-th batch of an epoch from batch `start` on."""
        if self._order is not None:
            return itertools.islice(self._order.batches(epoch, start), 0, None, step)
        assert self._batches is not None
        if hasattr(self._batches, "set_epoch"):
            self._batches.set_epoch(epoch)
        chosen = itertools.islice(self._batches, start, None, step)
        return (self.cache.check_rows(rows) for rows in chosen)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = get_worker_info()
        if worker is None:
            if self._order is not None and self._delivered == len(self._order):
                self._epoch, self._delivered = self._epoch + 1, 0  # nobody asked for the end
            return _Epoch(self, self._rest(1))
        if self._pinned:
            raise ValueError("a DataLoader's worker cannot copy to a device: give the stream none")
        if self._begun:  # workers end and are stopped at different batches, but begin together
            self._epoch, self._delivered = self._epoch + 1, 0
        self._begun = True
        self._delivered += worker.id
        return _Epoch(self, self._rest(worker.num_workers))

    def _rest(self, step: int) -> Generator[dict[str, torch.Tensor], None, None]:
        """Every `step`-th batch of the rest of the epoch."""
        in_worker = get_worker_info() is not None  # its queue takes the memory away
        # The memory outlives the epoch: fresh pages cost more than the rows copied into them.
        slots, self._slots = self._slots, []
        slots = slots or [
            _Slot(self.cache, self.columns, self._pinned)
            for _ in range(self._depth + self._threads)  # few: they share the processor's cache
        ]
        ring = deque(slots)
        pending: deque[tuple[Future[None], _Slot]] = deque()
        plan = self.cache.ahead(self._plan(self._epoch, self._delivered, step), self.columns)
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
                self._delivered += step
                yield slot.deliver(self._device, self._copy or in_worker)
                ring.append(slot)
            if not in_worker:
                self._epoch, self._delivered = self._epoch + 1, 0
        finally:
            for future, _ in pending:
                future.cancel()
            pool.shutdown(wait=True)
            self._slots = slots


class _Epoch(Iterator[dict[str, torch.Tensor]]):
    """The rest of an epoch of a stream.

    torchdata's StatefulDataLoader keeps the state of a dataset and of its iterator, and restores
    the latter last. Here the end of an epoch is not yet the beginning of the next, as that loader
    and each of its workers must still say that they are at their end.
    """

    def __init__(
        self, stream: Stream, batches: Generator[dict[str, torch.Tensor], None, None]
    ) -> None:
        self._stream, self._batches = stream, batches

    def __next__(self) -> dict[str, torch.Tensor]:
        return next(self._batches)

    def close(self) -> None:
        """End the threads now."""
        self._batches.close()

    def state_dict(self) -> dict[str, Any]:
        """As the stream's, but of this process's own batches."""
        stream = self._stream
        return {"epoch": stream._epoch, "batch": stream._delivered, **stream._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume there; before the first batch is asked for."""
        self._stream._load(state)


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
        wanted = {name: self._arrays[name][: len(rows)] for name in self._columns}
        self._cache.take(rows, wanted, check)
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
