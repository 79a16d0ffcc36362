"""Processes of one training run: torchrun's variables first, then srun's, else one process."""

from __future__ import annotations

import datetime
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from faceguide.core.errors import TrainError
from faceguide.train.rendezvous import meet

_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SRUN = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_JOB_ID")
# From here on Slurm numbers steps that srun did not start: the shell of salloc, a batch script.
_NO_STEP_OF_SRUN = 0xFFFFFFF0
# Rank 0 evaluates while the others wait at a barrier.
_TIMEOUT = datetime.timedelta(hours=2)
_RANGES = r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*"
_HOST = re.compile(rf"(?:[\w.-]|\[{_RANGES}\])+", re.ASCII)


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: 0 … world − 1; rank 0 writes.
        local_rank: number on this node, which is also that of its GPU.
        address, port: of rank 0.
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
    SLURM count only in a task that srun started, not in a batch script nor in a shell that
    `salloc` or `srun --pty` opened: there they tell how large the allocation is.

    Raises:
        TrainError: when only some of a set of variables are there; names them.
    """
    own = [name for name in _TORCHRUN[:3] if name in environment]
    if own:
        return Processes(*_numbers(environment, _TORCHRUN, "torchrun"))
    # Of the step, where this Slurm tells it: SLURM_NTASKS may be that of the whole job.
    tasks = "SLURM_STEP_NUM_TASKS" if environment.get("SLURM_STEP_NUM_TASKS") else _SRUN[1]
    step = _whole(environment, "SLURM_STEP_ID", _NO_STEP_OF_SRUN)
    if step >= _NO_STEP_OF_SRUN or _whole(environment, tasks, 1) <= 1 or _in_a_shell(environment):
        return Processes()
    rank, world, local, address, port = _numbers(environment, (_SRUN[0], tasks, *_SRUN[2:]), "srun")
    return Processes(rank, world, local, address, port)


def _whole(environment: Mapping[str, str], name: str, default: int) -> int:
    try:
        return int(environment.get(name) or default)
    except ValueError:
        raise TrainError(f"{name} must be a whole number, found {environment[name]!r}") from None


def _in_a_shell(environment: Mapping[str, str]) -> bool:
    """Whether the command was typed in a shell of `srun --pty`.

    Steps that are started from that shell inherit its variables, but not its terminal; a command
    that `srun --pty` starts itself leads the session of its terminal.
    """
    return (
        "SLURM_PTY_PORT" in environment
        and sys.stdin is not None
        and sys.stdin.isatty()
        and os.getsid(0) != os.getpid()
    )


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
            # Jobs that share a node, and steps of a job, must not share a port.
            own = int(environment[names[3]]) + 1000 * int(environment["SLURM_STEP_ID"])
            port = int(environment.get("MASTER_PORT", 20000 + own % 20000))
    except ValueError as error:
        raise TrainError(f"{', '.join(names)} must be whole numbers: {error}") from None
    if not 0 <= rank < world:
        raise TrainError(f"{names[0]} must be from 0 to {names[1]} − 1, found {rank} of {world}")
    return rank, world, local, address, port


def _first_host(environment: Mapping[str, str]) -> str:
    """`rack[1-2]node[03-07,12]-ib,gpu1` → `rack1node03-ib`."""
    for name in ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST"):
        nodes = environment.get(name, "")
        if nodes:
            break
    first = _HOST.match(nodes)
    # Behind the first host comes another or nothing, else a part was not understood.
    if first is None or nodes[first.end() : first.end() + 1] not in ("", ","):
        raise TrainError(
            f"{name}: {nodes!r} does not name a host in a known form: set MASTER_ADDR to the host "
            "of rank 0"
        )
    return re.sub(r"\[(\d+)[^]]*\]", r"\1", first[0])


def choose_device(name: str, processes: Processes) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N` as a device, or a TrainError; each process gets a GPU."""
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
    """Connect the processes while the block runs: NCCL for CUDA, gloo for the CPU.

    Raises:
        TrainError: when not all of them come, see `rendezvous.meet`; when one ends before the
            others.
    """
    if processes.world == 1:
        yield
        return
    store = meet(processes.rank, processes.world, processes.address, processes.port)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=processes.rank,
        world_size=processes.world,
        timeout=_TIMEOUT,
    )
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistBackendError) or "gloo/transport" in str(error):
            raise TrainError("another process of the run has ended; see its message") from error
        raise
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


def anyone(mine: bool, device: torch.device) -> bool:
    """Whether it is so in any process: all must stop at one step, or they wait forever."""
    if not dist.is_initialized():
        return mine
    return bool(largest(torch.tensor(float(mine), device=device)).item())


def gathered(tensor: Tensor) -> Tensor:
    """(N, …) of each process → (world · N, …) of all, in the order of the undivided batch.

    Row i of process r is place i · world + r of the epoch's order. Gradients flow to this
    process's own rows only.
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


def data_parallel(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    """The module, data-parallel; its own state_dict stays plain."""
    # Several forwards come before one backward: broadcasting buffers in between would change
    # what the first one's backward needs.
    with warnings.catch_warnings():
        # Newer versions of torch want another name for it, which 2.6 does not know.
        warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
        return DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
        )


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
