"""`… submit` of any command: what was typed reaches the tasks."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from tests.sbatch import directives, tasks

from faceguide.core.commands.slurm import Job, Request, submit_group


@click.command("learn")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--views/--no-views", default=True)
@click.option("--guide", multiple=True)
@click.option("--part")
@click.option("--overwrite", is_flag=True)
def learn(**options: object) -> None:
    """Never called.

    \b
    Examples:
      train learn data/ \\
        --out run/
      train learn data/ --out again/
    """


TYPED = ["learn", "data", "--out", "run", "--no-views", "--guide", "a=1", "--guide", "-b"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_command_as_one_job(tmp_path: Path) -> None:
    group = submit_group("train", [learn], "Train.")
    result = CliRunner().invoke(group, [*TYPED, "--nodes", "2", "--gpus", "4", "--print"])
    assert result.exit_code == 0, result.output
    words = [f"{tmp_path}/data", f"--out={tmp_path}/run", "--no-views", "--guide=a=1", "--guide=-b"]
    assert sorted(tasks(result.stdout)[0]) == sorted(["train", "learn", *words])
    assert directives(result.stdout)["output"].startswith(f"{tmp_path}/run-jobs/")
    assert directives(result.stdout)["nodes"] == "2"
    assert list(tmp_path.iterdir()) == []


def both(request: Request) -> dict[str, Job]:
    first = Job("first", request.words("--more", without=["--guide"]))
    return {"first": first, "rest": Job("rest", request.words(), "array", "any")}


def test_a_command_as_an_array(tmp_path: Path) -> None:
    group = submit_group("train", [learn, click.Command("other")], "Train.", both)
    assert list(group.commands) == ["learn"]
    result = CliRunner().invoke(group, [*TYPED, "--indices", "63,3-4", "--parts", "64", "--print"])
    assert result.exit_code == 0, result.output
    first, *rest = tasks(result.stdout)
    assert first[:3] == ["train", "learn", "--more"]
    assert not any(word.startswith("--guide") for word in first)
    assert [task[-1] for task in rest] == ["--part=63/64", "--part=3/64", "--part=4/64"]
    assert "#SBATCH --dependency='afterany:<first>'" in result.stdout


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--indices", "16"], "16 is not among 0 to 15"),
        (["--indices", "3-16"], "16 is not among 0 to 15"),
        (["--indices", "1;2"], "expected numbers of parts"),
        (["--indices", "1,"], "expected numbers of parts"),
        (["--indices", "1", "--overwrite"], "--overwrite starts over"),
        (["--part", "0/4"], "No such option"),
        (["--nodes", "2"], "No such option"),
    ],
)
def test_refusals(wrong: list[str], message: str) -> None:
    group = submit_group("train", [learn], "Train.", both)
    result = CliRunner().invoke(group, [*TYPED, *wrong, "--print"])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize("limit", ["90", "90:30", "1:30:00", "2-00", "1-02:03", "1-02:03:04"])
def test_time_limits_go_to_slurm_as_they_are(limit: str) -> None:
    group = submit_group("train", [learn], "Train.")
    result = CliRunner().invoke(group, [*TYPED, "--time", limit, "--print"])
    assert directives(result.stdout)["time"] == limit


def test_the_example_is_the_commands_own() -> None:
    result = CliRunner().invoke(submit_group("train", [learn], "Train."), ["learn", "--help"])
    assert "train submit learn data/ \\\n      --out run/ --cpus 8 --print\n" in result.output
