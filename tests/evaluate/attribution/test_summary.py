"""Figures of a method when some of its maps claim nothing, and the files of a block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from faceguide.cache.pairs.pair_rows import PairRows
from faceguide.core.errors import CacheError, Unfinished
from faceguide.evaluate.attribution import summary
from faceguide.evaluate.attribution.attribution_options import Options
from faceguide.evaluate.attribution.protocol import blocks
from faceguide.evaluate.score import block_files

N = 12


def columns(cells: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    return {
        "cells": cells,
        "energy": cells.max(1),
        "error": np.zeros((len(cells), 200), np.uint8),
        "completeness": np.full(len(cells), np.nan),
        "quadrature": np.full(len(cells), np.nan),
    }


def found(cells: NDArray[np.float64], effect: NDArray[np.float64]) -> dict[str, Any]:
    table = {
        "clean": np.zeros(N),
        "masked": np.repeat(effect[:, :, None], 2, 2),
        "angle": np.repeat(effect[:, :, None], 2, 2),
    }
    maps = columns(cells)
    options = Options(replicates=50)
    judged = summary.judge(maps, table, range(N), options, 0.0)
    people = np.arange(2 * N).reshape(N, 2)
    return summary.summarise(judged, maps, people, range(N), options)


def test_a_method_cannot_win_by_maps_that_cannot_be_tested() -> None:
    effect = np.tile(np.arange(49.0), (N, 1))
    cells = effect.copy()
    cells[: N // 2] = 1.0  # flat
    cells[-2:] = 48 - effect[-2:]  # reversed
    record = found(cells, effect)
    assert record["n"] == N
    assert record["n_tested"] == N // 2
    assert record["uniform_share"] == 0.5
    assert record["verdict_fr"] == pytest.approx(2 / 6)
    assert record["pass_rate"] == pytest.approx(4 / 12)
    assert record["bounds"] == pytest.approx([2 / 12, 8 / 12])
    assert record["mean_fr"] == pytest.approx(2 / 6)
    assert record["mean_fr_embedding"] == pytest.approx(2 / 6)
    assert record["rate_histogram"] == {"zero": 4, "between": 0, "one": 2}
    assert record["causes"]["flat"]["count"] == 6
    # Angles of 40 and more exceed 0.75 rad, those of 8 and less are not all below 0.55.
    assert record["falsifiable"]["count"] == 0


def test_the_tau_criterion_reads_angles() -> None:
    effect = np.tile(np.linspace(0.2, 1.2, 49), (N, 1))
    assert found(effect, effect)["falsifiable"]["count"] == N
    assert found(effect, effect * 0.5)["falsifiable"]["count"] == 0


def rows(count: int) -> PairRows:
    rng = np.random.default_rng(0)
    return PairRows(
        np.arange(count),
        rng.integers(0, 9, count),
        rng.integers(9, 20, count),
        np.zeros(count, bool),
        None,
        count,
        [],
    )


def test_a_plan_keeps_every_pair_and_the_probes_together() -> None:
    plan = blocks.make_plan(rows(40), {}, 2, None, 0)
    assert sorted(plan.number) == list(range(40))
    probes = [set(plan.probe[plan.pairs_of(block)].tolist()) for block in range(plan.blocks)]
    assert sum(map(len, probes)) == len(set().union(*probes))
    assert max(map(len, probes)) == 2
    limited = blocks.make_plan(rows(40), {}, 2, 7, 0)
    assert len(limited) == 7
    assert limited.key != plan.key


def test_a_block_of_other_settings_counts_as_missing(tmp_path: Path) -> None:
    plan = blocks.make_plan(rows(4), {"seed": 0}, 100, None, 0)
    other = blocks.make_plan(rows(4), {"seed": 1}, 100, None, 0)
    path = blocks.block_path(tmp_path, blocks.TABLE, 0)
    block_files.write_block(path, plan.key, {"clean": np.arange(4.0)})
    np.testing.assert_array_equal(
        blocks.gather_blocks(tmp_path, plan, "table")["clean"], np.arange(4.0)
    )
    assert block_files.read_block(path, other.key) is None
    with pytest.raises(Unfinished, match="1 of 1 blocks of table are missing"):
        blocks.gather_blocks(tmp_path, other, "table")


def test_a_damaged_block_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table-00000.safetensors"
    path.write_bytes(b"something else")
    with pytest.raises(CacheError, match=r"table-00000.safetensors: not readable as safetensors"):
        block_files.read_block(path, "key")


def test_methods_of_users_have_files_of_their_own(tmp_path: Path) -> None:
    path = blocks.block_path(tmp_path, "my_methods:best/../x", 3)
    assert path.parent == tmp_path / "blocks"
    assert path.name == "maps-my_methods.best....x-00003.safetensors"
