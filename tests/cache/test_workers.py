"""Stream and Dataset in torch's DataLoader and torchdata's StatefulDataLoader, with workers."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cache.builder import build
from torch.utils.data import DataLoader

from faceguide.cache import FaceCache, Stream
from faceguide.dataset import Dataset

COLUMNS = ("image", "label")
SIZE = 16


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    """Two caches as one."""
    folder = tmp_path_factory.mktemp("workers")
    build(folder / "old", rows=110, shard_rows=32)
    build(folder / "new", rows=70, shard_rows=64, seed=5)
    return FaceCache.open([folder / "old", folder / "new"])


def stream_of(cache: FaceCache, **more: Any) -> Stream:
    settings: dict[str, Any] = {"batch_size": SIZE, "seed": 7, "ragged": "exact", "copy": True}
    return Stream(cache, cache.select(), columns=COLUMNS, **settings | more)


def rows_of(batches: Iterable[dict[str, Any]]) -> list[list[int]]:
    return [batch["row"].tolist() for batch in batches]


def loader_of(stream: Stream, workers: int, start: str | None, **more: Any) -> DataLoader[Any]:
    return DataLoader(
        stream, batch_size=None, num_workers=workers, multiprocessing_context=start, **more
    )


@pytest.mark.parametrize(
    ("workers", "start"), [(0, None), (2, "fork"), (4, "fork"), (2, "spawn"), (4, "spawn")]
)
def test_workers_deal_the_batches_of_the_stream(
    cache: FaceCache, workers: int, start: str | None
) -> None:
    alone, stream = stream_of(cache), stream_of(cache)
    next(iter(stream_of(cache)))  # files are open when the workers start
    expected = [rows_of(alone) for _ in range(3)]
    assert sorted(chain(*expected[0])) == cache.select().tolist()
    loader = loader_of(stream, workers, start)
    assert len(loader) == len(expected[0])
    # From the middle of epoch 1, as a training that resumes.
    stream.load_state_dict(alone.state_dict() | {"epoch": 1, "batch": 5})
    for epoch in (1, 2) if start != "spawn" else (1,):
        stream.set_epoch(epoch)
        batches = list(loader)
        assert rows_of(batches) == expected[epoch][5 if epoch == 1 else 0 :]
        for batch in batches:
            for name, values in cache.read(batch["row"].numpy(), COLUMNS).items():
                np.testing.assert_array_equal(batch[name], values)


def test_persistent_workers_count_the_epochs(cache: FaceCache) -> None:
    alone = stream_of(cache)
    expected = [rows_of(alone) for _ in range(3)]
    loader = loader_of(stream_of(cache), 2, "fork", persistent_workers=True)
    assert rows_of(loader) == expected[0]
    for seen, batch in enumerate(loader):  # left near its end: some workers are there already
        assert batch["row"].tolist() == expected[1][seen]
        if seen == len(expected[1]) - 3:
            break
    assert rows_of(loader) == expected[2]


def test_own_batches_are_dealt_too(cache: FaceCache) -> None:
    lists = [[1, 2], [5], [3, 4, 6], [7], [0, 9]]
    stream = Stream(cache, batches=lists, columns=COLUMNS)
    assert rows_of(loader_of(stream, 2, "fork")) == lists


def test_a_worker_copies_to_no_device(cache: FaceCache) -> None:
    loader = loader_of(stream_of(cache, device="cuda"), 1, "fork")
    with pytest.raises(ValueError, match="a DataLoader's worker cannot copy to a device"):
        next(iter(loader))


def train(
    loader: Any, stream: Stream, epoch: int, epochs: int, stop: int | None, state: Any = None
) -> tuple[list[list[int]], int, Any]:
    """A loop of trainers: rows of the batches until `stop` of them; epoch and state there."""
    seen: list[list[int]] = []
    if state is not None:
        loader.load_state_dict(state)
    for number in range(epoch, epochs):
        stream.set_epoch(number)
        for batch in loader:
            seen.append(batch["row"].tolist())
            if len(seen) == stop:
                return seen, number, loader.state_dict()
    return seen, epochs, loader.state_dict()


@pytest.mark.parametrize(
    ("workers", "start", "persistent"),
    [
        *((0, None, False), (2, "spawn", False)),
        *((2, "fork", False), (4, "fork", False), (2, "fork", True)),
    ],
)
def test_a_stateful_loader_resumes_exactly(
    cache: FaceCache, workers: int, start: str | None, persistent: bool
) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> tuple[Any, Stream]:
        stream = stream_of(cache)
        loader = stateful.StatefulDataLoader(
            stream, batch_size=None, num_workers=workers, multiprocessing_context=start,
            persistent_workers=persistent,
        )  # fmt: skip
        return loader, stream

    epochs = 1 if start == "spawn" else 3
    alone = stream_of(cache)
    expected = [batch for _ in range(epochs) for batch in rows_of(alone)]
    length = len(alone)
    # In the middle, where only some workers have a batch left, at the last batch, and after it.
    stops = [3] if start == "spawn" else [1, 5, length - 1, length, length + 1, 2 * length]
    for stop in stops:
        first, epoch, state = train(*make(), 0, epochs, stop)
        rest, _, _ = train(*make(), epoch, epochs, None, state)
        assert first + rest == expected, f"stopped after {stop} batches"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_resumes_after_a_whole_epoch(cache: FaceCache, workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> tuple[Any, Stream]:
        stream = stream_of(cache)
        return stateful.StatefulDataLoader(stream, batch_size=None, num_workers=workers), stream

    alone = stream_of(cache)
    expected = [batch for _ in range(3) for batch in rows_of(alone)]
    first, epoch, state = train(*make(), 0, 1, None)
    rest, _, _ = train(*make(), epoch, 3, None, state)
    assert first + rest == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_resumes_in_a_stateful_loader(cache: FaceCache, workers: int) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def make() -> Any:
        return stateful.StatefulDataLoader(
            Dataset(cache, columns=COLUMNS), batch_size=SIZE, shuffle=True, num_workers=workers,
            generator=torch.Generator().manual_seed(3),
        )  # fmt: skip

    loader = make()
    batches = iter(loader)
    seen = rows_of(next(batches) for _ in range(4))
    state = loader.state_dict()
    del batches
    other = make()
    other.load_state_dict(state)
    seen += rows_of(other)
    assert sorted(chain(*seen)) == cache.select().tolist()


def test_a_pickled_stream_carries_no_memory_and_stands_where_it_stood(tmp_path: Path) -> None:
    build(tmp_path / "jpeg", rows=40, store="jpeg")
    cache = FaceCache.open(tmp_path / "jpeg")
    stream = stream_of(cache, batch_size=8, device="cpu")
    batches = iter(stream)
    next(batches)
    text = pickle.dumps(stream)
    assert len(text) < 4_000
    expected = [batch["image"] for batch in batches]
    found = [batch["image"] for batch in pickle.loads(text)]
    assert len(found) == len(expected) == 4
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
