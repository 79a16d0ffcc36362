"""Processes of one training run: torchrun's variables first, then srun's, else one process."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from faceguide.train.errors import TrainError

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SRUN = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
# Rank 0 evaluates while the others wait at a barrier.
_TIMEOUT = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: 0 … world − 1; rank 0 writes.
        world: number of processes.
        local_rank: number on this node, which is also that of its GPU.
        address: host of rank 0.
        port: its port.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0


def from_environment(environment: Mapping[str, str] = os.environ) -> Processes:
    """Who this process is.

    torchrun's variables count first: inside a SLURM allocation both sets are there. Those of
    SLURM count only in a step that srun started (SLURM_STEP_ID), not in the batch script.

    Raises:
        TrainError: when only some of a set of variables are there; names them.
    """
    own = [name for name in _TORCHRUN[:3] if name in environment]
    if own:
        return Processes(*_numbers(environment, _TORCHRUN, "torchrun"))
    if "SLURM_STEP_ID" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1:
        rank, world, local, address, port = _numbers(environment, _SRUN, "srun")
        return Processes(rank, world, local, address, port)
    return Processes()


def _numbers(
    environment: Mapping[str, str], names: tuple[str, ...], launcher: str
) -> tuple[int, int, int, str, int]:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        there = [name for name in names if environment.get(name)]
        raise TrainError(
            f"{', '.join(there)} set but not {', '.join(missing)}: start with {launcher}, which "
            "sets all, or unset them to train in one process"
        )
    try:
        rank, world, local = (int(environment[name]) for name in names[:3])
        if launcher == "torchrun":
            address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        else:
            address = environment.get("MASTER_ADDR") or _first_host(environment)
            # Jobs that share a node must not share a port.
            port = int(environment.get("MASTER_PORT", 20000 + int(environment[names[3]]) % 20000))
    except ValueError as error:
        raise TrainError(f"{', '.join(names)} must be whole numbers: {error}") from None
    if not 0 <= rank < world:
        raise TrainError(f"{names[0]} must be from 0 to {names[1]} − 1, found {rank} of {world}")
    return rank, world, local, address, port


def _first_host(environment: Mapping[str, str]) -> str:
    """`node[03-07,12],gpu1` → `node03`."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    match = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    if match is None:
        raise TrainError(
            "SLURM_STEP_NODELIST does not name a host: set MASTER_ADDR to that of rank 0"
        )
    return match[1] + (match[2] or "")


def choose_device(name: str, processes: Processes) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device; several processes get a GPU each.

    Raises:
        TrainError: when CUDA is asked for and not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise TrainError(f"--device must be auto, cpu, cuda or cuda:N, found {name!r}") from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise TrainError(f"--device {name}: no CUDA device here; choose cpu")
        if device.index is None:
            device = torch.device("cuda", processes.local_rank)
        torch.cuda.set_device(device)
    return device


@contextmanager
def joined(processes: Processes, device: torch.device) -> Iterator[None]:
    """Connect the processes while the block runs: NCCL for CUDA, gloo for the CPU."""
    if processes.world == 1:
        yield
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"tcp://{processes.address}:{processes.port}"
        if "TORCHELASTIC_RUN_ID" not in os.environ
        else "env://",
        rank=processes.rank,
        world_size=processes.world,
        timeout=_TIMEOUT,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def world_size() -> int:
    """Number of connected processes; 1 when there is no group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def summed(tensor: Tensor) -> Tensor:
    """The sum over processes, without gradient."""
    if not dist.is_initialized():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def largest(tensor: Tensor) -> Tensor:
    """The element-wise maximum over processes, without gradient."""
    if not dist.is_initialized():
        return tensor
    top = tensor.detach().clone()
    dist.all_reduce(top, dist.ReduceOp.MAX)
    return top


def gathered(tensor: Tensor) -> Tensor:
    """(N, …) of each process → (world · N, …) of all, in the order of the undivided batch.

    Row i of process r is place i · world + r of the epoch's order. Gradients flow to this
    process's own rows alone.
    """
    if not dist.is_initialized():
        return tensor
    world, rank = dist.get_world_size(), dist.get_rank()
    flat = tensor.detach().contiguous()
    if flat.dtype == torch.bool:  # gloo gathers no booleans
        return gathered(tensor.to(torch.uint8)).to(torch.bool)
    parts = [torch.empty_like(flat) for _ in range(world)]
    dist.all_gather(parts, flat)
    parts[rank] = tensor
    return torch.stack(parts, dim=1).flatten(0, 1)  # (N, world, …) -> (N · world, …)


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()
