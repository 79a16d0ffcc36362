"""Games with a known truth: it wins, its opposite loses, a blind map is at chance exactly."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cache.builder import build_keys
from torch import Tensor

from faceguide.cache.pairs.pair_lists import PairList
from faceguide.cache.pairs.pair_rows import resolve
from faceguide.evaluate.attribution.cells import CELLS
from faceguide.evaluate.attribution.chimera.chimera_list import GAMES, Chimeras, chimeras_of
from faceguide.evaluate.attribution.chimera.composition import (
    ALL_PARTS,
    PARTS,
    SMALL,
    part_cells,
    region_cells_of,
)
from faceguide.evaluate.attribution.chimera.games import game_records, restored
from faceguide.evaluate.attribution.chimera.told_apart import told_apart

PEOPLE = 36


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Chimeras]:
    folder = tmp_path_factory.mktemp("games")
    keys = [f"p{person:02d}/{100 * person + number}.jpg" for person in range(PEOPLE)
            for number in (11, 12)]  # fmt: skip
    cache = build_keys(folder / "cache", keys, size=28, regions=True)
    names = cache.texts("key", cache.select())
    same = np.array([a.split("/")[0] == b.split("/")[0] for a, b in itertools.pairwise(names)])
    rows = resolve(cache, PairList(list(names[:-1]), list(names[1:]), same, None))
    return cache, chimeras_of(cache, rows, None, 0, "alpha", GAMES)


def test_each_game_has_as_many_faces_and_those_of_the_ranking_come_first(
    played: tuple[Any, Chimeras],
) -> None:
    cache, chimeras = played
    n = len(chimeras.ranked)
    assert n == PEOPLE // 2
    assert len(chimeras) == 3 * n
    assert (chimeras.part[:n] == np.arange(n) % len(PARTS)).all()
    for part in range(3):
        assert (chimeras.bearer[part * n :][:n] == chimeras.bearer[:n]).all()
    assert {ALL_PARTS[part] for part in chimeras.part[n : 2 * n]} == set(SMALL)
    images = chimeras.images(cache, np.arange(len(chimeras)))
    bearers = cache.read(chimeras.bearer, ["image"])["image"]
    masks = chimeras.masks(cache, np.arange(len(chimeras)))
    for image, bearer, mask in zip(images, bearers, masks, strict=True):
        changed = (image != bearer).any(2)
        assert changed.any()
        # The soft edge is 0.75 pixels wide.
        near = np.lib.stride_tricks.sliding_window_view(np.pad(mask, 3), (7, 7)).max((2, 3)) > 0
        assert not changed[~near].any()
    part, rest = chimeras.cells(cache, np.arange(len(chimeras)))
    assert part.any(1).all()
    assert rest.any(1).all()
    assert not (part & rest).any()
    judged = np.zeros((7, 7), bool)
    judged[1:, 1:6] = True
    assert not (part | rest)[:, ~judged.ravel()].any()


def test_small_parts_have_four_cells() -> None:
    for name in SMALL:
        inside, outside = part_cells(name)
        assert (inside.sum(), outside.sum()) == (4, 26)


@given(st.integers(0, 5000))
@settings(max_examples=25)
def test_a_region_has_a_cell_however_small_it_is(seed: int) -> None:
    rng = np.random.default_rng(seed)
    top, left = rng.integers(20, 80, 2)
    mask = np.zeros((112, 112), np.uint8)
    mask[top : top + rng.integers(1, 30), left : left + rng.integers(1, 14)] = 255
    inside, outside = region_cells_of(mask)
    assert inside.any()
    assert outside.any()
    assert not (inside & outside).any()


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, 0.0), (0, 0.5)])
def test_truth_wins_every_game(played: tuple[Any, Chimeras], sign: int, expected: float) -> None:
    cache, chimeras = played
    part, rest = chimeras.cells(cache, np.arange(len(chimeras)))
    picture = np.random.default_rng(0).normal(size=CELLS)  # what both maps share
    one = sign * part.astype(float)
    maps = np.stack([picture - one, picture + one], 1).reshape(-1, CELLS)
    truth = np.random.default_rng(1).random(len(chimeras.ranked))
    told = told_apart(maps[::2], maps[1::2], part, rest).told
    found = game_records(chimeras, told, (sign * truth, truth), 100, 0)
    assert list(found) == ["small", "regions", "deletion"]
    for game in found.values():
        if sign:
            assert game["score"] == pytest.approx(expected, abs=0.02)
        else:
            assert game["score"] == expected
            assert game["interval"] == [expected, expected]


def test_a_region_that_is_nowhere_or_everywhere_is_not_played(
    played: tuple[Any, Chimeras], monkeypatch: pytest.MonkeyPatch
) -> None:
    for level in (0, 255):
        inside, outside = region_cells_of(np.full((28, 28), level, np.uint8))
        assert not inside.any()
        assert not outside.any()
    cache, chimeras = played
    some = np.random.default_rng(0).random((len(chimeras), CELLS)) < 0.03
    monkeypatch.setattr(Chimeras, "cells", lambda self, cache, places: (some[places], ~some))
    assert (chimeras.judged(cache).part == chimeras.part[some.any(1)]).all()
    assert 0 < some.any(1).sum() < len(chimeras)


class Likeness:
    """How near pictures are to a photograph, 0 = equal."""

    @property
    def quick(self) -> Any:
        return lambda images, wanted: -(images - wanted).abs().mean((1, 2, 3))


def pictures(seed: int, count: int = 6) -> Tensor:
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000), st.floats(1e-3, 1e3))
@settings(max_examples=20, deadline=None)
def test_what_is_taken_out_brings_the_score_back(seed: int, scale: float) -> None:
    cells = [part_cells(name) for name in PARTS]
    inside, outside = (np.stack(kind) for kind in zip(*cells, strict=True))
    bearer, donor = pictures(seed), pictures(seed + 1)
    grid = torch.from_numpy(inside.reshape(-1, 1, 7, 7)).float()
    chimera = torch.where(torch.nn.functional.interpolate(grid, size=28) > 0, donor, bearer)
    truth = np.stack([~inside, inside], 1).astype(float)
    keys = np.arange(len(cells))
    score: Any = Likeness()

    def gained(maps: np.ndarray) -> np.ndarray:
        return restored(score, chimera, bearer, (bearer,), maps, (inside, outside), keys, 0)

    best = gained(truth)
    assert (best > 0).all()
    np.testing.assert_allclose(gained(truth[:, ::-1]), -best, atol=1e-6)
    np.testing.assert_allclose(gained(scale * truth + 1), best, atol=1e-6)
    blind = np.random.default_rng(seed).normal(size=(len(cells), 1, CELLS)).repeat(2, 1)
    assert (gained(blind) == 0).all()
    assert (gained(np.full_like(truth, np.nan)) == 0).all()
    some = gained(np.random.default_rng(seed).normal(size=truth.shape))
    assert (np.abs(some) <= best + 1e-6).all()
