"""Batches of kept maps: the same faces together, however many processes share them."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from faceguide.core.errors import CacheError
from faceguide.train.distil.alterations import DRAWS
from faceguide.train.distil.kept_maps import KeptMaps
from faceguide.train.distil.map_batches import MapBatches

FACES = 40


def kept() -> KeptMaps:
    """Maps whose first number is the face, and whose second one the version."""

    def maps(kind: int, number: int) -> np.ndarray:
        return np.stack([np.arange(FACES), np.full(FACES, 10 * kind + number)], 1).astype("f2")

    values = np.zeros((2, FACES, 3), np.float32)
    return KeptMaps(
        [maps(0, n) for n in range(2)],
        [maps(1, n) for n in range(DRAWS)],
        [maps(2, n) for n in range(DRAWS)],
        {
            "whole": values,
            "raw": values,
            "part": np.zeros((DRAWS, FACES, 3), np.float32),
            "seen": np.zeros((DRAWS, FACES, 4), np.float32),
        },
        None,
    )


def batches(rank: int, world: int, counts: tuple[int, int, int] = (8, 4, 4)) -> MapBatches:
    shares = tuple(count // world for count in counts)
    rows = np.arange(100, 100 + FACES)
    learnt, device = np.arange(FACES - 5), torch.device("cpu")
    return MapBatches(None, kept(), rows, learnt, shares, 3, rank, world, device)


def faces(every: list[dict[str, torch.Tensor]]) -> Counter[tuple[float, ...]]:
    """What the processes' batches hold together: face and version."""
    return Counter(tuple(one) for batch in every for one in batch["maps"].tolist())


@pytest.mark.parametrize("world", [2, 4])
def test_all_processes_together_have_the_same_faces(world: int) -> None:
    one, others = iter(batches(0, 1)), [iter(batches(rank, world)) for rank in range(world)]
    for _ in range(12):
        assert faces([next(one)]) == faces([next(other) for other in others])


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 1)])
def test_another_number_of_processes_resumes(before: int, after: int) -> None:
    whole, begun = iter(batches(0, 1)), batches(before - 1, before)
    for _, _ in zip(range(7), begun, strict=False):
        next(whole)
    state = begun.state_dict()
    others = [batches(rank, after) for rank in range(after)]
    for other in others:
        other.load_state_dict(state)
    assert faces([next(whole)]) == faces([next(iter(other)) for other in others])


def test_a_state_of_other_batches_is_refused_by_name() -> None:
    state = batches(0, 1).state_dict()
    with pytest.raises(CacheError, match=r"cover\.global_batch 8 → 4"):
        batches(0, 1, (4, 8, 4)).load_state_dict(state)
