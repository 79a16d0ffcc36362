"""What a training run needs to resume exactly where it stopped, in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from faceguide.core.errors import CacheError, TrainError
from faceguide.core.files import replacing
from faceguide.core.formats.library_files import append_digest, digest_intact, open_for_library
from faceguide.core.formats.torch_files import load_tensors

LAST, BEST = "last.pt", "best.pt"
FORMAT = 3


@dataclass(frozen=True)
class TrainingState:
    """A moment between two optimiser steps; the same whatever the number of processes.

    What is per process is not in it: random numbers come from (seed, step, process), and `Beside`
    keeps files that any number of processes reads.

    Attributes:
        best: best evaluation score so far, or −inf.
        due: an epoch has ended, and its evaluation and best checkpoint were still to be done.
        module: state_dict of everything trained or kept with the weights, unwrapped.
        scaler: state_dict of the gradient scaler; empty without fp16.
        stream: what `Stream.state_dict()` gave.
        recipe: digest of the settings that decide the numbers.
    """

    step: int
    best: float
    due: bool
    module: dict[str, Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
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
    return fits and all(isinstance(table, dict) for table in tables)
