"""A Slurm of one node for tests: its own munge key, socket, ports and folder, gone at the end."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue")
INSTALL = "apt-get install slurm-wlm munge"

_CONF = """
ClusterName=faceguidetest
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until its old credential has expired.
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CryptoType=crypto/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
KillWait=1
MinJobAge=3600
MaxArraySize=100
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running Slurm.

    Attributes:
        environment: in which its commands, and whatever calls them, find it.
        folder: its logs and state.
    """

    environment: dict[str, str]
    folder: Path

    def __call__(self, *command: str) -> str:
        """What a command prints; its failure is an error."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def states(self, job: str) -> dict[str, str]:
        """Task (or job) number → state, finished ones included."""
        lines = self("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def wait(self, reached: Callable[[], bool], what: str, seconds: float = 60) -> None:
        """Ask again and again; an error with Slurm's own view after too long."""
        deadline = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > deadline:
                view = self("squeue", "-r", "-t", "all")
                raise AssertionError(f"{what} did not happen in {seconds} s:\n{view}")
            time.sleep(0.1)


def lacking() -> str:
    """Why no Slurm can be started here; "" when it can."""
    os.environ["PATH"] += ":/usr/sbin"  # where Debian keeps the daemons
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    return f"no {', '.join(absent)}: {INSTALL}" if absent else ""


@contextmanager
def running() -> Iterator[Slurm]:
    """Start munged, slurmctld and slurmd; stop them, and whatever they run, at the end."""
    # Not in pytest's folder: the path of a socket may not be longer than 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)  # munged refuses others
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    conf = _CONF.format(
        host=socket.gethostname(),
        user=_user(),
        folder=folder,
        controller_port=_free_port(),
        node_port=_free_port(),
    )
    (folder / "slurm.conf").write_text(conf)
    environment = {
        **{name: value for name, value in os.environ.items() if "SLURM" not in name},
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    munged = [
        "munged", "--foreground", f"--key-file={key}", f"--socket={folder}/munge.sock",
        f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log",
        f"--seed-file={folder}/munge.seed",
    ]  # fmt: skip
    commands = [munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", "localhost"]]
    daemons: list[subprocess.Popen[bytes]] = []
    slurm = Slurm(environment, folder)
    try:
        for command in commands:
            daemons.append(
                subprocess.Popen(
                    command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
            if command is munged:
                slurm.wait((folder / "munge.sock").exists, "munged's socket", 20)
        slurm.wait(lambda: _idle(environment), "a node that is idle", 30)
        yield slurm
    finally:
        subprocess.run(["scancel", "--full", "-u", _user()], env=environment, capture_output=True)
        deadline = time.monotonic() + 10
        while (
            time.monotonic() < deadline
            and subprocess.run(["squeue", "-h"], env=environment, capture_output=True).stdout
        ):
            time.sleep(0.2)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(timeout=20)
        shutil.rmtree(folder, ignore_errors=True)


def _idle(environment: dict[str, str]) -> bool:
    found = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True)
    return found.stdout.strip() == b"idle"


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
