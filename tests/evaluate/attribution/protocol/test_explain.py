"""Blocks that a crew explains side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cache.builder import build
from tests.evaluate.attribution.networks import settled

from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.pairs.pair_rows import resolve
from faceguide.cache.reader import FaceCache
from faceguide.evaluate.attribution import job as jobs
from faceguide.evaluate.attribution.attribution_options import Options
from faceguide.evaluate.attribution.job import Job
from faceguide.evaluate.attribution.methods.method_table import METHODS
from faceguide.evaluate.attribution.methods.target import pair_score
from faceguide.evaluate.attribution.protocol.blocks import make_plan
from faceguide.evaluate.attribution.protocol.explain import maps_of, table_of
from faceguide.evaluate.attribution.protocol.infill import Donors
from faceguide.train.models.loading.network import Network

NAMES = ("saliency", "smoothgrad", "grad-cam", "layer-cam", "lrp", "random")


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    build(tmp_path / "cache", rows=14, shard_rows=14, size=112)
    cache = FaceCache.open(tmp_path / "cache")
    keys = cache.texts("key", cache.select())
    pairs = [f"{keys[a]},{keys[a + 1]},0" for a in range(5)]
    (tmp_path / "pairs.csv").write_text("\n".join(["a,b,same", *pairs]) + "\n")
    rows = resolve(cache, read_pairs(tmp_path / "pairs.csv", None))
    network = Network("mobilefacenet", settled("mobilefacenet"), "0" * 64)
    options = Options(samples=2, chunk=8, infills=("blur",))
    plan = make_plan(rows, {}, 8, None, 0)
    donors = Donors.of(cache, np.concatenate([rows.probe, rows.reference]))
    return Job(cache, plan, pair_score(network, "cosine"), options, donors)


def test_two_threads_find_what_one_finds(job: Job, threads: None) -> None:
    found = []
    for count in (1, 2):
        torch.set_num_threads(1)
        some = replace(job, workers=count, described={})
        assert len(some.crew) == count
        table = table_of(some, 0)
        found.append([table, *maps_of(some, [METHODS[name] for name in NAMES], 0, table)])
    for one, two in zip(*found, strict=True):
        assert one.keys() == two.keys()
        for name, values in one.items():
            np.testing.assert_array_equal(values, two[name], name)
        assert not one.get("error", np.zeros(1)).any()


def test_a_machine_with_little_memory_has_a_crew_of_one(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = replace(job, workers=2)
    monkeypatch.setattr(jobs, "physical_memory", lambda: 100 << 20)
    assert [one is many for one in many.crew] == [True]
