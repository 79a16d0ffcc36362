"""Commands as Slurm jobs, through submitit: arrays of parts, and a job that waits for them.

A task is a command line of faceguide in a process of its own; nothing else travels to the node.
A task that Slurm preempts or that runs out of time puts itself back into the queue and goes on
with what is missing, since every command does that when it is repeated.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from faceguide.core.commands.console import INTERRUPTED
from faceguide.core.errors import FaceguideError

_SIGNAL_BEFORE = 90  # seconds before the time limit at which Slurm warns a task
_SAVING = 60  # seconds that a warned command has to save its work
_GRACE = 600  # seconds in which Slurm ends a task that it has sent SIGTERM
_REQUEUES = 20  # a task that runs out of time this often will not end at all


@dataclass(frozen=True)
class Cluster:
    """What every task of a job gets from Slurm.

    Attributes:
        logs: folder, visible from all nodes, of logs and submission files.
        partition: Slurm's, None for its default.
        minutes: time limit of one task; beyond it the task is queued again.
        memory: of one task, as Slurm writes it (8G); None for its default.
        cpus: of one task.
        gpus: of one task.
        array_parallelism: tasks of an array that run together at most.
    """

    logs: Path
    partition: str | None = None
    minutes: int = 240
    memory: str | None = None
    cpus: int = 4
    gpus: int = 0
    array_parallelism: int = 256


@dataclass(frozen=True)
class Job:
    """One job, or an array of jobs, behind an earlier one.

    Attributes:
        name: Slurm's name for it.
        commands: arguments behind `faceguide` of each task; several make an array.
        after: whether the job before this one must have succeeded ("ok") or only ended ("any").
        light: one processor and no GPU suffice.
        nodes: of each task.
        tasks_per_node: processes that run the command on each node.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    after: str = "ok"
    light: bool = False
    nodes: int = 1
    tasks_per_node: int = 1


class Task:
    """One command line as submitit calls it on the node."""

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self.arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._told_to_end = False

    def __call__(self) -> None:
        """Run the command; its exit code becomes that of the task."""
        command = [sys.executable, "-m", "faceguide", *self.arguments]
        print(shlex.join(command), flush=True)
        signal.signal(signal.SIGTERM, self._note)
        self._process = subprocess.Popen(command, preexec_fn=_ignore_warnings)
        # Not wait(): a signal just before it blocks would be heard only after the command's end.
        while (code := self._process.poll()) is None:
            time.sleep(0.2)
        if code and (self._told_to_end or _follows(code)):
            # Slurm is about to cancel this task or to queue it again. A task that ends before
            # that has failed, and stays so.
            time.sleep(_GRACE)
        if code:
            sys.exit(code if code > 0 else 128 - code)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """Slurm sends SIGTERM to the command as well, which saves its work and ends."""
        self._told_to_end = True

    def checkpoint(self) -> Any:
        """The same command, once this one has saved its work.

        submitit asks for it, on Slurm's warning, before it queues the task again.
        """
        from submitit.helpers import DelayedSubmission

        if self._process is not None and self._process.returncode is None:
            # Not poll(): this runs in a signal handler, perhaps in the midst of that very call.
            ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
            deadline = time.monotonic() + _SAVING
            with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it ended just now
                os.kill(self._process.pid, signal.SIGUSR1)
                while time.monotonic() < deadline:
                    if os.waitid(os.P_PID, self._process.pid, ended) is not None:
                        break
                    time.sleep(0.1)
        return DelayedSubmission(Task(self.arguments))


def _follows(code: int) -> bool:
    """Whether a process of several stopped because the first one was warned.

    The first one alone queues the job again; clusters may end a job as soon as one process fails.
    """
    return code == INTERRUPTED and os.environ.get("SLURM_PROCID", "0") != "0"


def _ignore_warnings() -> None:
    """Slurm warns every process of a task; the command waits until its parent tells it to stop."""
    for number in (signal.SIGUSR2, signal.SIGCONT):
        signal.signal(number, signal.SIG_IGN)


def submit(jobs: Sequence[Job], cluster: Cluster) -> list[str]:
    """Submit jobs, each behind the one before it; return Slurm's job numbers.

    Raises:
        FaceguideError: when submitit or Slurm is not there, or Slurm refuses.
    """
    submitit = _submitit()
    numbers: list[str] = []
    for job in jobs:
        try:
            executor = submitit.SlurmExecutor(cluster.logs / "%j", max_num_timeout=_REQUEUES)
            executor.update_parameters(**_parameters(job, cluster, numbers))
            with executor.batch():
                tasks = [executor.submit(Task(command)) for command in job.commands]
            numbers.append(str(tasks[0].job_id).partition("_")[0])
        except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
            lines = [line for line in str(error).splitlines() if "error" in line.lower()]
            reason = (lines or [str(error)])[-1].strip()
            before = f" (already submitted: {', '.join(numbers)})" if numbers else ""
            raise FaceguideError(
                f"Slurm did not take the job {job.name}: {reason}{before}"
            ) from None
    return numbers


def scripts(jobs: Sequence[Job], cluster: Cluster) -> str:
    """The sbatch scripts that `submit` would submit, with the commands of their tasks."""
    _submitit()
    # Private, but an executor, which has it in public, can only be made where Slurm is.
    from submitit.slurm.slurm import _make_sbatch_string

    texts = []
    for position, job in enumerate(jobs):
        before = [f"<{jobs[position - 1].name}>"] if position else []
        many = len(job.commands) > 1
        script = _make_sbatch_string(
            command=f"{shlex.quote(sys.executable)} -u -m submitit.core._submit "
            f"{shlex.quote(str(cluster.logs / '%j'))}",
            folder=cluster.logs / "%j",
            map_count=len(job.commands) if many else None,
            **_parameters(job, cluster, before),
        )
        commands = [
            f"# task {task}: faceguide {shlex.join(command)}"
            for task, command in enumerate(job.commands)
        ]
        texts.append("\n".join([script.rstrip(), "", *commands]))
    return "\n\n".join(texts)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError:
        raise FaceguideError(
            "submitting needs submitit: pip install 'faceguide[cluster]'"
        ) from None
    return submitit


def _parameters(job: Job, cluster: Cluster, before: Sequence[str]) -> dict[str, Any]:
    """The keyword arguments of submitit for one job; None values are left to Slurm."""
    # A task on a node that fails must come back, whatever the cluster's own rule is.
    further: dict[str, Any] = {"requeue": True}
    cpus = 1 if job.light else cluster.cpus
    wanted: dict[str, Any] = {
        "job_name": job.name,
        "partition": cluster.partition,
        "time": cluster.minutes,
        "mem": cluster.memory,
        "nodes": job.nodes,
        "ntasks_per_node": job.tasks_per_node,
        "cpus_per_task": cpus,
        # Since Slurm 22.05 srun does not take this over from sbatch.
        "srun_args": [f"--cpus-per-task={cpus}"],
        "gpus_per_node": None if job.light or not cluster.gpus else cluster.gpus,
        "array_parallelism": cluster.array_parallelism,
        "signal_delay_s": _SIGNAL_BEFORE,
    }
    if before:
        wanted["dependency"] = f"after{job.after}:{before[-1]}"
        further["kill-on-invalid-dep"] = "yes"  # else it would wait for ever
    parameters = {name: value for name, value in wanted.items() if value is not None}
    return {**parameters, "additional_parameters": further}
