"""What a real Slurm does to the script of a job: time limit, preemption by SIGTERM, scancel."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.cluster.private_slurm import Slurm

from faceguide.core.commands.slurm import ArrayLimits, Job, Limits, NodeLimits, submit

pytestmark = pytest.mark.timeout(200)

COMMAND = """#!/bin/bash
[ "${SLURM_RESTART_COUNT:-0}" -gt 0 ] && exit 0
trap 'echo saved; exit 4' USR1 TERM
echo working
while :; do sleep 0.1; done
"""
ARRAY, SRUN = Job("array", ("work",), "array"), Job("srun", ("work",), "srun")


@pytest.fixture
def logs(slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an awkward name; commands that work until they are signalled, but once."""
    folder = tmp_path / "50% of 'it'"
    folder.mkdir()
    (folder / "python").write_text(COMMAND)
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    return folder


def start(slurm: Slurm, job: Job, limits: Limits, processes: int = 1) -> tuple[str, Path]:
    """Number and log of a job that works."""
    number = submit({"job": job}, limits)["job"]
    assert limits.logs is not None
    log = limits.logs / f"{job.name}-{number}{'_1' * (job.kind == 'array')}.log"
    slurm.wait(lambda: log.exists() and log.read_text().count("working") == processes, "the start")
    return number, log


def state(slurm: Slurm, job: str) -> str:
    return "".join(slurm.states(job).values())


@pytest.mark.parametrize(
    ("job", "limits"),
    [(ARRAY, ArrayLimits(cpus=1, parts=2, indices="1")), (SRUN, NodeLimits(cpus=1))],
)
def test_what_is_cancelled_does_not_come_back(
    slurm: Slurm, logs: Path, job: Job, limits: Limits
) -> None:
    number, log = start(slurm, job, replace(limits, logs=logs))
    slurm("scancel", number)
    slurm.wait(lambda: "saved" in log.read_text(), "the end of the command")
    slurm.wait(lambda: state(slurm, number) == "CANCELLED", "the end")
    assert "Restarts=0" in slurm("scontrol", "show", "job", number)


def test_processes_told_to_end_are_requeued_together(slurm: Slurm, logs: Path) -> None:
    """In the grace time of a preemption the processes get SIGTERM, and the script gets nothing."""
    number, log = start(slurm, SRUN, NodeLimits(logs=logs, cpus=1, tasks_per_node=2), 2)
    slurm("scancel", "--signal=TERM", number)
    slurm.wait(lambda: state(slurm, number) == "COMPLETED", "the end")
    assert log.read_text().count("saved") == 2
    assert "Restarts=1" in slurm("scontrol", "show", "job", number)


def test_a_task_out_of_time_saves_and_resumes(slurm: Slurm, logs: Path) -> None:
    limits = ArrayLimits(logs=logs, cpus=1, time="2", parts=2, indices="1")
    number, log = start(slurm, ARRAY, limits)
    slurm.wait(lambda: state(slurm, number) == "COMPLETED", "the end", 150)
    assert log.read_text().count("saved") == 1
    assert "Restarts=1" in slurm("scontrol", "show", "job", number)
