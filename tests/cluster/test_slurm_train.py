"""`train submit` on a real Slurm: two processes, preempted, on the way to the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.cache.builder import build
from tests.cluster.private_slurm import Slurm

from faceguide.train.run.metrics_log import read_metrics

pytestmark = pytest.mark.timeout(400)

STEPS = 16


def test_a_preempted_training_goes_on_to_the_weights_of_an_undisturbed_one(
    slurm: Slurm, tmp_path: Path
) -> None:
    build(tmp_path / "cache", rows=40, shard_rows=16, occlusion=False, size=40)
    command = [
        "cal", str(tmp_path / "cache"), "--model", "cal_mobilefacenet", "--heads", "8",
        "--crop", "32", "--batch-size", "4", "--lr", "2e-4", "--log-every", "1",
        "--epochs", "99", "--steps", str(STEPS), "--guide", "regions", "--out",
    ]  # fmt: skip
    cli = [sys.executable, "-m", "faceguide", "train"]
    torchrun = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
        "-m", *cli[2:], *command, str(tmp_path / "undisturbed"),
    ]  # fmt: skip
    # One thread each, as torchrun sets it: sums depend on it.
    environment = {**slurm.environment, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(torchrun, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    out = tmp_path / "run"
    submitted = subprocess.run(
        [*cli, "submit", *command, str(out), "--tasks-per-node", "2", "--cpus", "1",
         "--time", "20", "--json"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert submitted.returncode == 0, submitted.stderr
    job = json.loads(submitted.stdout)["job"]
    slurm.wait(lambda: steps(out) >= 1, "the first step", 120)
    slurm("scancel", "--batch", "--signal=USR1", job)  # as on preemption
    slurm.wait(lambda: slurm.states(job) != {job: "RUNNING"}, "the way back into the queue")
    assert 1 <= steps(out) < STEPS
    slurm.wait(lambda: slurm.states(job) == {job: "COMPLETED"}, "the end", 120)
    assert "Restarts=1" in slurm("scontrol", "show", "job", job)
    (log,) = tmp_path.glob(f"run-jobs/*-{job}.log")
    logs = log.read_text()
    assert "processes: 2" in logs
    assert "Interrupted; what is finished is kept" in logs
    assert "resuming" in logs
    assert [line["step"] for line in read_metrics(out) if line["kind"] == "train"] == [
        *range(1, STEPS + 1)
    ]
    runs = (out, tmp_path / "undisturbed")
    found, expected = (load_file(run / "backbone.safetensors") for run in runs)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def steps(run: Path) -> int:
    """Optimiser steps that a run has logged."""
    return len(read_metrics(run)) if (run / "metrics.jsonl").exists() else 0
