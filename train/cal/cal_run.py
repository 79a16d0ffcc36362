"""A run of `train cal` from its parts: rows, classes, model, optimiser, loop, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import say
from faceguide.core.errors import CheckpointError
from faceguide.core.files import digest
from faceguide.train.cal.attention_guidance import assigned_heads
from faceguide.train.cal.attention_pictures import draw_attention, draw_energy
from faceguide.train.cal.attention_watch import collapse
from faceguide.train.cal.cal_batches import stream_of
from faceguide.train.cal.cal_settings import CalRun
from faceguide.train.cal.cal_step import CalStep
from faceguide.train.cal.cal_trainee import Trainee, map_side
from faceguide.train.cal.cal_views import describe
from faceguide.train.data import augment
from faceguide.train.data.training_rows import class_table, training_rows
from faceguide.train.distributed import barrier
from faceguide.train.listed_pairs import Pairs, verify
from faceguide.train.loop import train
from faceguide.train.models import create
from faceguide.train.models.cal_network import WSDANCAL
from faceguide.train.models.colour import colour_of
from faceguide.train.models.loading.network_file import weights_in
from faceguide.train.models.weights import fill, find_state
from faceguide.train.run.checkpoint import LAST
from faceguide.train.run.export_weights import BACKBONE, export
from faceguide.train.run.run_context import RunContext
from faceguide.train.training import Batch, Forward, Losses, Place, Trainer, total_steps

DECAY, DECAY_EPOCHS = 0.9, 2.0  # the rate is multiplied by this every so many epochs
MOMENTUM = 0.9
LISTED_SHARE = 4  # one pair of a pairs file per so many images of a batch


def default_crop(cache: FaceCache) -> int:
    """7/8 of the cached side, as 448 of 512, where the crops have a margin; else all of it."""
    size = cache.require("image").shape[0]
    if not cache.recipe.get("margin"):
        return size
    return max(size * 7 // 8 // 16 * 16, 16)


def run_cal(context: RunContext, run: CalRun, contrastive: Pairs | None = None) -> dict[str, Any]:
    """Train, or resume, and export the best weights.

    Args:
        contrastive: pairs of the cache that guidance method 5 takes.

    Returns:
        `steps` done and the `weights` file.

    Raises:
        TrainError, ModelError, CheckpointError, CacheError: in one line each.
    """
    cache, recipe, first = context.cache, run.recipe, context.processes.first
    rows, people = training_rows(cache, run.min_images, dict(run.meta), context.learnable)
    names = [cache.identities[label] for label in people.tolist()]
    context.require_side(None, run.model)
    doubts = context.doubts(names)
    listed = None
    if contrastive is not None:
        doubts.update(contrastive.doubts)
        listed = contrastive.within(rows, first)
    crop = run.crop or default_crop(cache)
    augment.check_crop(cache.require("image").shape[0], crop)
    torch.manual_seed(recipe.seed)
    arguments = {"num_classes": len(people), "heads": run.heads, "stride": run.stride}
    model: WSDANCAL = create(run.model, **arguments)
    assigned = assigned_heads(recipe.guidance, run.heads)
    if first and any(recipe.guidance.weight(method) for method in ("regions", "regions-log")):
        say(f"Heads: {', '.join(f'{name} {heads}' for name, heads in assigned.items())}")
    trainee = Trainee(
        model,
        class_table(len(cache.identities), people),
        prior=bool(recipe.guidance.weight("prior")),
        freeze_norm=recipe.freeze_norm,
    )
    pairs = max(run.batch_size // LISTED_SHARE, 1)
    stream = stream_of(context, run, rows, listed, pairs)
    more: dict[str, Any] = {}
    length = total_steps(len(stream), context.loop)
    if recipe.guidance.weight("prior"):  # it fades over the whole run, whose length counts
        more["steps"] = length
    if context.pairs is not None:  # scores are compared with the best so far
        more["forwards"] = run.forwards
    if listed is not None:
        more["contrastive_pairs"] = listed.key()
    fixed = context.fixed(run, rows, **more)
    if not (context.directory / LAST).exists():
        line = _initialise(model, run)
        if first:
            say(line)
    if context.processes.world > 1 and context.device.type == "cuda":
        trainee = nn.SyncBatchNorm.convert_sync_batchnorm(trainee)
    trainee.to(context.device)
    shape, side = augment.Augmentation(crop), map_side(model, crop)
    step = CalStep(recipe, shape, trainee, side, pairs if listed else 0)
    trainer = CalTrainer(step, run, digest(fixed), context)
    models = {"backbone": {"name": run.model, "arguments": arguments, "weights": BACKBONE}}
    context.begin("train cal", run, fixed, models, names, doubts, len(rows), length)
    steps = train(
        trainer, stream, context.directory, context.loop, context.device, context.processes
    )
    if first:
        export(
            context.directory,
            trainer.recipe,
            {"backbone": (run.model, arguments)},
            {"backbone": model},
            saved_as={"backbone": "model"},
            crop=crop,
        )
        draw_energy(context.directory)
    barrier()
    return {"steps": steps, "weights": str(context.directory / BACKBONE)}


class CalTrainer(Trainer):
    """CAL as the loop sees it; the context has the device and the pairs of the evaluation."""

    module: Trainee

    def __init__(self, step: CalStep, run: CalRun, recipe: str, context: RunContext) -> None:
        self.module, self.recipe, self.seed = step.trainee, recipe, run.recipe.seed
        self.optimiser = torch.optim.SGD(
            self.module.parameters(), run.rate, momentum=MOMENTUM, weight_decay=run.weight_decay
        )
        self._step, self._run, self._context = step, run, context

    def rate(self, epochs: float) -> float:
        """Falls steadily."""
        return self._run.rate * DECAY ** (epochs / DECAY_EPOCHS)

    def step(self, forward: Forward, batch: Batch, place: Place) -> Losses:
        return self._step(forward, batch, place)

    def evaluate(self) -> dict[str, float]:
        """Verification by the pooled features of the middle of each image."""
        if self._context.pairs is None:
            return {}
        model, crop = self.module.eval().model, self._step.augmentation.crop
        return verify(
            self._context.pairs,
            lambda batch: describe(model, batch["image"], crop, self._run.forwards),
            batch_size=2 * self._run.batch_size,
            device=self._context.device,
        )

    def picture(self, path: Path, batch: Batch, place: Place) -> None:
        """Attention on some faces, and its energy so far."""
        draw_attention(path, self._step, batch, place)
        draw_energy(path.parent)

    def warning(self, values: dict[str, float]) -> str | None:
        """Whether heads have collapsed."""
        return collapse(values)


def _initialise(model: WSDANCAL, run: CalRun) -> str:
    """Fill the model with the weights of `run.init`; the line that says what was taken.

    Raises:
        CheckpointError: when they do not fit, or were trained on another colour order.
    """
    if run.init is None:
        return "Warning: no --init: the network starts from random weights"
    file = weights_in(run.init)
    state = find_state(file, model, "--model")
    colour = colour_of(model, state, file)
    if colour.order != model.input_spec.colour:
        raise CheckpointError(
            f"{file}: was trained on {colour.order}, and train cal feeds "
            f"{model.input_spec.colour}; choose other weights"
        )
    return fill(model, state, file, "--model").summary()
