"""Who a process is; two processes learn what one with twice the batch learns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.train.scenario import tiny_run, train_tiny

from faceguide.cache.reader import FaceCache
from faceguide.train.distributed import Processes, choose_device, from_environment
from faceguide.train.errors import TrainError
from faceguide.train.guidance import GuidanceSettings

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


@pytest.mark.parametrize("missing", TORCHRUN)
def test_a_half_set_environment_is_refused_by_name(missing: str) -> None:
    if missing == "RANK":
        missing = "LOCAL_RANK"
    there = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(TrainError, match=rf"RANK.* set but not {missing}: start with torchrun"):
        from_environment(there)


def test_half_set_srun_and_nonsense_are_refused() -> None:
    without = {name: value for name, value in SRUN.items() if name != "SLURM_LOCALID"}
    with pytest.raises(TrainError, match="set but not SLURM_LOCALID: start with srun"):
        from_environment(without)
    with pytest.raises(TrainError, match="must be whole numbers"):
        from_environment({**TORCHRUN, "RANK": "first"})
    with pytest.raises(TrainError, match="RANK must be from 0 to WORLD_SIZE − 1, found 8 of 8"):
        from_environment({**TORCHRUN, "RANK": "8"})


def test_devices() -> None:
    assert choose_device("cpu", Processes()) == torch.device("cpu")
    with pytest.raises(TrainError, match="--device must be auto, cpu, cuda or cuda:N, found 'gpu'"):
        choose_device("gpu", Processes())
    if not torch.cuda.is_available():
        assert choose_device("auto", Processes()) == torch.device("cpu")
        with pytest.raises(TrainError, match="no CUDA device here; choose cpu"):
            choose_device("cuda", Processes())


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_batch(
    small_cache: FaceCache, tmp_path: Path
) -> None:
    """All methods on, BatchNorm frozen: the same weights, up to the order of sums."""
    guidance = GuidanceSettings(0.3, 1.0, 0.1, True, 0.3, 0.1)
    run = tiny_run(guidance, batch_size=8, freeze_norm=True)
    # 36 rows: padded to 40 in either case.
    train_tiny(small_cache, tmp_path / "one", run, steps=7)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"),
        *("-m", "faceguide", "train", "cal", str(small_cache.directory), "--out", tmp_path / "two"),
        *("--model", "cal_mobilefacenet", "--heads", "8", "--crop", "32", "--batch-size", "4"),
        *("--lr", "2e-4", "--freeze-norm", "--epochs", "9", "--steps", "7", "--log-every", "1"),
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
