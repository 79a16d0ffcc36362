"""`… submit` of commands that are one job."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from faceguide.cache.cluster_commands import job_command
from faceguide.core.errors import FaceguideError

pytest.importorskip("submitit", reason="pip install 'faceguide[cluster]'")


NONE = frozenset[str]()


@click.command("learn")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--views/--no-views", default=True)
@click.option("--guide", multiple=True)
def learn(**options: object) -> None:
    """Never called."""


def test_a_process_per_gpu_on_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = job_command("train", learn, "data/ --out run/", here=NONE, results="out")
    typed = ["data", "--out", "run", "--no-views", "--guide", "a=1", "--guide", "b"]
    result = CliRunner().invoke(command, [*typed, "--nodes", "2", "--gpus", "4", "--print"])
    assert result.exit_code == 0, result.output
    assert "#SBATCH --nodes=2\n" in result.stdout
    assert "#SBATCH --ntasks-per-node=4\n" in result.stdout
    assert "#SBATCH --gpus-per-node=4\n" in result.stdout
    assert f"{tmp_path}/run-jobs/" in result.stdout
    assert result.stdout.endswith(
        f"# task 0: faceguide train learn --out={tmp_path}/run --no-views --guide=a=1 --guide=b "
        f"-- {tmp_path}/data\n"
    )
    for more, processes in (((), 1), (("--gpus", "1", "--tasks-per-node", "3"), 3)):
        result = CliRunner().invoke(command, [*typed, *more, "--print"])
        assert f"#SBATCH --ntasks-per-node={processes}\n" in result.stdout
        assert "#SBATCH --nodes=1\n" in result.stdout


def test_an_option_that_would_mean_two_things_is_refused() -> None:
    taken = click.Command("x", params=[click.Option(["--out"]), click.Option(["--partition"])])
    with pytest.raises(FaceguideError, match=r"x: --partition means two things"):
        job_command("train", taken, "", here=NONE, results="out")
