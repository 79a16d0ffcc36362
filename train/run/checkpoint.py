"""What a training run needs to resume exactly where it stopped, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from faceguide.core.errors import CacheError, TrainError
from faceguide.core.files import replacing
from faceguide.core.formats.library_files import append_digest, digest_intact, open_for_library
from faceguide.core.formats.torch_files import load_tensors
from faceguide.train.distributed import world_size

LAST, BEST = "last.pt", "best.pt"
FORMAT = 2


@dataclass(frozen=True)
class TrainingState:
    """A moment between two optimiser steps.

    Attributes:
        best: best evaluation score so far, or −inf.
        due: an epoch has ended, and its evaluation and best checkpoint were still to be done.
        module: state_dict of everything trained or kept with the weights, unwrapped.
        scaler: state_dict of the gradient scaler; empty without fp16.
        random: per process, the states of torch's generators: CPU, then the device's if any.
        stream: what `Stream.state()` gave.
        recipe: digest of the settings that decide the numbers.
    """

    step: int
    best: float
    due: bool
    module: dict[str, Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    random: list[list[Tensor]]
    stream: dict[str, Any]
    recipe: str


class Beside:
    """What every process saves in files of its own, for the last checkpoint: here nothing."""

    def keep(self, directory: Path, name: str, step: int) -> None:
        """Write it, before the checkpoint of this name and step is saved by rank 0."""
        return

    def restore(self, directory: Path, step: int) -> None:
        """Read what was kept for the checkpoint of a step."""
        return


def save_state(path: Path, state: TrainingState) -> None:
    """Write the file, atomically: a kill leaves the one before it.

    Raises:
        CacheError: when the disk is full or read-only.
    """
    with replacing(path) as temporary:
        # An open file, not a name: torch writes the file's name into it, and a temporary name is
        # another each time.
        with open_for_library(temporary) as file:
            torch.save({"format": FORMAT, **vars(state)}, file)
        append_digest(temporary)


def load_state(path: Path, recipe: str) -> TrainingState | None:
    """Read the file, or None when there is none.

    Args:
        path: of the file; no code in it is run.

    Raises:
        TrainError: when it is damaged, was changed since, or belongs to other settings.
        CacheError: when the system refuses to read it.
    """
    if not path.exists():
        return None
    try:
        if not digest_intact(path):
            raise ValueError("changed since it was written")
        found = load_tensors(path, strict=True)
        if found.pop("format") != FORMAT:
            raise ValueError("another format")
        state = TrainingState(**found)
        if not _sound(state):
            raise ValueError("a field is of another kind")
    except CacheError:  # the disk failed: the file itself may be whole
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainError(
            f"{path}: cannot be resumed from ({text}); remove it to start over, or choose "
            "another --out"
        ) from None
    if state.recipe != recipe:
        raise TrainError(
            f"{path}: was made with other settings (see run.json next to it); choose another "
            "--out, or remove the folder to start over"
        )
    return state


def _sound(state: TrainingState) -> bool:
    fits = (
        type(state.step) is int and state.step >= 0 and type(state.best) is float
        and type(state.due) is bool and isinstance(state.recipe, str)
    )  # fmt: skip
    tables = (state.module, state.optimiser, state.scaler, state.stream)
    tensors = isinstance(state.random, list) and all(
        isinstance(one, list) and all(isinstance(part, Tensor) for part in one)
        for one in state.random
    )
    return fits and tensors and all(isinstance(table, dict) for table in tables)


def random_states(device: torch.device) -> list[list[Tensor]]:
    """States of torch's generators of each process: of the CPU, then of the device if CUDA."""
    mine = [torch.get_rng_state()]
    if device.type == "cuda":
        mine.append(torch.cuda.get_rng_state(device))
    everyone: list[Any] = [mine]
    if world_size() > 1:
        everyone = [None] * world_size()
        dist.all_gather_object(everyone, mine)
    return everyone


def restore_random(states: Sequence[Tensor], device: torch.device) -> None:
    """Put back the states of one process."""
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
