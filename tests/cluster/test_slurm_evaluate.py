"""`evaluate submit` on a real Slurm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cluster.private_slurm import Slurm
from tests.contents import contents
from tests.evaluate.builder import pairs_csv, small_cache, training_run, usable_pairs

pytestmark = pytest.mark.timeout(300)

EVALUATE = [sys.executable, "-m", "faceguide", "evaluate"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cache/ with 135 faces, which are three blocks; run/, a training run; pairs.csv."""
    folder = tmp_path_factory.mktemp("evaluate")
    small_cache(folder / "cache", rows=150)
    training_run(folder / "run")
    pairs_csv(folder / "pairs.csv", usable_pairs())
    return folder


def submit(slurm: Slurm, *arguments: object) -> dict[str, str]:
    """`evaluate submit …`: role → number of the job."""
    typed = [*EVALUATE, "submit", *map(str, arguments), "--cpus", "1", "--time", "20", "--json"]
    jobs: dict[str, str] = json.loads(slurm(*typed))
    return jobs


def log(folder: Path, job: str) -> str:
    (path,) = folder.glob(f"*-{job}.log")
    return path.read_text()


def test_an_array_and_its_merge_make_the_bytes_of_one_process(slurm: Slurm, place: Path) -> None:
    out = place / "out"
    command = [
        "verification", place / "cache", "--pairs", place / "pairs.csv", "--weights",
        place / "run", "--matcher", "qaconv+occlusion", "--bootstrap", 50, "--out", out,
    ]  # fmt: skip
    slurm(*EVALUATE, *map(str, command))
    alone = out.rename(place / "alone")
    jobs = submit(slurm, *command, "--parts", 2)
    ended = {jobs["merge"]: "COMPLETED"}
    slurm.wait(lambda: slurm.states(jobs["merge"]) == ended, "the merge", 120)
    for role in ("parts", "scores"):
        assert set(slurm.states(jobs[role]).values()) == {"COMPLETED"}
        assert len(slurm.states(jobs[role])) == 2
    assert "60 pairs: 30 of one identity" in log(place / "out-jobs", jobs["merge"])
    found, expected = contents(out), contents(alone)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == ["run.json"]
    about, before = (json.loads((run / "run.json").read_text()) for run in (out, alone))
    assert [name for name in about if about[name] != before[name]] == ["argv", "self"]


def test_the_merge_names_the_parts_that_are_missing(slurm: Slurm, place: Path) -> None:
    command = ["embed", place / "cache", "--weights", place / "run", "--out", place / "faces"]
    jobs = submit(slurm, *command, "--parts", 4, "--indices", "0,2")
    slurm.wait(lambda: slurm.states(jobs["merge"]) == {jobs["merge"]: "FAILED"}, "the merge", 90)
    assert "ExitCode=1:0" in slurm("scontrol", "show", "job", jobs["merge"])
    said = log(place / "faces-jobs", jobs["merge"])
    # Three blocks: part 3 has nothing to do.
    assert "1 of 4 parts are not finished (embeddings)" in said
    assert "--parts 4 --indices 1" in said
    done = subprocess.run([*EVALUATE, *map(str, command), "--part", "1/4"], capture_output=True)
    assert done.returncode == 0
    merged = slurm(*EVALUATE, "merge", str(place / "faces"), "--parts", "4")
    assert "135 faces, 0 new" in merged
