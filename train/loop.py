"""The one training loop, from top to bottom; a trainer supplies the module and its step.

A run starts from the last checkpoint of its directory, else from the module as the caller filled
it. Rerunning the same command resumes, and is bit-identical on the same type of processor.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch

from faceguide.cache.stream import Stream
from faceguide.core.commands.console import Interrupted, say
from faceguide.core.commands.run_lock import alone
from faceguide.core.errors import TrainError
from faceguide.train.distributed import Processes, anyone, barrier, largest
from faceguide.train.run.checkpoint import BEST, LAST, TrainingState, save_state
from faceguide.train.run.early_end import compiler_faults, stop_signal
from faceguide.train.run.soundness import require_finite
from faceguide.train.training import Place, Trainer, Training
from faceguide.train.training_settings import LoopSettings


def train(
    trainer: Trainer,
    stream: Stream,
    directory: Path,
    settings: LoopSettings,
    device: torch.device,
    processes: Processes,
) -> int:
    """Train to the end in a run directory, from its last checkpoint if there is one.

    Returns:
        The number of optimiser steps done in all.

    Raises:
        TrainError: when a loss is not finite (names the images) or weights are not, a checkpoint
            does not fit, or another run is at work in the directory.
        Interrupted: after a signal, once everything is saved.
    """
    with (
        alone(directory, processes.first),
        Training(trainer, stream, directory, settings, device, processes) as training,
        stop_signal() as stopped,
        compiler_faults(settings.compile),
    ):
        optimiser, scaler = trainer.optimiser, training.scaler
        if training.due:
            evaluate(training)
        for batch, place, part in training.batches():
            for group in optimiser.param_groups:
                group["lr"] = trainer.rate(place.epochs_done)
            training.exchange_gradients(part.last)
            with training.autocast():
                losses = trainer.step(training.forward, batch, place)
            require_finite(losses, batch, stream.cache, place.step)
            scaler.scale(losses["loss"] / part.parts).backward()
            training.meter.add(losses, len(batch["row"]) * processes.world)
            if not part.last:
                continue
            scaler.step(optimiser)
            scaler.update()
            optimiser.zero_grad(set_to_none=True)
            training.advance(part.ends_epoch)
            if training.every(settings.log_every):
                log(training, place)
            if training.every(settings.picture_every) and processes.first:
                trainer.picture(directory / f"step-{training.step:07d}.png", batch, place)
                trainer.module.train()
            stop = anyone(stopped.is_set(), device)
            if stop or training.due or training.step - training.saved >= settings.save_every:
                checkpoint(training, LAST)
            if stop:
                raise Interrupted
            if training.due:
                evaluate(training)
        return training.step


def log(training: Training, place: Place) -> None:
    """A line of metrics.jsonl, and the means on the progress bar."""
    rate = training.trainer.rate(place.epochs_done)
    values = training.meter.take(rate, place.epochs_done)
    training.bar.set_postfix_str(
        f"loss {values['loss']:.3f}, {values['images_per_second']:.0f} img/s, "
        f"{values['data_wait']:.1%} waiting"
    )
    if training.metrics is None:
        return
    training.metrics.write("train", training.step, values)
    warning = None if training.warned else training.trainer.warning(values)
    if warning:
        say(f"Warning: {warning}")
        training.warned = True


def evaluate(training: Training) -> None:
    """Score the weights on rank 0 while the others wait; save them, also as the best if so."""
    began, step = time.perf_counter(), training.step
    score, reason = -float("inf"), None
    if training.metrics is not None:  # rank 0
        found = training.trainer.evaluate()
        reason = training.trainer.end(found)
        score = found.get("score", float(step))  # without an evaluation the last is the best
        if found:
            training.metrics.write("evaluation", step, found)
            listed = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
            say(f"step {step}: {listed}")
        if reason:
            say(f"The run ends at step {step}: {reason}")
    barrier()
    if anyone(score != score, training.device):
        raise TrainError(f"the evaluation after step {step} gives no score, so none can be best")
    score = float(largest(torch.tensor(score, device=training.device)).item())
    improved, training.due = score > training.best, False
    training.best = max(training.best, score)
    # The best first: until the last is saved too, a killed run would do this again.
    if improved:
        checkpoint(training, BEST)
    checkpoint(training, LAST)
    if anyone(reason is not None, training.device):
        training.steps = step
    training.trainer.module.train()
    training.meter.exclude(time.perf_counter() - began)


def checkpoint(training: Training, name: str) -> None:
    """Save the weights and where training stands, unless they have diverged.

    Raises:
        TrainError: when a tensor of any process is not finite; the file before stays.
    """
    broken, step, saved = training.sound.broken(), training.step, training.saved
    if anyone(broken is not None, training.device):
        kept = f"the same command resumes from step {saved}" if saved else "no step was saved"
        raise TrainError(
            f"training has diverged: {broken or 'a tensor of another process'} is not finite "
            f"after step {step}, so this step is not saved; {kept}. Lower --lr, with another --out"
        )
    training.trainer.beside.keep(training.directory, name, step)
    if training.processes.first:
        trainer = training.trainer
        state = TrainingState(
            step, training.best, training.due, trainer.module.state_dict(),
            trainer.optimiser.state_dict(), training.scaler.state_dict(),
            training.stream.state_dict(), trainer.recipe,
        )  # fmt: skip
        save_state(training.directory / name, state)
    training.saved = step
