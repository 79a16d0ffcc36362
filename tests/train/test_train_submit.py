"""`train submit … --print`; what a real Slurm makes of it is in cluster/."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.sbatch import directives, tasks

from faceguide.train.cli import main


@pytest.mark.parametrize("name", ["cal", "oaml"])
def test_a_process_per_gpu_of_every_node(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cache").mkdir()
    typed = ["submit", name, "cache", "--out", "runs/one", "--amp", "bf16", "--lr", "0.01"]
    result = CliRunner().invoke(
        main, [*typed, "--nodes", "2", "--gpus", "4", "--cpus", "8", "--time", "1-00", "--print"]
    )
    assert result.exit_code == 0, result.output
    asked = directives(result.stdout)
    assert (asked["nodes"], asked["ntasks-per-node"], asked["gpus-per-node"]) == ("2", "4", "4")
    assert (asked["cpus-per-task"], asked["time"]) == ("8", "1-00")
    assert (asked["job-name"], asked["signal"]) == (f"train-{name}", "B:USR1@90")
    assert "requeue" in asked
    assert "array" not in asked
    (found,) = tasks(result.stdout)
    assert found[:2] == ["train", name]
    words = [f"{tmp_path}/cache", f"--out={tmp_path}/runs/one", "--amp=bf16", "--lr=0.01"]
    assert sorted(found[2:]) == sorted(words)
    assert f"{tmp_path}/runs/one-jobs/" in result.stdout
    assert not (tmp_path / "runs").exists()
    assert CliRunner().invoke(main, [*found[1:], "--help"]).exit_code == 0
