"""Who a process is; two processes learn what one with twice the batch learns."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.train.cal.scenario import EVERYTHING, tiny_run, train_tiny
from tests.train.processes import free_port

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import TrainError
from faceguide.train import rendezvous
from faceguide.train.distributed import Processes, choose_device, from_environment

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "node7",
    "MASTER_PORT": "29500",
}
SRUN = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "16",
    "SLURM_LOCALID": "2",
    "SLURM_JOB_ID": "12345",
    "SLURM_STEP_NODELIST": "gpu[03-04,11],big1",
}


def test_one_process_without_variables() -> None:
    assert from_environment({}) == Processes()
    assert from_environment({"MASTER_ADDR": "x", "PATH": "/bin"}) == Processes()


def test_torchrun_counts_before_slurm() -> None:
    expected = Processes(3, 8, 1, "node7", 29500)
    assert from_environment(TORCHRUN) == expected
    assert from_environment({**SRUN, **TORCHRUN}) == expected


def test_srun_is_understood_and_the_batch_script_is_not_srun() -> None:
    assert from_environment(SRUN) == Processes(5, 16, 2, "gpu03", 20000 + 12345)
    set_by_user = {**SRUN, "MASTER_ADDR": "head", "MASTER_PORT": "4000"}
    assert from_environment(set_by_user) == Processes(5, 16, 2, "head", 4000)
    script = {name: value for name, value in SRUN.items() if name != "SLURM_STEP_ID"}
    assert from_environment(script) == Processes()
    assert from_environment({**SRUN, "SLURM_NTASKS": "1"}) == Processes()


@pytest.mark.parametrize(
    "shell",
    [
        {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},  # of salloc
        {"SLURM_STEP_ID": "4294967290"},
        {"SLURM_STEP_ID": "4294967291"},  # a batch script, in newer Slurms
        {"SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "1"},  # srun -n 1 --pty in a larger job
    ],
)
def test_a_shell_in_an_allocation_is_one_process(shell: dict[str, str]) -> None:
    assert from_environment({**SRUN, **shell}) == Processes()


def test_the_step_tells_how_many_not_the_job() -> None:
    found = from_environment({**SRUN, "SLURM_STEP_NUM_TASKS": "8", "SLURM_STEP_ID": "3"})
    assert (found.rank, found.world) == (5, 8)
    # Two steps of a job at the same time have two ports.
    assert found.port != from_environment(SRUN).port
    with pytest.raises(TrainError, match=r"SLURM_STEP_NUM_TASKS .*'8x'"):
        from_environment({**SRUN, "SLURM_STEP_NUM_TASKS": "8x"})


# How many processes one sees that was typed at a terminal or started by srun as its first, and
# whose stdin is that terminal, or not, as in a step that is started from the shell.
SHELLS = """
import os, sys
from faceguide.train.distributed import from_environment
for leads in (False, True):
    for stdin in (int(sys.argv[1]), os.open(os.devnull, os.O_RDONLY)):
        if os.fork() == 0:
            if leads:
                os.setsid()
            os.dup2(stdin, 0)
            print(from_environment().world, flush=True)
            os._exit(0)
        os.wait()
"""


def test_a_shell_of_srun_pty_is_one_process_and_its_own_command_is_not() -> None:
    keeper, terminal = pty.openpty()
    step = {**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PTY_PORT": "40000"}
    done = subprocess.run(
        [sys.executable, "-c", SHELLS, str(terminal)], env={**os.environ, **step},
        pass_fds=[terminal], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["1", "2", "2", "2"], done.stderr
    os.close(keeper)
    os.close(terminal)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("rack[1-2]node[3-4]", "rack1node3"),
        ("n[1-2]-ib", "n1-ib"),
        ("cn-[0001-0004].cluster", "cn-0001.cluster"),
        ("node[03-07,12],gpu1", "node03"),
        ("jean-zay-ia810,x", "jean-zay-ia810"),
        ("a[1,3-4]b[07]-x[2].y,z[1-2]", "a1b07-x2.y"),
        ("[12-13]", "12"),
    ],
)
def test_a_list_of_nodes_is_read_whole(nodes: str, first: str) -> None:
    assert from_environment({**SRUN, "SLURM_STEP_NODELIST": nodes}).address == first


@pytest.mark.parametrize("nodes", ["n[1-", "n[a-c]", "n[]", "n{1,2}", "n[1-2]]", ",n1", "n 1", ""])
def test_a_list_of_nodes_that_is_not_understood_names_the_remedy(nodes: str) -> None:
    with pytest.raises(TrainError, match=r"set MASTER_ADDR"):
        from_environment({**SRUN, "SLURM_STEP_NODELIST": nodes})
    assert from_environment({**SRUN, "SLURM_STEP_NODELIST": nodes, "MASTER_ADDR": "h"}).world == 16


@pytest.mark.parametrize("missing", TORCHRUN)
def test_a_half_set_environment_is_refused_by_name(missing: str) -> None:
    if missing == "RANK":
        missing = "LOCAL_RANK"
    there = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(TrainError, match=rf"RANK.* set but not {missing}: start with torchrun"):
        from_environment(there)


def test_half_set_srun_and_nonsense_are_refused() -> None:
    without = {name: value for name, value in SRUN.items() if name != "SLURM_LOCALID"}
    with pytest.raises(TrainError, match=r"SLURM_LOCALID: .*srun"):
        from_environment(without)
    with pytest.raises(TrainError, match="must be whole numbers"):
        from_environment({**TORCHRUN, "RANK": "first"})
    with pytest.raises(TrainError, match=r"RANK .*found 8 of 8"):
        from_environment({**TORCHRUN, "RANK": "8"})


def test_devices() -> None:
    assert choose_device("cpu", Processes()) == torch.device("cpu")
    with pytest.raises(TrainError, match=r"--device .*cuda:N, found 'gpu'"):
        choose_device("gpu", Processes())
    if not torch.cuda.is_available():
        assert choose_device("auto", Processes()) == torch.device("cpu")
        with pytest.raises(TrainError, match="no CUDA device"):
            choose_device("cuda", Processes())


def start(small_cache: FaceCache, out: Path, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    words = [
        *(sys.executable, "-m", "faceguide", "train", "cal", small_cache.directory, "--out", out),
        *("--model", "cal_mobilefacenet", "--heads", "4", "--crop", "32", "--batch-size", "4"),
        *("--steps", "1", "--device", "cpu", "--no-views", "--threads", "1"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        list(map(str, words)), env=environment, stderr=subprocess.PIPE, text=True
    )


STEP = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "4711"}


@pytest.mark.parametrize(("rank", "number"), [("0", signal.SIGTERM), ("1", signal.SIGINT)])
def test_who_waits_says_for_what_and_ends_on_a_signal(
    rank: str, number: signal.Signals, small_cache: FaceCache, tmp_path: Path
) -> None:
    port = str(free_port())
    step = {**STEP, "SLURM_PROCID": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    with start(small_cache, tmp_path / "run", step) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line == f"waiting for 2 processes at localhost:{port}\n"
        process.send_signal(number)
        began = time.monotonic()
        assert process.wait(20) == 4
        assert time.monotonic() - began < 10
    assert not (tmp_path / "run").exists()


def test_a_process_whose_fellow_is_refused_ends_in_a_line(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    train_tiny(small_cache, tmp_path / "run", steps=1)  # with other settings
    step = {**STEP, "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    both = [start(small_cache, tmp_path / "run", {**step, "SLURM_PROCID": rank}) for rank in "01"]
    first, second = (process.communicate(timeout=100)[1].splitlines() for process in both)
    assert [process.returncode for process in both] == [1, 1]
    assert "holds a run with other settings" in first[-1]
    assert second[-1].startswith("Error: another process of the run ")
    assert not any("Traceback" in line for line in first + second)


def test_the_shell_of_an_allocation_trains(small_cache: FaceCache, tmp_path: Path) -> None:
    shell = {**STEP, "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967290"}
    with start(small_cache, tmp_path, shell) as process:
        assert process.wait(100) == 0
        assert process.stderr is not None
        assert "processes: 1" in process.stderr.read()


def test_the_wait_for_the_others_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "PATIENCE", 0.5)
    port = free_port()
    with pytest.raises(TrainError, match=rf"3 processes at localhost:{port}: 1 of 3 came.*MAST"):
        rendezvous.meet(0, 3, "localhost", port)
    port = free_port()
    with pytest.raises(TrainError, match=rf"nothing answers at localhost:{port} within"):
        rendezvous.meet(1, 2, "localhost", port)


def test_two_runs_at_one_port_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "PATIENCE", 5)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(TrainError, match=r"cannot meet there .*MASTER_PORT"):
            rendezvous.meet(0, 2, "localhost", port)
    port = free_port()
    code = (
        "import sys; from faceguide.train import rendezvous; rendezvous.PATIENCE = 60; "
        f"rendezvous.meet(0, 2, 'localhost', {port})"
    )
    keeper = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    try:
        monkeypatch.setattr(rendezvous, "PATIENCE", 60)
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")  # not to be the keeper
        with pytest.raises(TrainError, match=r"MASTER_PORT"):
            rendezvous.meet(0, 2, "localhost", port)
    finally:
        keeper.kill()
        keeper.communicate()


def test_two_processes_equal_one_with_twice_the_batch(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    """All methods on, BatchNorm frozen: the same weights, up to the order of sums."""
    run = tiny_run(EVERYTHING, batch_size=8, freeze_norm=True)
    # 36 rows: padded to 40 in either case.
    train_tiny(small_cache, tmp_path / "one", run, steps=6)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *("-m", "faceguide", "train", "cal", str(small_cache.directory), "--out", tmp_path / "two"),
        *("--model", "cal_mobilefacenet", "--heads", "8", "--crop", "32", "--batch-size", "4"),
        *("--lr", "2e-4", "--freeze-norm", "--epochs", "9", "--steps", "6", "--log-every", "1"),
        *("--guide", "loss", "--guide", "regions", "--guide", "regions-log", "--guide", "prior"),
        *("--guide", "counterfactual", "--guide", "contrastive"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert "processes: 2" in done.stderr
    one, two = (load_file(tmp_path / name / "backbone.safetensors") for name in ("one", "two"))
    centres = [
        torch.load(tmp_path / name / "last.pt", weights_only=True)["module"]["centres"]
        for name in ("one", "two")
    ]
    torch.testing.assert_close(centres[0], centres[1], rtol=1e-4, atol=1e-6)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=2e-6, msg=name)
