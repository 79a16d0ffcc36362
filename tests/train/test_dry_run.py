"""`--dry-run` of the trainers: all is checked, nothing is written, and a run does what it said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.cache.builder import build
from tests.train.distil.scenario import weights

from faceguide.cache.reader import FaceCache
from faceguide.train.cli import main
from faceguide.train.run.metrics_log import read_metrics

WORDS = {
    "cal": "--model cal_mobilefacenet --heads 8 --batch-size 6 --epochs 2",
    "oaml": "--backbone mobilefacenet --sampler shuffle --lr 0.001 --batch-size 6 --epochs 2 "
    "--accumulate 2",
    "distil": "--steps 3 --batch-size 8",
}
STEPS = {"cal": 6, "oaml": 4, "distil": 3}  # 18 images in batches of 6, twice; by twos


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 18 usable faces and weights."""
    folder = tmp_path_factory.mktemp("rehearsed")
    build(folder / "cache", rows=20, shard_rows=16, size=112)
    weights(folder / "released.pt")
    return folder


def train(trainer: str, place: Path, out: Path, *more: str) -> Result:
    init = ("--init", str(place / "released.pt")) if trainer == "distil" else ()
    words = (trainer, str(place / "cache"), "--out", str(out), *WORDS[trainer].split(), *init)
    return CliRunner().invoke(main, [*words, "--device", "cpu", *more])


@pytest.mark.parametrize("trainer", WORDS)
def test_a_dry_run_says_what_is_trained_and_writes_nothing(
    trainer: str, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    done = train(trainer, place, out, "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert not out.exists()
    assert found["command"] == f"train {trainer}"
    assert found["steps"] == STEPS[trainer]
    assert found["identities"] <= len(FaceCache.open(place / "cache").identities)
    assert found["images"] <= 18
    assert (found["resumes"], found["processes"]) == (False, 1)
    text = train(trainer, place, out, "--dry-run")
    assert f"images: {found['images']}\n" in text.stdout


def test_a_run_is_as_long_as_its_dry_run_said(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = train("cal", place, out, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == STEPS["cal"]
    assert max(line["step"] for line in read_metrics(out)) == STEPS["cal"]
    found = json.loads(train("cal", place, out, "--dry-run", "--json").stdout)
    assert found["resumes"]


def test_a_dry_run_refuses_what_a_run_refuses(place: Path, tmp_path: Path) -> None:
    done = train("distil", place, tmp_path / "run", "--alter", "surround=0.5", "--dry-run")
    assert done.exit_code == 1
    assert "--alter" in done.output
    assert not (tmp_path / "run").exists()
