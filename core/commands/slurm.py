"""Commands as Slurm jobs: a script runs one command, which resumes whenever it is requeued."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import click

from faceguide.core.errors import FaceguideError

Kind = Literal["light", "array", "srun"]


def _option(help: str, default: Any = None, kind: Kind | None = None, **click_options: Any) -> Any:
    about = {"kind": kind, "click": {"help": help, **click_options}}
    return field(default=default, metadata=about)


_COUNT = click.IntRange(1)


@dataclass(frozen=True)
class Limits:
    """What a user asks of Slurm. Fields are options of `… submit`, some only of a kind of job."""

    parts: int = _option("Tasks of the array.", 16, "array", type=_COUNT)
    indices: str = _option("Only these parts: 1,3,10-12.  [default: all]", "", "array")
    array_parallelism: int = _option("Tasks at the same time.", 256, "array", type=_COUNT)
    nodes: int = _option("Machines.", 1, "srun", type=_COUNT)
    tasks_per_node: int | None = _option("[default: one per GPU]", None, "srun", type=_COUNT)
    partition: str | None = _option("Slurm's partition.  [default: the cluster's]")
    time: str = _option("Limit of a task, which then resumes.", "4:00:00", metavar="H:MM:SS")
    memory: str | None = _option("Of a node.  [default: the cluster's]", metavar="8G")
    cpus: int = _option("Of a process.", 4, type=_COUNT)
    gpus: int = _option("Of a node.", 0, type=click.IntRange(0))
    logs: str = _option("[default: next to the results]", "", type=click.Path(file_okay=False))


@dataclass(frozen=True)
class Job:
    """One command: on one processor, as an array of `--part i/N`, or on all nodes by srun."""

    name: str
    words: tuple[str, ...]  # after `faceguide`
    kind: Kind = "light"
    after: Literal["ok", "any"] = "ok"  # the job before it has succeeded, or has ended


def script(job: Job, limits: Limits, before: str | None = None) -> str:
    """The sbatch script of a job; `before` is the number of the job that it waits for."""
    from jinja2 import Template

    command = shlex.join([sys.executable, "-m", "faceguide", *job.words])
    if job.kind == "array":
        command += f' --part="$SLURM_ARRAY_TASK_ID/{limits.parts}"'
    folder = limits.logs.replace("%", "%%")
    text = Path(__file__).with_suffix(".sh").read_text()
    template = Template(text, trim_blocks=True, lstrip_blocks=True)
    return template.render(
        job=job, limits=limits, before=before, folder=folder, command=command, quote=shlex.quote
    )


def submit(jobs: Iterable[Job], limits: Limits) -> list[str]:
    """Submit jobs, each dependent on the one before it; return Slurm's job numbers.

    Raises:
        FaceguideError: when Slurm is not here or refuses a job.
    """
    if shutil.which("sbatch") is None:
        raise FaceguideError("no sbatch here: submit where Slurm is; --print shows the scripts")
    Path(limits.logs).mkdir(parents=True, exist_ok=True)  # Slurm makes no folder for its logs
    numbers: list[str] = []
    for job in jobs:
        text = script(job, limits, numbers[-1] if numbers else None)
        sbatch = ["sbatch", "--parsable"]
        done = subprocess.run(sbatch, input=text, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.replace("sbatch: ", "").replace("error: ", "").strip().splitlines()
            undo = f"; scancel {' '.join(numbers)} withdraws the others" if numbers else ""
            raise FaceguideError(f"Slurm refused the job {job.name}: {'; '.join(said)}{undo}")
        numbers.append(done.stdout.strip().partition(";")[0])  # number;cluster
    return numbers
