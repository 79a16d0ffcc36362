"""What a trainer supplies to the loop, and where its training stands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from faceguide.cache.stream import Stream
from faceguide.core.commands.console import say
from faceguide.core.errors import CacheError, TrainError
from faceguide.train.data.keyed_random import seed_torch
from faceguide.train.distributed import Processes, data_parallel
from faceguide.train.meter import Meter
from faceguide.train.run.checkpoint import LAST, Beside, TrainingState, load_state
from faceguide.train.run.metrics_log import Metrics
from faceguide.train.run.soundness import Soundness
from faceguide.train.training_settings import LoopSettings

Batch = dict[str, Tensor]
Losses = dict[str, Tensor]
Forward = Callable[..., Any]


class Place(NamedTuple):
    """Where training stands when a batch comes; epochs done have a fraction."""

    step: int
    steps: int
    epoch: int
    epochs_done: float


class Part(NamedTuple):
    """What a batch is of its optimiser step, which takes so many `parts`, and of its epoch."""

    parts: int
    last: bool
    ends_epoch: bool


class Trainer(Protocol):
    """What is trained, and how; methods with a body may be left out.

    Attributes:
        module: everything that is trained or kept with the weights, on its device.
        recipe: digest of the settings that decide the numbers, such as `seed`, of torch's.
    """

    seed: int = 0
    module: nn.Module
    optimiser: torch.optim.Optimizer
    recipe: str
    beside: Beside = Beside()  # what each process saves in files of its own

    def rate(self, epochs: float) -> float:
        """Learning rate at a number of epochs done."""
        ...

    def step(self, forward: Forward, batch: Batch, place: Place) -> Losses:
        """Losses of a batch.

        Args:
            forward: the module, perhaps data-parallel or compiled.
            batch: columns of the cache and `row`, (N,) int64.

        Returns:
            `loss`, the one to descend, and what is logged, scalars; `per_image` (N,), which names
            faulty images.
        """
        ...

    def evaluate(self) -> dict[str, float]:
        """At the end of an epoch, on rank 0: values to log; the highest `score` is the best."""
        return {}

    def picture(self, path: Path, batch: Batch, place: Place) -> None:
        """Draw what is learnt of a batch into a file, on rank 0."""
        return

    def end(self, values: dict[str, float]) -> str | None:
        """Why the run must end with this evaluation, on rank 0; None when it need not."""
        return None

    def warning(self, values: dict[str, float]) -> str | None:
        """A warning about a line of metrics, printed once; None when all is well."""
        return None


class Training(contextlib.AbstractContextManager["Training"]):
    """A run between two optimiser steps, made from its last checkpoint if there is one.

    Attributes:
        step: optimiser steps done, of `steps`; `saved`, those of the last checkpoint.
        best: highest score so far, or −inf.
        due: an epoch has ended, or the run, and is still to be evaluated.
        forward: the module as it is called: data-parallel, compiled.
        metrics: on rank 0 only.
    """

    def __init__(
        self,
        trainer: Trainer,
        stream: Stream,
        directory: Path,
        settings: LoopSettings,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.trainer, self.stream, self.directory = trainer, stream, directory
        # Convolutions are faster so, on processors and on tensor cores.
        trainer.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.settings, self.device, self.processes = settings, device, processes
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
        self.step, self.best, self.due, self.warned = 0, -float("inf"), False, False
        state = load_state(directory / LAST, trainer.recipe)
        if state is not None:
            self._restore(state)
        self.saved, self.steps = self.step, total_steps(len(stream), settings)
        self.sound = Soundness(trainer.module, trainer.optimiser)
        self.sound.require_start(directory / LAST if state else None, self.step)
        if processes.first:
            begin = f"resuming {directory / LAST} at step {self.step}" if state else "starting"
            say(
                f"{begin}: {self.steps} steps, {len(stream)} batches an epoch, processes: "
                f"{processes.world}, device: {device}, amp: {settings.amp}"
            )
            if settings.compile:
                say("the first step compiles the network, which takes minutes on a CPU")
        self._parallel = data_parallel(trainer.module, device) if processes.world > 1 else None
        forward: Any = self._parallel or trainer.module
        self.forward = torch.compile(forward) if settings.compile else forward
        self.metrics = None
        if processes.first:
            self.metrics = Metrics(directory, self.step, self.due, settings.tensorboard)
        self.meter = Meter()
        self.bar = tqdm(
            total=self.steps, initial=self.step, unit=" steps",
            disable=None if processes.first else True,
        )  # fmt: skip

    def __exit__(self, *error: object) -> None:
        self.bar.close()
        if self.metrics is not None:
            self.metrics.close()

    def _restore(self, state: TrainingState) -> None:
        self.step, self.best, self.due = state.step, state.best, state.due
        try:
            self.stream.load_state_dict(state.stream)
        except CacheError as error:
            raise TrainError(f"{self.directory / LAST}: {error}") from None
        self.trainer.module.load_state_dict(state.module)
        self.trainer.beside.restore(self.directory, state.step)
        self.trainer.optimiser.load_state_dict(state.optimiser)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)

    def batches(self) -> Iterator[tuple[Batch, Place, Part]]:
        """Batches to the end of the run, epoch after epoch."""
        length, together = len(self.stream), self.settings.accumulate
        self.trainer.module.train()
        while self.step < self.steps:
            epoch, number = self.stream.epoch, self.stream.state_dict()["batch"]
            for batch in self.meter.timed(iter(self.stream)):
                seed_torch(self.trainer.seed, epoch, number, self.processes.rank)
                place = Place(self.step, self.steps, epoch, epoch + number / length)
                # The last batches of an epoch may be fewer than `accumulate`.
                parts = min(together, length - number // together * together)
                number += 1
                ends = number == length
                yield batch, place, Part(parts, ends or number % together == 0, ends)
                if self.step >= self.steps:
                    return

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass."""
        amp = self.settings.amp
        kind = torch.float16 if amp == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, kind, enabled=amp != "off")

    def exchange_gradients(self, wanted: bool) -> None:
        """Whether the next backward pass exchanges gradients: only a step's last one has to."""
        if self._parallel is not None:  # as its no_sync() does, for a pass at a time
            self._parallel.require_backward_grad_sync = wanted

    def advance(self, ends_epoch: bool) -> None:
        self.step += 1
        self.bar.update()
        self.due = ends_epoch or self.step >= self.steps

    def every(self, steps: int) -> bool:
        """Whether it is time for what is done every so many steps and at the last; 0 = never."""
        return steps > 0 and (self.step % steps == 0 or self.step == self.steps)


def total_steps(batches: int, settings: LoopSettings) -> int:
    """Optimiser steps of a run with so many batches per epoch."""
    steps = settings.epochs * -(-batches // settings.accumulate)
    return steps if settings.steps is None else min(steps, settings.steps)
