"""The script of a Slurm job: what it asks for, what it does on a signal; the rest in cluster/."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.sbatch import directives, tasks

from faceguide.core.commands.slurm import ArrayLimits, Job, Limits, NodeLimits, script, submit
from faceguide.core.errors import FaceguideError

FIRST = Job("first", ("prep", "plan"))
PARTS = Job("parts", ("prep", "landmarks", "a b"), "array")
LAST = Job("last", ("cache", "seal", "a b"), after="any")


def test_the_scripts_say_what_was_asked_for() -> None:
    limits = ArrayLimits(
        logs=Path("/logs of/50%"), partition="long", time="1:30:00", memory="8G", cpus=6, gpus=2,
        parts=3, indices="0,2", array_parallelism=2,
    )  # fmt: skip
    first, parts, last = (
        script(FIRST, limits),
        script(PARTS, limits, "7"),
        script(LAST, limits, "8"),
    )
    asked = directives(parts)
    assert asked == {
        "job-name": "parts", "output": "/logs of/50%%/%x-%A_%a.log", "open-mode": "append",
        "time": "1:30:00", "partition": "long", "mem": "8G", "cpus-per-task": "6",
        "gpus-per-node": "2", "array": "0,2%2", "dependency": "afterok:7",
        "kill-on-invalid-dep": "yes", "signal": "B:USR1@90", "requeue": "",
    }  # fmt: skip
    assert tasks(parts) == [["prep", "landmarks", "a b", f"--part={i}/3"] for i in (0, 2)]
    assert directives(last)["dependency"] == "afterany:8"
    assert tasks(last) == [["cache", "seal", "a b"]]
    for light in (first, last):
        assert directives(light)["cpus-per-task"] == "1"
        assert not {"array", "gpus-per-node", "nodes"} & directives(light).keys()
        assert "srun" not in light
    assert "dependency" not in directives(first)


@pytest.mark.parametrize(
    ("more", "processes"), [({}, "1"), ({"gpus": 4}, "4"), ({"gpus": 1, "tasks_per_node": 3}, "3")]
)
def test_a_process_per_gpu_of_each_node(more: dict[str, int], processes: str) -> None:
    text = script(Job("learn", ("train", "cal"), "srun"), NodeLimits(nodes=2, cpus=8, **more))
    assert directives(text)["nodes"] == "2"
    assert directives(text)["ntasks-per-node"] == processes
    assert "srun --cpus-per-task=8 " in text


def test_without_slurm_submitting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FaceguideError, match="no sbatch here"):
        submit({"first": FIRST}, Limits(logs=tmp_path / "logs"))
    assert not (tmp_path / "logs").exists()


class Task:
    """A script that bash runs; its command and Slurm's are shell scripts."""

    def __init__(
        self, folder: Path, command: str, restarts: int = 0, state: str = "RUNNING"
    ) -> None:
        self.requeued = folder / "requeued"
        programs = {
            "python": command,
            "scontrol": f'echo "$@" >{self.requeued}',
            "squeue": f'[[ "$*" = *jobs=17_2 ]] && echo {state}',
        }
        for name, text in programs.items():
            (folder / name).write_text(f"#!/bin/bash\n{text}\n")
            (folder / name).chmod(0o755)
        text = script(PARTS, ArrayLimits(parts=3)).replace(sys.executable, str(folder / "python"))
        environment = {
            **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "17",
            "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "2",
            "SLURM_RESTART_COUNT": str(restarts),
        }  # fmt: skip
        self.process = subprocess.Popen(
            ["bash", "-c", text], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def ready(self) -> None:
        """Wait until the command works, and bash waits for it."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        time.sleep(0.2)

    def end(self) -> tuple[int, str]:
        """Exit code of the script, and the task that was requeued."""
        code = self.process.wait(timeout=20)
        return code, self.requeued.read_text() if self.requeued.exists() else ""


SAVES = "trap 'sleep 0.5; echo saved; exit 4' USR1; echo ready; while :; do sleep 0.05; done"


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_is_that_of_the_command(tmp_path: Path, code: int) -> None:
    assert Task(tmp_path, f"exit {code}").end() == (code, "")


def test_the_command_gets_its_part(tmp_path: Path) -> None:
    task = Task(tmp_path, 'echo "$*"')
    assert task.process.communicate()[0] == "-m faceguide prep landmarks a b --part=2/3\n"


def test_a_warned_command_saves_and_only_its_task_is_requeued(tmp_path: Path) -> None:
    task = Task(tmp_path, SAVES)
    task.ready()
    task.process.send_signal(signal.SIGUSR1)
    time.sleep(0.1)
    task.process.send_signal(signal.SIGUSR1)  # a second warning while it saves
    assert task.end() == (4, "requeue 17_2\n")
    assert task.process.stdout is not None
    assert task.process.stdout.readline() == "saved\n"


def test_an_interrupted_command_is_requeued_without_a_warning(tmp_path: Path) -> None:
    assert Task(tmp_path, "exit 4").end() == (4, "requeue 17_2\n")


def test_a_command_warned_before_it_listens_is_requeued(tmp_path: Path) -> None:
    task = Task(tmp_path, "echo ready; exec sleep 20")
    task.ready()
    task.process.send_signal(signal.SIGUSR1)
    assert task.end() == (128 + signal.SIGUSR1, "requeue 17_2\n")


def test_a_command_that_fails_when_warned_is_not_requeued(tmp_path: Path) -> None:
    task = Task(tmp_path, SAVES.replace("exit 4", "exit 1"))
    task.ready()
    task.process.send_signal(signal.SIGUSR1)
    assert task.end() == (1, "")


def test_a_cancelled_task_is_not_requeued(tmp_path: Path) -> None:
    task = Task(tmp_path, SAVES.replace("USR1", "TERM"))
    task.ready()
    os.killpg(task.process.pid, signal.SIGTERM)  # as `scancel` does
    assert task.end() == (-signal.SIGTERM, "")


def test_a_task_that_hears_of_its_end_too_late_is_not_requeued(tmp_path: Path) -> None:
    """Slurm signals one process after the other: the command may have ended before the script."""
    assert Task(tmp_path, "exit 4", state="COMPLETING").end() == (4, "")


def test_requeueing_ends(tmp_path: Path) -> None:
    task = Task(tmp_path, "exit 4", restarts=20)
    assert task.end() == (4, "")
    assert task.process.stderr is not None
    assert "not finished after 20 requeues" in task.process.stderr.read()
