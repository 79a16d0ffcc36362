"""The stream: an exact order, exact resume, and no batch that is not what the cache holds."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cache.builder import build

from faceguide.cache import CacheError, FaceCache, Stream
from faceguide.cache.order import BLOCK_ROWS, Order, Ragged

COLUMNS = ("image", "regions", "visibility", "label")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    path = tmp_path_factory.mktemp("stream") / "cache"
    build(path, rows=300, shard_rows=64)
    return FaceCache.open(path)


def rows_of(stream: Stream) -> list[int]:
    return [row for batch in stream for row in batch["row"].tolist()]


@given(
    n=st.integers(1, 700),
    batch=st.integers(1, 70),
    world=st.integers(1, 5),
    epoch=st.integers(0, 3),
    shuffle=st.sampled_from([True, False, "blocks"]),
)
@settings(deadline=None, max_examples=40)
def test_ranks_share_every_row(
    n: int, batch: int, world: int, epoch: int, shuffle: bool | str
) -> None:
    rows = np.arange(n) * 3 + 1

    def delivered(ragged: str) -> list[list[int]]:
        orders = [
            Order(rows, batch, 5, rank, world, shuffle, ragged)  # type: ignore[arg-type]
            for rank in range(world)
        ]
        return [
            [row for i in range(len(order)) for row in order.batch(epoch, i).tolist()]
            for order in orders
        ]

    exact = delivered("exact")
    assert sorted(row for rank in exact for row in rank) == rows.tolist()
    padded = delivered("pad")
    assert len({len(rank) for rank in padded}) == 1
    assert len(padded[0]) % batch == 0
    counts = Counter(row for rank in padded for row in rank)
    assert set(counts) == set(rows.tolist())
    least = sum(map(len, padded)) // n
    assert set(counts.values()) <= {least, least + 1}


def test_batches_are_what_the_cache_holds(cache: FaceCache) -> None:
    rows = cache.select()
    seen = []
    for batch in Stream(cache, rows, columns=COLUMNS, batch_size=32, ragged="exact"):
        expected = cache.read(batch["row"].numpy(), COLUMNS)
        for name in COLUMNS:
            assert np.array_equal(batch[name].numpy(), expected[name])
        seen += batch["row"].tolist()
    assert sorted(seen) == rows.tolist()
    assert batch["image"].dtype == torch.uint8
    assert batch["visibility"].dtype == torch.float16


def test_the_order_depends_on_seed_and_epoch_alone(cache: FaceCache) -> None:
    rows = cache.select()

    def epochs(seed: int, threads: int) -> list[list[int]]:
        stream = Stream(cache, rows, batch_size=16, seed=seed, threads=threads, depth=threads)
        return [rows_of(stream) for _ in range(3)]

    first = epochs(0, 1)
    assert first == epochs(0, 4)
    assert first != epochs(1, 1)
    assert len({tuple(epoch) for epoch in first}) == 3


@pytest.mark.parametrize("shuffle", [True, False, "blocks"])
@pytest.mark.parametrize("stop", [0, 1, 7, 17])
def test_a_stream_goes_on_exactly(cache: FaceCache, shuffle: bool | str, stop: int) -> None:
    rows = cache.select()

    def make(state: dict[str, object] | None = None) -> Stream:
        return Stream(cache, rows, batch_size=16, seed=3, shuffle=shuffle, state=state)  # type: ignore[arg-type]

    whole = make()
    expected = [batch["row"].tolist() for _ in range(2) for batch in whole]
    assert len(expected) == 2 * len(whole)
    broken = make()
    got: list[list[int]] = []
    iterator = iter(broken)
    for _ in range(stop):
        got.append(next(iterator)["row"].tolist())
    state = broken.state_dict()
    assert (state["epoch"], state["batch"]) == divmod(stop, len(whole))
    resumed = make(state)
    while len(got) < len(expected):
        got += [batch["row"].tolist() for batch in resumed]
    assert got == expected
    del iterator


def test_a_state_of_another_stream_is_refused(cache: FaceCache) -> None:
    rows = cache.select()
    state = Stream(cache, rows, batch_size=16).state_dict()
    with pytest.raises(CacheError, match="global_batch 16 → 8; rows of a batch × processes must"):
        Stream(cache, rows, batch_size=8, state=state)
    with pytest.raises(CacheError, match="global_batch 16 → 32"):
        Stream(cache, rows, batch_size=16, world=2, state=state)
    blocks = Stream(cache, rows, batch_size=16, shuffle="blocks").state_dict()
    with pytest.raises(CacheError, match=r"processes 1 → 2; .* need the same number of processes"):
        Stream(cache, rows, batch_size=8, world=2, shuffle="blocks", state=blocks)


@pytest.mark.parametrize("ragged", ["pad", "exact"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_of_all_ranks_is_the_same_for_any_number_of_them(
    shuffle: bool, ragged: Ragged
) -> None:
    rows = np.arange(2_003) * 3

    def together(world: int, epoch: int) -> list[list[int]]:
        ranks = [
            list(Order(rows, 840 // world, 5, rank, world, shuffle, ragged).batches(epoch))
            for rank in range(world)
        ]
        return [
            sorted(row for batches in ranks if i < len(batches) for row in batches[i].tolist())
            for i in range(3)
        ]

    for epoch in (0, 3):
        whole = together(1, epoch)
        assert sum(map(len, whole)) == (2_520 if ragged == "pad" else 2_003)
        for world in range(2, 9):
            assert together(world, epoch) == whole


@pytest.mark.parametrize("ragged", ["pad", "exact"])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 8)])
def test_another_number_of_ranks_resumes(
    cache: FaceCache, before: int, after: int, ragged: Ragged
) -> None:
    """Threads too may differ; every row of an epoch comes as often as without the change."""
    rows = cache.select()

    def streams(world: int, state: dict[str, object] | None, **how: int) -> list[Stream]:
        return [
            Stream(
                cache, rows, batch_size=24 // world, seed=1, rank=rank, world=world, ragged=ragged,
                state=state, **how,
            )
            for rank in range(world)
        ]  # fmt: skip

    def taken(streams: list[Stream], batches: int) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in range(batches)]
        for stream in streams:
            for number, batch in zip(range(batches), stream, strict=False):
                found[number] += batch["row"].tolist()
        return [sorted(one) for one in found]

    whole = taken(streams(1, None), len(streams(1, None)[0]))
    first = streams(before, None)
    assert taken(first, 2) == whole[:2]
    state = first[0].state_dict()
    assert (state["batch"], state["delivered"]) == (2, 48)
    assert taken(streams(after, state, threads=3), len(whole) - 2) == whole[2:]


class Sampler:
    """Its own order, another one each epoch."""

    def __init__(self) -> None:
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([self.epoch + i, 2 * i, 5][: 1 + i % 3] for i in range(9))

    def __len__(self) -> int:
        return 9


def test_own_batches_come_in_their_order_and_go_on(cache: FaceCache) -> None:
    stream = Stream(cache, batches=Sampler())
    first = [batch["row"].tolist() for batch in stream]
    assert first == list(Sampler())
    iterator = iter(stream)
    second = [next(iterator)["row"].tolist() for _ in range(4)]
    rest = Stream(cache, batches=Sampler(), state=stream.state_dict())
    second += [batch["row"].tolist() for batch in rest]
    sampler = Sampler()
    sampler.set_epoch(1)
    assert second == list(sampler)


def test_a_batch_lends_memory_and_copy_keeps_it(cache: FaceCache) -> None:
    rows = cache.select()
    lent = Stream(cache, rows, batch_size=8)
    places = {batch["image"].data_ptr() for batch in lent}
    assert len(places) <= 5
    kept = list(Stream(cache, rows, batch_size=8, copy=True))
    for batch in kept:
        expected = cache.read(batch["row"].numpy(), ["image"])["image"]
        assert np.array_equal(batch["image"].numpy(), expected)


def test_what_is_lent_stays_until_the_next_batch(cache: FaceCache) -> None:
    rows = cache.select()
    for batch in Stream(cache, rows, batch_size=8, threads=4, depth=1):
        before = batch["image"].clone()
        torch.zeros(200_000).random_()  # time for the threads to run ahead
        assert torch.equal(batch["image"], before)


def test_errors_of_threads_reach_the_caller(tmp_path: Path) -> None:
    build(tmp_path / "cache", rows=100)
    damaged = FaceCache.open(tmp_path / "cache")
    path = tmp_path / "cache" / "faces-00002.h5"
    offset = damaged.groups["faces"]["shards"][2]["offsets"]["image"]
    with path.open("r+b") as file:
        file.seek(offset + 768 * 3)
        file.write(b"\x01\x02\x03")
    rows = np.arange(100)
    unchecked = Stream(damaged, rows, batch_size=10, ragged="exact", check=False)
    assert len(rows_of(unchecked)) == 100
    with pytest.raises(CacheError, match=r"faces-00002\.h5: image of row 3"):
        rows_of(Stream(damaged, rows, batch_size=10))


def test_encoded_images_are_decoded_in_threads(tmp_path: Path) -> None:
    build(tmp_path / "cache", rows=120, store="jpeg")
    encoded = FaceCache.open(tmp_path / "cache")
    for batch in Stream(encoded, encoded.select(), batch_size=16, threads=3):
        expected = encoded.read(batch["row"].numpy(), ["image"])["image"]
        assert np.array_equal(batch["image"].numpy(), expected)
    rows = encoded.select()[:20]
    files = encoded._rows.pieces("image", rows)
    by_cv2 = [cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB) for file in files]
    assert np.array_equal(encoded.read(rows, ["image"])["image"], by_cv2)


@pytest.mark.parametrize("damage", ["cut short", "another size"])
def test_an_unchecked_image_that_does_not_decode_is_an_error(tmp_path: Path, damage: str) -> None:
    build(tmp_path / "cache", rows=20, store="jpeg")
    cache = FaceCache.open(tmp_path / "cache")
    file = cache._rows.pieces("image", np.array([1]))[0]
    small = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    other = file[: len(file) // 2] if damage == "cut short" else small
    shard = next((tmp_path / "cache").rglob("faces-*"))
    data = shard.read_bytes()
    assert len(other) < len(file)
    assert file in data
    shard.write_bytes(data.replace(file, other.ljust(len(file), b"\0")))
    cache = FaceCache.open(tmp_path / "cache")
    with pytest.raises(CacheError, match="image of row 1 does not decode"):
        cache.read([1], ["image"], check=False)


def test_leaving_early_ends_the_threads(cache: FaceCache) -> None:
    import threading

    before = threading.active_count()
    for _ in Stream(cache, cache.select(), batch_size=4, threads=4):
        break
    for _ in range(3):
        iterator = iter(Stream(cache, cache.select(), batch_size=4))
        next(iterator)
        iterator.close()
    assert threading.active_count() == before


def test_blocks_keep_neighbours_together_and_still_mix() -> None:
    order = Order(np.arange(200_000), 256, shuffle="blocks")
    first = np.concatenate([order.batch(0, i) for i in range(8)])
    touched = len(np.unique(first // BLOCK_ROWS))
    assert touched == len(first) // BLOCK_ROWS
    assert not np.array_equal(
        np.sort(first[:256]), np.arange(first[:256].min(), first[:256].min() + 256)
    )
    assert not np.array_equal(order.batch(0, 0), order.batch(1, 0))


def test_bad_arguments_are_named(cache: FaceCache) -> None:
    with pytest.raises(CacheError, match="no rows"):
        Stream(cache, np.empty(0, np.int64))
    with pytest.raises(ValueError, match=r"rank.*0 … 1.* 2"):
        Stream(cache, [1, 2], rank=2, world=2)
    with pytest.raises(ValueError, match="either rows or batches"):
        Stream(cache)
    with pytest.raises(CacheError, match="no column 'depth'"):
        Stream(cache, [1], columns=("depth",))
    with pytest.raises(IndexError):
        Stream(cache, [300])
    with pytest.raises(IndexError):
        list(Stream(cache, batches=[[1, 2], [999]]))


def test_a_transform_runs_in_the_threads_and_knows_the_epoch(cache: FaceCache) -> None:
    """It may write into the batch, leave columns out and add some; the cache stays as it is."""
    names = set()

    def transform(batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        names.add(threading.current_thread().name.rpartition("_")[0])
        batch["image"].zero_()
        return {"row": batch["row"], "image": batch["image"], "epoch": batch["row"] * 0 + epoch}

    stream = Stream(
        cache, np.arange(8), columns=("image", "label"), batch_size=4, transform=transform
    )
    for epoch in range(2):
        for batch in stream:
            assert set(batch) == {"row", "image", "epoch"}
            assert batch["epoch"].tolist() == [epoch] * 4
            assert not batch["image"].any()
    assert names == {"faceguide-stream"}
    assert cache.read([0], ["image"])["image"].any()
