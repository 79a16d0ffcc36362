"""`train … --from run.json`: the same weights again, and what is refused."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tests.cache.builder import build, write_group

from faceguide.cache.manifest import group_recipe, seal, set_recipe
from faceguide.cache.plan import load_plan
from faceguide.cache.reader import FaceCache
from faceguide.core.files import read_json, write_json
from faceguide.train.cli import main
from faceguide.train.models import create

CAL = [
    *("cal", "--model", "cal_mobilefacenet", "--heads", "8", "--crop", "32", "--batch-size", "6"),
    *("--heads-per-region", "3,2,1", "--guide", "regions=0.7", "--guide", "contrastive"),
    *("--meta", "split=s1", "--lr", "0.0002", "--seed", "3", "--steps", "2", "--device", "cpu"),
]


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def done(*words: object) -> Result:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def first(
    small_cache: FaceCache, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """A run of `train cal` with a file behind every kind of option; its folder, weights, pairs."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("first")
    rows = small_cache.select(meta={"split": "s1"})
    keys = small_cache.texts("key", rows)
    labels = small_cache.read(rows, ["label"])["label"].tolist()
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("a", "b", "same")]
            + [
                (keys[i], keys[j], int(labels[i] == labels[j]))
                for i in range(len(keys))
                for j in range(i)
            ]
        )
    torch.manual_seed(1)
    torch.save(create("mobilefacenet").state_dict(), folder / "face.pt")
    pairs = ["--pairs", folder / "pairs.csv", "--contrastive-pairs", folder / "pairs.csv"]
    done(*CAL, *pairs, small_cache.directory, "--init", folder / "face.pt", "--out", folder / "run")
    return folder / "run", folder / "face.pt", folder / "pairs.csv"


def test_cal_from_its_record_gives_the_same_bytes(
    first: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    run, _, _ = first
    result = done("cal", "--from", run / "run.json", "--out", tmp_path / "again")
    assert "Note" not in result.stderr.replace("pairs", "")
    weights = "backbone.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (run / weights).read_bytes()
    before, after = (read_json(folder / "run.json") for folder in (run, tmp_path / "again"))
    assert before["settings"] == after["settings"]
    assert before["inputs"] == after["inputs"]
    # The same command again goes on in its folder, and an option on the command line wins.
    assert (
        "at step 2" in done("cal", "--from", run / "run.json", "--out", tmp_path / "again").stderr
    )
    done("cal", "--from", run / "run.json", "--out", tmp_path / "other", "--seed", 4)
    assert (tmp_path / "other" / weights).read_bytes() != (run / weights).read_bytes()
    assert read_json(tmp_path / "other" / "run.json")["settings"]["seed"] == 4


def test_oaml_from_its_record_gives_the_same_bytes(tmp_path: Path) -> None:
    build(tmp_path / "faces", rows=24, shard_rows=16, occlusion=False, size=112)
    build(tmp_path / "veiled", rows=16, shard_rows=16, size=112, seed=5)
    done(
        *("oaml", tmp_path / "faces", "--out", tmp_path / "a", "--backbone", "mobilefacenet"),
        *("--niqab", tmp_path / "veiled", "--batch-size", 6, "--images-per-person", 3),
        *("--occlusion-batch", 2, "--steps", 1, "--device", "cpu", "--no-augment"),
        *("--occluders", "band", "--occluders", "medical", "--min-images", 1),
    )
    done("oaml", "--from", tmp_path / "a" / "run.json", "--out", tmp_path / "b")
    for role in ("backbone", "head", "matcher", "occlusion_head"):
        one, other = (tmp_path / run / f"{role}.safetensors" for run in "ab")
        assert one.read_bytes() == other.read_bytes()
    refused = call("cal", "--from", tmp_path / "a" / "run.json", "--out", tmp_path / "c")
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"Error: {tmp_path / 'a' / 'run.json'}: ")
    assert "'train oaml'" in refused.stderr
    assert refused.stderr.count("\n") == 1


def changed(run: Path, folder: Path, **fields: Any) -> Path:
    """A copy of a run's record with other fields."""
    write_json(folder / "run.json", {**read_json(run / "run.json"), **fields})
    return folder / "run.json"


def refusal(*words: object) -> str:
    """The one line with which a command ends."""
    result = call(*words)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_another_cache_is_refused_by_both_names(
    first: tuple[Path, Path, Path], small_cache: FaceCache, tmp_path: Path
) -> None:
    run, _, _ = first
    build(tmp_path / "cache", rows=40, shard_rows=16, occlusion=False, size=40, seed=9)
    words = ["cal", tmp_path / "cache", "--from", run / "run.json", "--out", tmp_path / "again"]
    line = refusal(*words)
    assert f"CACHE {tmp_path / 'cache'} is not what that run was made of (faces " in line
    here = read_json(run / "run.json")["inputs"]["cache_directory"]["faces"][:16]
    assert f"{here} there" in line
    # Heatmaps that were drawn anew are another cache too; a copy elsewhere is the same.
    shutil.copytree(small_cache.directory, tmp_path / "copy")
    words[1] = tmp_path / "copy"
    done(*words)
    shutil.rmtree(tmp_path / "again")
    manifest = tmp_path / "copy" / "manifest-guidance.json"
    write_json(manifest, {**read_json(manifest), "bytes": 1})
    assert "was made of (guidance " in refusal(*words)
    assert not (tmp_path / "again").exists()


def test_weights_and_pairs_must_be_what_they_were(
    first: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    run, _, _ = first
    options = read_json(run / "run.json")["settings"]
    weights = tmp_path / "face.pt"
    record = changed(run, tmp_path, settings={**options, "init": str(weights)})
    words = ["cal", "--from", record, "--out", tmp_path / "again"]
    assert f"its --init {weights} is gone; restore it" in refusal(*words)
    torch.save(create("mobilefacenet").state_dict(), weights)
    line = refusal(*words)
    assert f"--init {weights} is not what that run was made of (face.pt " in line
    # Given here, it is this run's own choice.
    done(*words, "--init", weights)


def test_what_else_is_said_and_refused(first: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run, _, _ = first
    record = read_json(run / "run.json")
    words = ["cal", "--from", tmp_path / "run.json", "--out", tmp_path / "again"]
    changed(run, tmp_path, versions={**record["versions"], "torch": "1.0"})
    assert "was made otherwise (torch 1.0 → " in done(*words).stderr
    changed(run, tmp_path, settings={**record["settings"], "colour": "red"})
    assert "this version has no option colour" in refusal(*words)
    changed(run, tmp_path, settings={**record["settings"], "views": "yes"})
    assert "views cannot be 'yes'" in refusal(*words)
    changed(run, tmp_path, settings={**record["settings"], "heads": {"a": 1}})
    assert "heads cannot be {'a': 1}" in refusal(*words)
    inputs = {"init": []}
    for fields in ({"settings": None}, {"inputs": inputs}, {"versions": 1}, {"fixed": [2]}):
        changed(run, tmp_path, **fields)
        assert "holds no options to repeat" in refusal(*words)
    (tmp_path / "run.json").write_text("{}")
    assert "changed since it was written" in refusal(*words)


def test_groups_that_the_run_does_not_read_may_have_come_since(
    small_cache: FaceCache, first: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """Masks for guided CAL, heatmaps for plain CAL, and both for the cache of --pairs."""
    run, _, pairs = first
    shutil.copytree(small_cache.directory, tmp_path / "masked")
    add_masks(tmp_path / "masked")
    done("cal", tmp_path / "masked", "--from", run / "run.json", "--out", tmp_path / "guided")

    plain = [word for word in CAL if not word.startswith(("--guide", "regions=", "contrastive"))]
    done(*plain, small_cache.directory, "--pairs", pairs, "--eval-cache", small_cache.directory,
         "--out", tmp_path / "plain")  # fmt: skip
    manifest = tmp_path / "masked" / "manifest-guidance.json"
    write_json(manifest, {**read_json(manifest), "bytes": 1})
    again = ["cal", tmp_path / "masked", "--from", tmp_path / "plain" / "run.json", "--out"]
    done(*again, tmp_path / "again", "--eval-cache", tmp_path / "masked")
    # OAML learns from masks wherever there are any.
    build(tmp_path / "faces", rows=24, shard_rows=16, occlusion=False, size=112)
    oaml = ["oaml", "--backbone", "mobilefacenet", "--batch-size", 6, "--images-per-person", 3]
    oaml += ["--steps", 1, "--device", "cpu", "--min-images", 1]
    done(*oaml, tmp_path / "faces", "--out", tmp_path / "o")
    add_masks(tmp_path / "faces")
    line = refusal("oaml", "--from", tmp_path / "o" / "run.json", "--out", tmp_path / "p")
    assert "was made of (occlusion None there, " in line


def add_masks(directory: Path) -> None:
    """The group of masks, as `prep masks` adds it to a cache."""
    plan = load_plan(directory)
    settings: dict[str, Any] = {"grid": 7}
    set_recipe(directory, plan, "occlusion", settings, replace=False)
    recipe = group_recipe(directory, plan, "occlusion")
    assert recipe is not None
    for shard in range(plan.shards):
        write_group(directory, plan, "occlusion", recipe, shard)
    seal(directory, "occlusion")
