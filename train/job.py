"""What the loop is given: a job to train, where it stands, and how to go about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from faceguide.cache.stream import Stream

Batch = dict[str, Tensor]
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


# (forward, batch, place) → "loss" (the one to descend), "per_image" (N,), and scalars to log.
Step = Callable[[Forward, Batch, Place], dict[str, Tensor]]


@dataclass(frozen=True)
class LoopSettings:
    """How the loop runs.

    Attributes:
        epochs: passes over the rows.
        steps: stop after so many optimiser steps; None = after the epochs.
        accumulate: batches per optimiser step.
        amp: "off", "bf16" or "fp16" arithmetic in the forward pass.
        compile: run the module through torch.compile.
        log_every: optimiser steps per line of metrics.jsonl.
        save_every: optimiser steps between saves, beside those at the end of an epoch.
        picture_every: optimiser steps between pictures, besides one of the last step; 0 = none.
        tensorboard: also write TensorBoard events.
    """

    epochs: int
    steps: int | None = None
    accumulate: int = 1
    amp: str = "off"
    compile: bool = False
    log_every: int = 20
    save_every: int = 1000
    picture_every: int = 0
    tensorboard: bool = False


@dataclass(frozen=True)
class Job:
    """What is trained on what.

    Attributes:
        module: everything that is trained or kept with the weights, on its device.
        step: computes the losses of a batch.
        optimiser: over the parameters of `module`.
        rate: learning rate at a number of epochs done.
        stream: makes the stream of batches, at the start or at the state of a save.
        evaluate: called on rank 0 at the end of an epoch: values to log; `score` chooses the
            best checkpoint. None = the last is the best.
        picture: called on rank 0 with a file name, a batch and the place.
        warn: looks at a line of metrics and may return a warning, printed once.
        names: keys of rows, for error messages.
        recipe: digest of the settings that decide the numbers.
    """

    module: nn.Module
    step: Step
    optimiser: torch.optim.Optimizer
    rate: Callable[[float], float]
    stream: Callable[[dict[str, Any] | None], Stream]
    recipe: str
    names: Callable[[list[int]], list[str]]
    evaluate: Callable[[], dict[str, float]] | None = None
    picture: Callable[[Path, Batch, Place], None] | None = None
    warn: Callable[[dict[str, float]], str | None] = field(default=lambda values: None)


def total_steps(batches: int, settings: LoopSettings) -> int:
    """Optimiser steps of a run with so many batches per epoch."""
    steps = settings.epochs * -(-batches // settings.accumulate)
    return steps if settings.steps is None else min(steps, settings.steps)
