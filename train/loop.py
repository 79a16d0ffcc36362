"""The one training loop, from top to bottom; a trainer supplies the module and its step.

Order at the start: the checkpoint of the run directory if there is one, else what the caller has
put into the module. Then, per optimiser step: micro-batches, gradients, step, log, picture,
evaluation, save, stop. Rerunning the same command goes on from the last save, and on one type of
processor ends at the same bits.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from faceguide.core.commands.console import (
    Interrupted,
    say,
)
from faceguide.core.commands.run_lock import alone
from faceguide.core.errors import TrainError
from faceguide.train.distributed import Processes, barrier, largest
from faceguide.train.job import Batch, Forward, Job, LoopSettings, Place, total_steps
from faceguide.train.meter import Meter, timed
from faceguide.train.run.checkpoint import (
    TrainingState,
    load_state,
    random_states,
    restore_random,
    save_state,
)
from faceguide.train.run.metrics_log import Metrics
from faceguide.train.run.soundness import Soundness

_COMPILERS = ("torch._dynamo", "torch._inductor")

LAST, BEST = "last.pt", "best.pt"


def train(
    job: Job, directory: Path, settings: LoopSettings, device: torch.device, processes: Processes
) -> int:
    """Train to the end, from the last save if there is one.

    Args:
        job: what.
        directory: of the run; `last.pt`, `best.pt` and `metrics.jsonl` are written there.
        settings: how.
        device: of the module.
        processes: this process among those connected.

    Returns:
        The number of optimiser steps done in all.

    Raises:
        TrainError: when a loss is not finite (names the images) or weights are not, a save does
            not fit, or another run is at work in the directory.
        Interrupted: after a signal, once everything is saved.
    """
    with alone(directory) if processes.first else contextlib.nullcontext():
        return _train(job, directory, settings, device, processes)


def _train(
    job: Job, directory: Path, settings: LoopSettings, device: torch.device, processes: Processes
) -> int:
    module, optimiser = job.module, job.optimiser
    scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
    state = load_state(directory / LAST, job.recipe)
    stream = job.stream(None if state is None else state.stream)
    step, best, due = 0, -float("inf"), False
    if state is not None:
        step, best, due = state.step, state.best, state.due
        _restore(state, job, scaler, device, processes)
    sound = Soundness(module, optimiser)
    if sound.broken_at_start:
        where = f"{directory / LAST}: " if state else ""
        raise TrainError(
            f"{where}{sound.broken_at_start} is not finite before step {step}; "
            + ("remove this save to start over" if state else "choose other weights for --init")
        )
    steps, length = total_steps(len(stream), settings), len(stream)
    if processes.first:
        begin = f"resuming {directory / LAST} at step {step}" if state else "starting"
        say(
            f"{begin}: {steps} steps, {length} batches an epoch, processes: {processes.world}, "
            f"device: {device}, amp: {settings.amp}"
        )
        if settings.compile:
            say("the first step compiles the network, which takes minutes on a CPU")
    if step >= steps and not due:
        return step
    forward = _wrapped(module, settings, device, processes)
    metrics = Metrics(directory, step, due, settings.tensorboard) if processes.first else None
    meter = Meter()
    saved, warned = step, False

    def save(name: str) -> None:
        broken = sound.broken()
        if _anyone(broken is not None, device, processes):
            kept = f"the same command goes on from step {saved}" if saved else "no step was saved"
            raise TrainError(
                f"training has diverged: {broken or 'a tensor of another process'} is not finite "
                f"after step {step}, so this step is not saved; {kept}. Lower --lr, with another "
                "--out"
            )
        randoms = _gather_random(device, processes)
        if processes.first:
            now = TrainingState(
                step, best, due, module.state_dict(), optimiser.state_dict(), scaler.state_dict(),
                randoms, stream.state(), job.recipe,
            )  # fmt: skip
            save_state(directory / name, now)

    bar = tqdm(total=steps, initial=step, unit=" steps", disable=None if processes.first else True)
    with _stop_signal() as stopped, contextlib.closing(bar):
        while step < steps or due:
            if due:
                began = time.perf_counter()
                improved, due = True, False
                if job.evaluate is not None:
                    score = _evaluated(job.evaluate, metrics, step, device, processes)
                    improved, best = score > best, max(best, score)
                # The best first: until the last is saved too, a killed run would do this again.
                if improved:
                    save(BEST)
                save(LAST)
                meter.exclude(time.perf_counter() - began)
                continue
            module.train()
            epoch, done = stream.epoch, stream.state()["batch"]
            for batch in timed(iter(stream), meter):
                place = Place(step, steps, epoch, epoch + done / length)
                rate = job.rate(place.epochs_done)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                # The last batches of an epoch may be fewer than `accumulate`.
                group_size = min(
                    settings.accumulate, length - done // settings.accumulate * settings.accumulate
                )
                done += 1
                last = done == length or done % settings.accumulate == 0
                with _compiler_faults(settings), _synchronised(forward, last):
                    with torch.autocast(
                        device.type,
                        torch.float16 if settings.amp == "fp16" else torch.bfloat16,
                        enabled=settings.amp != "off",
                    ):
                        losses = job.step(forward, batch, place)
                    _require_finite(losses, batch, job, step)
                    scaler.scale(losses["loss"] / group_size).backward()
                meter.add(losses, len(batch["row"]) * processes.world)
                if not last:
                    continue
                scaler.step(optimiser)
                scaler.update()
                optimiser.zero_grad(set_to_none=True)
                step += 1
                bar.update()
                if step % settings.log_every == 0 or step == steps:
                    values = meter.take(rate, place.epochs_done)
                    bar.set_postfix_str(
                        f"loss {values['loss']:.3f}, {values['images_per_second']:.0f} img/s, "
                        f"{values['data_wait']:.1%} waiting"
                    )
                    if metrics is not None:
                        metrics.write("train", step, values)
                        warning = None if warned else job.warn(values)
                        if warning:
                            say(f"Warning: {warning}")
                            warned = True
                every = settings.picture_every
                wanted = every and (step % every == 0 or step == steps)
                if wanted and job.picture is not None and processes.first:
                    job.picture(directory / f"step-{step:07d}.png", batch, place)
                    module.train()
                due = done == length or step >= steps
                stop = _anyone(stopped.is_set(), device, processes)
                if stop or due or step - saved >= settings.save_every:
                    save(LAST)
                    saved = step
                if stop:
                    raise Interrupted
                if step >= steps:
                    break
    if metrics is not None:
        metrics.close()
    return step


def _evaluated(
    evaluate: Callable[[], dict[str, float]],
    metrics: Metrics | None,
    step: int,
    device: torch.device,
    processes: Processes,
) -> float:
    """The score of the weights as they are, computed by rank 0 while the others wait."""
    score = -float("inf")
    if metrics is not None:  # rank 0
        found = evaluate()
        metrics.write("evaluation", step, found)
        say(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        score = found["score"]
    barrier()
    if _anyone(score != score, device, processes):
        raise TrainError(f"the evaluation after step {step} gives no score, so none can be best")
    return float(largest(torch.tensor(score, device=device)).item())


def _anyone(mine: bool, device: torch.device, processes: Processes) -> bool:
    """Whether any process was asked to stop: all must stop at one step, or they wait forever."""
    if processes.world == 1:
        return mine
    return bool(largest(torch.tensor(float(mine), device=device)).item())


def _restore(
    state: TrainingState,
    job: Job,
    scaler: torch.amp.GradScaler,
    device: torch.device,
    processes: Processes,
) -> None:
    job.module.load_state_dict(state.module)
    job.optimiser.load_state_dict(state.optimiser)
    if state.scaler:
        scaler.load_state_dict(state.scaler)
    if len(state.random) == processes.world:
        restore_random(state.random[processes.rank], device)


def _wrapped(
    module: nn.Module, settings: LoopSettings, device: torch.device, processes: Processes
) -> Forward:
    """The module as it is called: data-parallel, compiled; its own state_dict stays plain."""
    forward: Any = module
    if processes.world > 1:
        # Several forwards come before one backward: broadcasting buffers in between would change
        # what the first one's backward needs.
        with warnings.catch_warnings():
            # Newer versions of torch want another name for it, which 2.6 does not know.
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            forward = DistributedDataParallel(
                module,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,
            )
    return torch.compile(forward) if settings.compile else forward


@contextlib.contextmanager
def _compiler_faults(settings: LoopSettings) -> Iterator[None]:
    """What torch.compile cannot do, in one line; other errors pass."""
    try:
        yield
    except Exception as error:
        if settings.compile and type(error).__module__.startswith(_COMPILERS):
            what = str(error).strip().partition("\n")[0]
            raise TrainError(
                f"torch.compile failed: {type(error).__name__}: {what}. On a CPU it needs a C++ "
                "compiler such as g++; leave --compile out to train without it"
            ) from error
        raise


@contextlib.contextmanager
def _synchronised(forward: Forward, last: bool) -> Iterator[None]:
    """Exchange gradients only in the last micro-batch of an optimiser step."""
    wrapped = getattr(forward, "_orig_mod", forward)
    if last or not isinstance(wrapped, DistributedDataParallel):
        yield
    else:
        with wrapped.no_sync():
            yield


def _require_finite(losses: dict[str, Tensor], batch: Batch, job: Job, step: int) -> None:
    """Stop before a bad gradient reaches the weights, on all processes together."""
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
    keys = job.names(rows[:8].tolist())
    listed = ", ".join(keys) + (" …" if len(rows) > 8 else "")
    values = ", ".join(
        f"{name} {value.item():.3g}" for name, value in losses.items() if value.ndim == 0
    )
    raise TrainError(
        f"the loss is not finite at step {step} ({values}); {which}: {listed}. Lower --lr, or look "
        "at these images; the last save is untouched"
    )


def _gather_random(device: torch.device, processes: Processes) -> list[list[Tensor]]:
    own = random_states(device)
    if processes.world == 1:
        return [own]
    everyone: list[Any] = [None] * processes.world
    dist.all_gather_object(everyone, own)
    return everyone


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
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
