"""The centres of very many classes, shared out over the processes of a run, and on disk.

Process r of W holds C // W + (r < C % W) classes in a row, as PartialFC does, with the momentum of
each. A checkpoint has one folder of them, in files that name the first class that they hold, so
that another number of processes finds its own rows in it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from faceguide.core.errors import CheckpointError, TrainError
from faceguide.core.formats.container import write_sealed
from faceguide.train.distributed import Processes, barrier
from faceguide.train.models.safetensors_file import read_safetensors
from faceguide.train.run.checkpoint import LAST, Beside

_ROWS = 65_536  # classes of a file, and of those that one stream of random numbers starts


def share(classes: int, processes: Processes) -> range:
    each, more = divmod(classes, processes.world)
    first = processes.rank * each + min(processes.rank, more)
    return range(first, first + each + (processes.rank < more))


class ClassCentres(Beside):
    """One process's share of the centres, with their momentum.

    Args:
        numbers: in an embedding.
        seed: of the start, which does not depend on the number of processes.

    Attributes:
        weight: (classes of this process, numbers) float32.

    Raises:
        TrainError: for fewer classes than processes.
    """

    def __init__(
        self, classes: int, numbers: int, seed: int, processes: Processes, device: torch.device
    ) -> None:
        if classes < processes.world:
            raise TrainError(
                f"{classes} identities cannot be shared by {processes.world} processes"
            )
        self.classes, self.processes = classes, processes
        self.mine = share(classes, processes)
        self.weight = torch.empty(len(self.mine), numbers)
        for start in range(0, classes, _ROWS):
            stop = min(start + _ROWS, classes)
            here = range(max(start, self.mine.start), min(stop, self.mine.stop))
            if here:
                generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
                block = torch.rand(stop - start, numbers, generator=generator) * 2 - 1
                block = nn.functional.normalize(block, dim=1)
                self.weight[here.start - self.mine.start : here.stop - self.mine.start] = block[
                    here.start - start : here.stop - start
                ]
        self.weight = self.weight.to(device)
        self.momentum = torch.zeros_like(self.weight)
        self._kept = 0

    def keep(self, directory: Path, name: str, step: int) -> None:
        """Write this process's share for the last checkpoint, not for the best.

        Those of the checkpoint before stay, since it counts until this one is saved.

        Raises:
            TrainError: when a centre is not finite.
            CacheError: when the disk is full or read-only.
        """
        if name != LAST:
            return
        if not bool(torch.isfinite(self.weight.sum(dtype=torch.float64))):
            raise TrainError(
                f"training has diverged: a class centre is not finite after step {step}; lower "
                "--lr, with another --out"
            )
        folder = _folder(directory, step)
        if self.processes.first:
            for other in directory.glob("centres-*"):
                if other not in (folder, _folder(directory, self._kept)):
                    shutil.rmtree(other, ignore_errors=True)
        self._kept = step
        folder.mkdir(exist_ok=True)
        for start in range(0, len(self.mine), _ROWS):
            rows = slice(start, start + _ROWS)
            held = {"weight": self.weight[rows], "momentum": self.momentum[rows]}
            content = save({name: part.cpu().contiguous() for name, part in held.items()})
            first = self.mine.start + start
            write_sealed(folder / f"{first:010d}.safetensors", content, {"first": str(first)})
        barrier()

    def restore(self, directory: Path, step: int) -> None:
        """Read this process's share, whatever the number of processes that wrote it.

        Raises:
            TrainError: when a file is missing, damaged, or of other classes.
        """
        self._kept = step
        folder, filled = _folder(directory, step), torch.zeros(len(self.mine), dtype=torch.bool)
        for path in sorted(folder.glob("*.safetensors")):
            try:
                held, about = read_safetensors(path)
                first = int(about["first"])
                parts = held["weight"], held["momentum"]
            except (CheckpointError, KeyError, ValueError) as error:
                raise TrainError(f"{path}: cannot be resumed from ({error})") from None
            here = range(max(first, self.mine.start), min(first + len(parts[0]), self.mine.stop))
            if not here or any(part.shape[1:] != self.weight.shape[1:] for part in parts):
                continue
            into = slice(here.start - self.mine.start, here.stop - self.mine.start)
            for target, part in zip((self.weight, self.momentum), parts, strict=True):
                target[into] = part[here.start - first : here.stop - first].to(target.device)
            filled[into] = True
        if not filled.all():
            raise TrainError(
                f"{folder}: holds {int(filled.sum())} of the {len(self.mine)} centres of this "
                "process; remove the checkpoint to start over"
            )


def _folder(directory: Path, step: int) -> Path:
    return directory / f"centres-{step:09d}"
