"""Batches of persons, of confusable persons, and of covered and clean faces."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from faceguide.cache.order import Order
from faceguide.cache.reader import FaceCache
from faceguide.core.errors import TrainError
from faceguide.train.data.samplers import GraphBatches, MixedBatches, PersonBatches
from faceguide.train.oaml.oaml_batches import Covered, veiled_batches


def people(counts: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    labels = np.repeat(np.arange(len(counts)) * 3, counts)
    rows = np.random.default_rng(0).permutation(len(labels)) + 100
    return rows, labels


@given(
    counts=st.lists(st.integers(1, 9), min_size=2, max_size=12),
    images=st.integers(2, 4),
    persons=st.integers(2, 4),
    world=st.integers(1, 3),
    epoch=st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_every_image_and_k_of_each_person(
    counts: list[int], images: int, persons: int, world: int, epoch: int
) -> None:
    rows, labels = people(counts)
    of = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    seen: Counter[int] = Counter()
    lengths = set()
    for rank in range(world):
        sampler = PersonBatches(
            rows, labels, images * persons, images, seed=1, rank=rank, world=world
        )
        sampler.set_epoch(epoch)
        batches = list(sampler)
        lengths.add(len(batches))
        assert len(batches) == len(sampler)
        for batch in batches:
            assert len(batch) == images * persons
            for start in range(0, len(batch), images):
                assert len({of[row] for row in batch[start : start + images]}) == 1
            seen.update(batch)
    assert len(lengths) == 1
    assert set(seen) == set(rows.tolist())


def test_epochs_differ_and_repeat() -> None:
    rows, labels = people([5, 6, 7, 8])
    sampler = PersonBatches(rows, labels, 8, 4, seed=2)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    sampler.set_epoch(0)
    assert first == list(sampler)
    assert first != second


def test_a_batch_needs_two_persons() -> None:
    rows, labels = people([5, 5])
    with pytest.raises(TrainError, match="must be a multiple of --images-per-person"):
        PersonBatches(rows, labels, 7, 4)
    with pytest.raises(TrainError, match="room for two identities"):
        PersonBatches(rows, labels, 4, 4)


def test_the_graph_joins_those_who_look_alike(tmp_path: Path) -> None:
    counts = [4] * 12
    rows, labels = people(counts)
    of = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    asked: list[NDArray[np.int64]] = []

    def similarity(wanted: NDArray[np.int64]) -> NDArray[np.float32]:
        # Persons 2k and 2k + 1 look alike.
        asked.append(wanted)
        number = np.array([of[row] // 3 for row in wanted])
        return (number[:, None] // 2 == number[None] // 2).astype(np.float32)

    sampler = GraphBatches(
        rows,
        labels,
        4,
        similarity=similarity,
        keep=tmp_path / "graph.safetensors",
        images=2,
        seed=3,
    )
    batches = list(sampler)
    assert len(batches) == len(sampler) == 12
    anchors = []
    for batch in batches:
        persons = [of[row] // 3 for row in batch]
        assert persons[0] == persons[1]
        assert persons[2] == persons[3]
        assert persons[0] // 2 == persons[2] // 2
        assert persons[0] != persons[2]
        anchors.append(persons[0])
    assert sorted(anchors) == list(range(12))
    # The same epoch again, as after a resume: the graph is read, not computed.
    again = GraphBatches(
        rows,
        labels,
        4,
        similarity=similarity,
        keep=tmp_path / "graph.safetensors",
        images=2,
        seed=3,
    )
    assert list(again) == batches
    assert len(asked) == 1
    again.set_epoch(1)
    list(again)
    assert len(asked) == 2
    assert len(asked[0]) == 12


def test_a_graph_needs_enough_persons(tmp_path: Path) -> None:
    rows, labels = people([4, 4])
    with pytest.raises(TrainError, match=r"3 identities .*found 2"):
        GraphBatches(
            rows,
            labels,
            6,
            similarity=lambda wanted: np.eye(2),
            keep=tmp_path / "graph.safetensors",
            images=2,
        )


def mixture(veiled: int, clean: int, **place: int) -> MixedBatches:
    nothing = np.empty(0, np.int64)
    faces = Covered(cast(FaceCache, None), np.arange(veiled), np.arange(100, 100 + clean), nothing)
    return veiled_batches(faces, 10, 0.2, **{"seed": 0, "rank": 0, "world": 1, **place})


@given(veiled=st.integers(1, 40), clean=st.integers(0, 9), world=st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_four_covered_to_one_clean(veiled: int, clean: int, world: int) -> None:
    found: Counter[int] = Counter()
    for rank in range(world):
        for batch in mixture(veiled, clean, rank=rank, world=world):
            assert len(batch) == 10
            assert sum(row >= 100 for row in batch) == (2 if clean else 0)
            found.update(batch)
    assert set(range(veiled)) <= set(found)


def test_clean_faces_go_round_over_epochs() -> None:
    sampler = mixture(8, 10)
    seen = set()
    for epoch in range(5):
        sampler.set_epoch(epoch)
        (batch,) = list(sampler)
        seen |= {row for row in batch if row >= 100}
    assert len(seen) == 10


def test_a_mixture_without_covered_faces_is_refused() -> None:
    with pytest.raises(TrainError, match="known mask; `prep masks`"):
        mixture(0, 3)


def test_rows_come_once_and_pairs_in_turn() -> None:
    rows, first = np.arange(100, 120), np.arange(6)
    batches = MixedBatches(
        Order(rows, 4, seed=3), Order(first, 2, seed=4), np.stack([first, first + 50], axis=1)
    )
    listed = list(batches)
    assert len(batches) == len(listed) == 5
    assert all(len(batch) == 8 for batch in listed)
    assert sorted(row for batch in listed for row in batch[:4]) == rows.tolist()
    pairs = [(a, b) for batch in listed for a, b in zip(batch[4:6], batch[6:8], strict=True)]
    assert all(b == a + 50 for a, b in pairs)
    assert {a for a, _ in pairs[:6]} == set(range(6))
    batches.set_epoch(1)
    second = list(batches)
    assert second != listed
    # The rounds run on: of 20 places, each of the 6 pairs has 3 or 4.
    counts = np.bincount([row for batch in [*listed, *second] for row in batch[4:6]])
    assert set(counts.tolist()) == {3, 4}


def test_batches_of_all_ranks_are_the_same_for_any_number_of_them() -> None:
    rows, labels = people([7, 3, 9, 4, 4, 8, 2, 5])
    both = np.arange(60).reshape(30, 2)

    def sampler(kind: str, rank: int, world: int) -> PersonBatches | MixedBatches:
        if kind == "persons":
            return PersonBatches(rows, labels, 24 // world, 3, seed=1, rank=rank, world=world)
        main = Order(rows, 12 // world, 2, rank, world)
        return MixedBatches(main, Order(np.arange(30), 6 // world, 3, rank, world), both)

    for kind in ("persons", "mixed"):
        whole = sampler(kind, 0, 1)
        for world in (2, 3):
            if (24 // world) % 3 or 24 // world < 6:
                continue
            ranks = [sampler(kind, rank, world) for rank in range(world)]
            assert {str(one.identity) for one in ranks} == {str(whole.identity)}
            for epoch in (0, 2):
                for one in (whole, *ranks):
                    one.set_epoch(epoch)
                together = [
                    sorted(row for part in parts for row in part)
                    for parts in zip(*ranks, strict=True)
                ]
                assert together == [sorted(batch) for batch in whole]
    assert sampler("mixed", 0, 1).identity["global_batch"] == 24


def test_a_mixture_that_rounds_otherwise_is_another() -> None:
    """16 with one clean fifth are 13 and 3; twice 8 are twice 6 and 2."""
    covered = Covered(
        cast(FaceCache, None), np.arange(40), np.arange(40, 60), np.empty(0, np.int64)
    )
    one, two = (veiled_batches(covered, 16 // n, 0.2, 0, 0, n) for n in (1, 2))
    assert one.identity["main"]["global_batch"] == 13
    assert two.identity["main"]["global_batch"] == 12
