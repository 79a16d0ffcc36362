"""What the loop is given: a trainer, and where training stands when a batch comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]
Forward = Callable[..., Any]


class Place(NamedTuple):
    """Where training stands when a batch comes.

    Attributes:
        step: optimiser steps done.
        steps: optimiser steps of the whole run.
        epoch: of the batch, from 0.
        epochs_done: with the fraction of the present one.
    """

    step: int
    steps: int
    epoch: int
    epochs_done: float


class Trainer(Protocol):
    """What is trained, and how; methods with a body may be left out.

    Attributes:
        module: everything that is trained or kept with the weights, on its device.
        optimiser: over the parameters of `module`.
        recipe: digest of the settings that decide the numbers.
    """

    module: nn.Module
    optimiser: torch.optim.Optimizer
    recipe: str

    def rate(self, epochs: float) -> float:
        """Learning rate at a number of epochs done."""
        ...

    def step(self, forward: Forward, batch: Batch, place: Place) -> Losses:
        """Losses of a batch.

        Args:
            forward: the module, perhaps data-parallel or compiled.
            batch: columns of the cache and `row`, (N,) int64.
            place: where training stands.

        Returns:
            `loss`, the one to descend, and what is logged, scalars; `per_image` (N,), which names
            faulty images.
        """
        ...

    def evaluate(self) -> dict[str, float]:
        """Values to log; the highest `score` is the best checkpoint. Empty = the last is.

        Called at the end of an epoch, on rank 0 only.
        """
        return {}

    def picture(self, path: Path, batch: Batch, place: Place) -> None:
        """Draw what is learnt of a batch into a file, on rank 0 only."""
        return

    def warning(self, values: dict[str, float]) -> str | None:
        """A warning about a line of metrics, which is printed once; None when all is well."""
        return None
