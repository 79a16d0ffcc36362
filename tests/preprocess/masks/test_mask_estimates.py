"""`prep masks --estimate`: estimates stand beside masks, never in their place."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cache.builder import build
from tests.evaluate.builder import training_run, weights_file

from faceguide.cache import manifest
from faceguide.cache.cli import main as cache_command
from faceguide.cache.reader import FaceCache
from faceguide.cache.shard import write_shard
from faceguide.preprocess.cli import main as prep
from faceguide.train.models.loading.network import load_network


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_run(tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Twenty faces in three shards; every second visibility is known."""
    build(tmp_path / "cache", rows=20, shard_rows=8, size=112)
    return tmp_path / "cache"


def estimate(directory: Path, run: Path, *further: str, code: int = 0) -> Result:
    result = CliRunner().invoke(
        prep,
        ["masks", "--cache", str(directory), "--estimate", str(run), "--jobs", "1", *further],
        catch_exceptions=False,
    )
    assert result.exit_code == code, result.output
    return result


COLUMNS = ["visibility", "known", "status"]


def test_fills_what_no_mask_says(directory: Path, run: Path) -> None:
    before = FaceCache.open(directory).read(np.arange(20), COLUMNS)
    done = json.loads(estimate(directory, run, "--json").stdout)
    cache = FaceCache.open(directory)
    after = cache.read(np.arange(20), [*COLUMNS, "estimated", "image"])
    known, good = before["known"], before["status"] == 0
    assert np.array_equal(after["visibility"][known], before["visibility"][known])
    assert np.array_equal(after["estimated"], good & ~known)
    assert np.array_equal(after["known"], known | after["estimated"])
    assert done["estimated"] == after["estimated"].sum() == done["status"]["estimated"] > 0
    network = load_network(None, run)
    pixels = network.input_spec.prepare(after["image"][after["estimated"]])
    assert network.occlusion_head is not None
    seen = network.occlusion_head(network.backbone.feature_map(pixels))[:, 0]  # type: ignore[operator]
    assert after["visibility"][after["estimated"]] == pytest.approx(seen.numpy(), abs=2e-3)
    assert done["compared_faces"] == (known & good).sum()
    verified = CliRunner().invoke(cache_command, ["verify", str(directory)])
    assert verified.exit_code == 0, verified.output


@settings(max_examples=6, deadline=None)
@given(told=st.lists(st.booleans(), min_size=6, max_size=6), seed=st.integers(0, 2**32))
def test_known_rows_stay_bit_for_bit(
    told: list[bool], seed: int, tmp_path_factory: pytest.TempPathFactory, run: Path
) -> None:
    rng = np.random.default_rng(seed)
    directory = tmp_path_factory.mktemp("faces") / "cache"
    plan = build(directory, rows=6, shard_rows=4, size=112)
    recipe = manifest.group_recipe(directory, plan, "occlusion")
    assert recipe is not None
    for shard in range(plan.shards):
        rows = plan.rows_of(shard)
        known = np.array(told[shard * 4 :][:rows])
        visibility = rng.random((rows, 7, 7)).astype(np.float16)
        visibility[~known] = 1
        report = {"status": {"ok": rows}, "failures": []}
        with write_shard(
            directory, "occlusion", shard, recipe, rows=rows, texts={}, report=report
        ) as writer:
            writer.write("visibility", 0, visibility)
            writer.write("known", 0, known)
            writer.write("status", 0, np.zeros(rows, np.uint8))
    manifest.seal(directory, "occlusion")
    before = FaceCache.open(directory).read(np.arange(6), COLUMNS)
    estimate(directory, run)
    after = FaceCache.open(directory).read(np.arange(6), [*COLUMNS, "estimated"])
    known = before["known"]
    assert after["known"][known].all()
    assert not after["estimated"][known].any()
    assert after["visibility"][known].tobytes() == before["visibility"][known].tobytes()


def test_another_head_starts_from_the_masks_and_resumes(
    directory: Path, run: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(run, other)
    weights_file(other / "occlusion_head.pt", "occlusion_head", 9, channels=512)
    fresh = tmp_path / "fresh"
    shutil.copytree(directory, fresh)
    estimate(fresh, other)
    estimate(directory, run)
    estimate(directory, other, "--part", "1/3")  # as if killed after one shard
    assert "occlusion" not in FaceCache.open(directory).groups
    estimate(directory, other)
    for path in sorted(fresh.glob("occlusion-*.h5")):
        assert path.read_bytes() == (directory / path.name).read_bytes()


def test_without_any_masks(tmp_path: Path, run: Path) -> None:
    directory = tmp_path / "cache"
    build(directory, rows=10, shard_rows=8, size=112, occlusion=False)
    said = estimate(directory, run).stdout
    assert "how good the estimates are is not known" in said
    cache = FaceCache.open(directory)
    assert len(cache.select(known_occlusion=True)) == len(cache.select())


def test_masks_that_contradict_are_a_doubt(directory: Path, run: Path) -> None:
    plan = manifest.require_plan(directory)
    recipe = manifest.group_recipe(directory, plan, "occlusion")
    assert recipe is not None
    for shard in range(plan.shards):
        rows = plan.rows_of(shard)
        faces = np.arange(shard * plan.shard_rows, shard * plan.shard_rows + rows)
        cache = FaceCache.open(directory)
        images = cache.read(faces, ["image"])["image"]
        network = load_network(None, run)
        assert network.occlusion_head is not None
        pixels = network.input_spec.prepare(images)
        seen = network.occlusion_head(network.backbone.feature_map(pixels))[:, 0]  # type: ignore[operator]
        inverted = (seen.numpy() < 0.5).astype(np.float16)
        report = {"status": {"ok": rows}, "failures": []}
        with write_shard(
            directory, "occlusion", shard, recipe, rows=rows, texts={}, report=report
        ) as writer:
            writer.write("visibility", 0, inverted)
            writer.write("known", 0, np.ones(rows, bool))
            writer.write("status", 0, np.zeros(rows, np.uint8))
    manifest.seal(directory, "occlusion")
    result = estimate(directory, run, "--json")
    count = json.loads(result.stdout)["doubts"]["contradicted_masks"]
    assert count == len(FaceCache.open(directory).select())
    assert "contradict the estimate" in result.stderr


def test_refusals(directory: Path, run: Path, tmp_path: Path) -> None:
    assert "keeps the masks" in estimate(directory, run, "--clean", ".", code=2).output
    headless = tmp_path / "headless"
    shutil.copytree(run, headless)
    record = json.loads((headless / "run.json").read_text())
    del record["models"]["occlusion_head"]
    (headless / "run.json").write_text(json.dumps(record))
    assert "no occlusion head" in estimate(directory, headless, code=1).output
    small = tmp_path / "small"
    build(small, rows=6, shard_rows=8, size=16)
    assert "16 pixels" in estimate(small, run, code=1).output
    # nothing was changed by any of them
    assert "estimate" not in FaceCache.open(directory).groups["occlusion"]["recipe"]
