"""`evaluate submit … --print`; what a real Slurm makes of it is in cluster/."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.sbatch import directives, tasks

from faceguide.evaluate.cli import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what the options name."""
    for name in ("cache", "run", "IJBC"):
        (tmp_path / name).mkdir()
    (tmp_path / "pairs.csv").write_text("a,b,same\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["submit", *map(str, arguments)])


def scripts(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return ["#!/bin/bash" + text for text in result.stdout.split("#!/bin/bash")[1:]]


def test_an_array_and_a_merge_behind_it(place: Path) -> None:
    typed = [
        "verification", "cache", "--pairs", "pairs.csv", "--weights", "run", "--no-flip",
        "--seed", -3, "--out", "lfw", "--overwrite",
    ]  # fmt: skip
    array, merge = scripts(
        submit(*typed, "--parts", 3, "--gpus", 1, "--memory", "9G", "--time", 30,
               "--array-parallelism", 2, "--partition", "big", "--print")
    )  # fmt: skip
    words = [
        f"--pairs={place}/pairs.csv", f"--weights={place}/run", "--no-flip", "--seed=-3",
        f"--out={place}/lfw", "--overwrite", f"{place}/cache",
    ]  # fmt: skip
    found = tasks(array)
    for part, task in enumerate(found):
        assert task[:2] == ["evaluate", "verification"]
        assert sorted(task[2:]) == sorted([*words, f"--part={part}/3"])
    asked = directives(array)
    assert (asked["array"], asked["gpus-per-node"], asked["mem"]) == ("0-2%2", "1", "9G")
    assert (asked["time"], asked["partition"], asked["signal"]) == ("30", "big", "B:USR1@90")
    assert "requeue" in asked
    assert tasks(merge) == [["evaluate", "merge", "--parts=3", "--allow-failures", f"{place}/lfw"]]
    asked = directives(merge)
    assert asked["dependency"] == "afterany:<evaluate-verification>"
    assert "gpus-per-node" not in asked
    assert f"{place}/lfw-jobs/" in merge
    assert not (place / "lfw").exists()
    understood = CliRunner().invoke(main, [*found[0][1:], "--help"])
    assert understood.exit_code == 0


@pytest.mark.parametrize(
    ("typed", "jobs"),
    [
        (("embed", "cache", "--maps"), 2),
        (("identification", "cache"), 2),
        (("identification", "cache", "--matcher", "qaconv"), 3),
        (("ijb", "IJBC"), 2),
        (("ijb", "IJBC", "--matcher", "fused", "--fuse", "cosine=1", "--fuse", "qaconv=1"), 3),
        (("attribution", "cache", "--pairs", "pairs.csv", "--matcher", "qaconv"), 2),
    ],
)
def test_scores_that_need_all_faces_are_an_array_of_their_own(
    place: Path, typed: tuple[str, ...], jobs: int
) -> None:
    command = [*typed, "--weights", "run", "--out", "out", "--parts", 8, "--indices", "3,5-6"]
    found = scripts(submit(*command, "--print"))
    assert len(found) == jobs
    for script in found[:-1]:
        assert [task[-1] for task in tasks(script)] == [f"--part={i}/8" for i in (3, 5, 6)]
    if jobs == 3:
        assert tasks(found[1]) == tasks(found[0])
        assert directives(found[1])["dependency"] == f"afterany:<evaluate-{typed[0]}>"
        assert directives(found[2])["dependency"] == f"afterany:<evaluate-{typed[0]}-scores>"


def test_refusals(place: Path) -> None:
    command = ["embed", "cache", "--weights", "run", "--out", "out", "--parts", 4]
    for wrong, message in (
        (("--indices", "4"), "4 is not among 0 to 3"),
        (("--part", "0/4"), "No such option '--part'"),
    ):
        refused = submit(*command, *wrong, "--print")
        assert refused.exit_code == 2
        assert message in refused.output
    assert not shutil.which("sbatch") or not (place / "out-jobs").exists()
