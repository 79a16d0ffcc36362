"""Commands on their way to Slurm: scripts, time limits, refusals. The way back is in cluster/."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.sbatch import directives

from faceguide.cache.cluster import Cluster, Job, scripts, submit
from faceguide.cache.cluster_options import Minutes
from faceguide.core.errors import FaceguideError

pytest.importorskip("submitit", reason="pip install 'faceguide[cluster]'")

JOBS = (
    Job("first", (("prep", "plan"),), light=True),
    Job("parts", tuple(("prep", "landmarks", f"--part={i}/3") for i in range(3))),
    Job("last", (("cache", "seal", "a b"),), after="any", light=True),
)


def test_the_scripts_say_what_was_asked_for() -> None:
    cluster = Cluster(
        Path("/logs"), partition="long", minutes=90, memory="8G", cpus=6, gpus=2,
        array_parallelism=2,
    )  # fmt: skip
    first, parts, last = (
        "#!/bin/bash" + text for text in scripts(JOBS, cluster).split("#!/bin/bash")[1:]
    )
    asked = directives(parts)
    assert asked["array"] == "0-2%2"
    assert asked["dependency"] == "'afterok:<first>'"
    assert asked["time"] == "90"
    assert asked["mem"] == "8G"
    assert asked["cpus-per-task"] == "6"
    assert asked["gpus-per-node"] == "2"
    assert asked["partition"] == "long"
    assert asked["signal"] == "USR2@90"
    assert "requeue" in asked
    assert "srun --unbuffered" in parts
    assert "--cpus-per-task=6" in parts.partition("srun")[2]
    assert "# task 2: faceguide prep landmarks --part=2/3" in parts
    assert directives(last)["dependency"] == "'afterany:<parts>'"
    assert "array" not in directives(last)
    assert "# task 0: faceguide cache seal 'a b'" in last
    for script in (first, last):
        assert directives(script)["cpus-per-task"] == "1"
        assert "gpus-per-node" not in directives(script)
    assert "dependency" not in directives(first)


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90), ("90:30", 91), ("1:30:00", 90), ("2-00", 2880), ("1-02:03", 1563),
        ("1-02:03:04", 1564),
    ],
)  # fmt: skip
def test_time_limits_are_read_as_slurm_reads_them(text: str, minutes: int) -> None:
    assert Minutes().convert(text, None, None) == minutes


@pytest.mark.parametrize("text", ["", "1h", "0", "0:30", "1:2:3:4", "-5"])
def test_other_time_limits_are_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"expected minutes|a minute at least"):
        Minutes().convert(text, None, None)


def test_without_slurm_submitting_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FaceguideError, match=r"Slurm did not take the job first: .*srun"):
        submit(JOBS, Cluster(tmp_path / "logs"))


def test_a_tasks_exit_code_is_that_of_its_command() -> None:
    run = "from faceguide.cache.cluster import Task; Task({!r})()"
    for arguments, code in ((("cache", "--version"), 0), (("cache", "info", "/nowhere"), 2)):
        found = subprocess.run([sys.executable, "-c", run.format(arguments)], capture_output=True)
        assert found.returncode == code


@pytest.fixture
def task(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A task whose command works until it is told to stop, and exits 4 as ours do."""
    command = tmp_path / "command"
    command.write_text(
        "#!/bin/sh\ntrap 'echo saved; exit 4' TERM USR1\necho ready\nwhile :; do sleep 0.05; done\n"
    )
    command.chmod(0o755)
    script = (
        "import os, signal, sys; from faceguide.cache.cluster import Task\n"
        f"sys.executable = {str(command)!r}; task = Task(('prep',))\n"
        "def again(*_):\n"
        "    print(task.checkpoint().function.arguments, flush=True); os._exit(7)\n"
        "signal.signal(signal.SIGUSR2, again); task()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"{command} -m faceguide prep\n"
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # until the task waits for its command
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_process_that_follows_waits_for_the_first_one(tmp_path: Path) -> None:
    """Where a cluster ends jobs with failed processes, its end would come before the requeue."""
    command = tmp_path / "command"
    command.write_text("#!/bin/sh\nexit 4\n")
    command.chmod(0o755)
    run = f"import sys; sys.executable = {str(command)!r}\n"
    script = [sys.executable, "-c", f"from faceguide.cache.cluster import Task; {run}Task(())()"]
    for number, code in (("0", 4), ("1", None)):
        environment = {**os.environ, "SLURM_PROCID": number}
        process = subprocess.Popen(script, env=environment, stdout=subprocess.DEVNULL)
        if code is not None:
            assert process.wait(timeout=20) == code
        else:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=3)
            process.kill()
            process.wait()


def test_a_warned_task_saves_before_it_is_queued_again(task: subprocess.Popen[str]) -> None:
    os.killpg(task.pid, signal.SIGUSR2)  # as Slurm does, to every process of the task
    assert task.communicate(timeout=20)[0] == "saved\n('prep',)\n"
    assert task.returncode == 7


def test_a_task_told_to_end_waits_for_slurm_to_end_it(task: subprocess.Popen[str]) -> None:
    """A task that ends by itself in the grace time of a preemption would not come back."""
    os.killpg(task.pid, signal.SIGTERM)
    assert task.stdout is not None
    assert task.stdout.readline() == "saved\n"
    with pytest.raises(subprocess.TimeoutExpired):
        task.wait(timeout=0.5)
