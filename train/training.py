"""Where a training stands, and what it stands on: made from a checkpoint, moved by the loop."""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands.console import say
from faceguide.core.errors import TrainError
from faceguide.train.distributed import Processes, largest, world_size
from faceguide.train.meter import Meter, timed
from faceguide.train.run.checkpoint import (
    LAST,
    TrainingState,
    load_state,
    random_states,
    restore_random,
)
from faceguide.train.run.metrics_log import Metrics
from faceguide.train.run.soundness import Soundness
from faceguide.train.trainer import Batch, Losses, Place, Trainer
from faceguide.train.training_settings import LoopSettings

_COMPILERS = ("torch._dynamo", "torch._inductor")


class Part(NamedTuple):
    """What a batch is of its optimiser step and of its epoch.

    Attributes:
        parts: batches of the step.
        last: the step's last batch.
        ends_epoch: the epoch's last batch.
    """

    parts: int
    last: bool
    ends_epoch: bool


class Training(contextlib.AbstractContextManager["Training"]):
    """A run between two optimiser steps.

    Args: as `loop.train`.

    Attributes:
        step: optimiser steps done, of `steps`.
        saved: step of the last checkpoint.
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
        self.settings, self.device, self.processes = settings, device, processes
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
        self.step, self.best, self.due, self.warned = 0, -float("inf"), False, False
        state = load_state(directory / LAST, trainer.recipe)
        if state is not None:
            self._restore(state)
        self.saved, self.steps = self.step, total_steps(len(stream), settings)
        self.sound = Soundness(trainer.module, trainer.optimiser)
        if self.sound.broken_at_start:
            where = f"{directory / LAST}: " if state else ""
            remedy = "remove this checkpoint to start over" if state else "choose other weights"
            raise TrainError(
                f"{where}{self.sound.broken_at_start} is not finite before step {self.step}; "
                f"{remedy}" + ("" if state else " for --init")
            )
        if processes.first:
            begin = f"resuming {directory / LAST} at step {self.step}" if state else "starting"
            say(
                f"{begin}: {self.steps} steps, {len(stream)} batches an epoch, processes: "
                f"{processes.world}, device: {device}, amp: {settings.amp}"
            )
            if settings.compile:
                say("the first step compiles the network, which takes minutes on a CPU")
        self._parallel = _parallel(trainer.module, device) if processes.world > 1 else None
        forward: Any = self._parallel or trainer.module
        self.forward = torch.compile(forward) if settings.compile else forward
        self.metrics = (
            Metrics(directory, self.step, self.due, settings.tensorboard)
            if processes.first
            else None
        )
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
        self.stream.resume(state.stream)
        self.trainer.module.load_state_dict(state.module)
        self.trainer.optimiser.load_state_dict(state.optimiser)
        if state.scaler:
            self.scaler.load_state_dict(state.scaler)
        if len(state.random) == self.processes.world:
            restore_random(state.random[self.processes.rank], self.device)

    def batches(self) -> Iterator[tuple[Batch, Place, Part]]:
        """Batches to the end of the run, epoch after epoch."""
        length, together = len(self.stream), self.settings.accumulate
        self.trainer.module.train()
        while self.step < self.steps:
            epoch, number = self.stream.epoch, self.stream.state()["batch"]
            for batch in timed(iter(self.stream), self.meter):
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
        """Count an optimiser step."""
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


def _parallel(module: nn.Module, device: torch.device) -> DistributedDataParallel:
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


def anyone(mine: bool, device: torch.device) -> bool:
    """Whether it is so in any process: all must stop at one step, or they wait forever."""
    if world_size() == 1:
        return mine
    return bool(largest(torch.tensor(float(mine), device=device)).item())


def gathered_random(device: torch.device) -> list[list[Tensor]]:
    """States of torch's generators of each process."""
    everyone: list[Any] = [random_states(device)]
    if world_size() > 1:
        everyone = [None] * world_size()
        dist.all_gather_object(everyone, random_states(device))
    return everyone


def require_finite(losses: Losses, batch: Batch, cache: FaceCache, step: int) -> None:
    """Stop before a bad gradient reaches the weights, on all processes together.

    Raises:
        TrainError: when the loss of any process is not finite; names the images.
    """
    bad = ~torch.isfinite(losses["loss"].detach())
    # The one wait for the device per step; a NaN found later would be in the weights.
    if not largest(bad.float()).item():
        return
    if not bad.item():
        raise TrainError(
            f"the loss of another process is not finite at step {step}; see its message"
        )
    rows = batch["row"][~torch.isfinite(losses["per_image"])]
    which = "the images"
    if not len(rows):
        rows, which = batch["row"], "an image of the batch"
    listed = ", ".join(cache.texts("key", rows[:8].tolist())) + (" …" if len(rows) > 8 else "")
    values = ", ".join(
        f"{name} {value.item():.3g}" for name, value in losses.items() if value.ndim == 0
    )
    raise TrainError(
        f"the loss is not finite at step {step} ({values}); {which}: {listed}. Lower --lr, or look "
        "at these images; the last checkpoint is intact"
    )


@contextlib.contextmanager
def compiler_faults(compiled: bool) -> Iterator[None]:
    """What torch.compile cannot do, in one line; other errors pass."""
    try:
        yield
    except Exception as error:
        if compiled and type(error).__module__.startswith(_COMPILERS):
            what = str(error).strip().partition("\n")[0]
            raise TrainError(
                f"torch.compile failed: {type(error).__name__}: {what}. On a CPU it needs a C++ "
                "compiler such as g++; leave --compile out to train without it"
            ) from error
        raise


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """SIGTERM, SIGUSR1 and Ctrl-C set the event; the step in hand is finished first."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(number: int, frame: FrameType | None) -> None:
        event.set()

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
