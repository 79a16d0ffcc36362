"""A run of `train oaml` from its parts: rows, models, optimiser, loop, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.cache.inspect.occlusion_measures import estimate_doubts
from faceguide.cache.reader import FaceCache
from faceguide.core.errors import TrainError
from faceguide.core.files import digest
from faceguide.train.data.training_rows import class_table, require_meta, training_rows
from faceguide.train.distributed import barrier
from faceguide.train.listed_pairs import verify
from faceguide.train.loop import train
from faceguide.train.models.embedder import embed
from faceguide.train.models.own_check import TRIED, check_own
from faceguide.train.models.own_networks import is_own
from faceguide.train.oaml.class_centres import ClassCentres
from faceguide.train.oaml.oaml_batches import (
    NEIGHBOURS,
    Covered,
    covered_faces,
    report_mixture,
    stream_of,
)
from faceguide.train.oaml.oaml_models import (
    build,
    feed_as_before,
    initialise,
    margin_of,
    optimiser_of,
    rate_at,
)
from faceguide.train.oaml.oaml_pictures import draw_curves, draw_visibility
from faceguide.train.oaml.oaml_settings import OamlRun
from faceguide.train.oaml.oaml_step import OamlStep, OamlTrainee
from faceguide.train.oaml.sampled_classes import SampledClasses
from faceguide.train.oaml.visibility_metrics import evaluate_visibility, mean_visibility
from faceguide.train.run.checkpoint import LAST
from faceguide.train.run.export_weights import export
from faceguide.train.run.run_context import RunContext
from faceguide.train.training import Batch, Forward, Losses, Place, Trainer, total_steps


def run_oaml(context: RunContext, run: OamlRun, second: FaceCache | None = None) -> dict[str, Any]:
    """Train, or resume, and export the best weights.

    Args:
        context: what the run stands on; its cache holds the faces to recognise, with part
            "occlusion" those whose visibility is learnt.
        second: faces with masks that visibility is learnt from, besides those of the cache.

    Returns:
        `steps` done and the `directory`.

    Raises:
        TrainError, ModelError, CheckpointError, CacheError: in one line each.
    """
    cache, processes, directory = context.cache, context.processes, context.directory
    only_head = run.recipe.part == "occlusion"
    if only_head and second is not None:
        raise TrainError("--train occlusion learns from CACHE only; leave --niqab out")
    if only_head and run.recipe.surround is not None:
        raise TrainError("--surround is for faces to recognise; leave it out of --train occlusion")
    if run.mix and (only_head or run.sampler != "shuffle"):
        raise TrainError("--mix needs --sampler shuffle: other batches are made of identities")
    meta = dict(run.meta)
    if only_head:
        require_meta(cache, meta)
        rows = people = np.empty(0, np.int64)
    else:
        rows, people = training_rows(cache, run.min_images, meta, context.learnable)
    # The second cache need not have the columns that choose rows of the first.
    masked = second or cache
    covered = covered_faces(masked, run.hold_out, run.recipe.seed, None if second else meta)
    needed = only_head or second is not None
    if covered is None and needed:
        raise TrainError(f"{masked.directory}: no face with a known mask; `prep masks` makes them")
    names = [cache.identities[label] for label in people.tolist()]
    torch.manual_seed(run.recipe.seed)
    fresh = not (directory / LAST).exists()
    described, parts = build(run, len(people), directory, fresh)
    backbone = parts["backbone"]
    context.require_side(backbone.input_spec.size, run.backbone, second)
    doubts = context.doubts(names)
    doubts.update(estimate_doubts(masked, np.arange(len(masked))))
    if is_own(run.backbone):
        _try_own(backbone, run.backbone, cache)
    margin = parts.get("head")
    if run.sample_classes is not None:
        margin = margin_of(run, context.loop)
    trainee = OamlTrainee(
        backbone,
        parts["occlusion_head"],
        margin,
        parts.get("matcher"),
        class_table(max(len(cache.identities), 1), people),
        run.recipe,
    )
    if second is None and covered is not None:
        rows = np.setdiff1d(rows, covered.held)
    fixed = context.fixed(
        run,
        rows,
        second=None if second is None else digest(second.groups["faces"]),
        epochs=context.loop.epochs,  # the rate depends on it
        rate=run.start_rate,
    )
    covered_batch = fixed.pop("occlusion_batch")
    if second is not None:
        fixed["occlusion_batch"] = covered_batch * processes.world
    if fresh:
        initialise(parts, run, names, processes.first)
    elif not is_own(run.backbone):
        feed_as_before(directory, backbone)
    if processes.world > 1 and context.device.type == "cuda":
        trainee = nn.SyncBatchNorm.convert_sync_batchnorm(trainee)
    trainee.to(context.device)
    stream = stream_of(context, run, rows, covered, second, trainee)
    centres = None
    if run.sample_classes is not None:
        numbers, seed = backbone.embedding_size, run.recipe.seed
        centres = ClassCentres(len(people), numbers, seed, processes, context.device)
    trainer = OamlTrainer(trainee, run, digest(fixed), context, covered, centres)
    if covered is not None and processes.first:
        report_mixture(covered, run, needed)
    models = {
        role: {"name": name, "arguments": arguments, "weights": f"{role}.safetensors"}
        for role, (name, arguments) in described.items()
    }
    models["backbone"]["colour"] = backbone.input_spec.colour
    images = len(rows) or (0 if covered is None else len(covered.veiled) + len(covered.clean))
    length = total_steps(len(stream), context.loop)
    context.begin(
        "train oaml", run, fixed, models, names, doubts, images, length, map=run.recipe.map_size
    )
    if fresh and processes.first:  # of a start that saved nothing
        (directory / NEIGHBOURS).unlink(missing_ok=True)
    steps = train(trainer, stream, directory, context.loop, context.device, processes)
    if processes.first:
        export(directory, trainer.recipe, described, parts)
        draw_curves(directory)
    barrier()
    return {"steps": steps, "directory": str(directory)}


def _try_own(backbone: nn.Module, name: str, cache: FaceCache) -> None:
    """Try a user's network on some faces."""
    some = cache.select()[:TRIED]
    if len(some):
        check_own(backbone, name, torch.from_numpy(cache.read(some, ["image"])["image"]))


class OamlTrainer(Trainer):
    """`train oaml` as the loop sees it.

    Args:
        recipe: digest of the settings that decide the numbers.
        context: for its device, and the pairs of the evaluation.
        covered: faces with known visibility; those that were held out are evaluated.
        centres: of the classes where they are sampled, or None.
    """

    module: OamlTrainee

    def __init__(
        self,
        trainee: OamlTrainee,
        run: OamlRun,
        recipe: str,
        context: RunContext,
        covered: Covered | None,
        centres: ClassCentres | None = None,
    ) -> None:
        self.module, self.recipe, self.seed = trainee, recipe, run.recipe.seed
        self.optimiser = optimiser_of(trainee, run)
        sampled = None
        if centres is not None and run.sample_classes is not None and trainee.head is not None:
            sampled = SampledClasses(
                trainee.head, centres, run.sample_classes, run.recipe.seed, run.weight_decay
            )
            self.optimiser.register_step_post_hook(
                lambda optimiser, *_: sampled.update(optimiser.param_groups[0]["lr"])
            )
            self.beside = centres
        self._run, self._context = run, context
        self._step = OamlStep(run.recipe, trainee, sampled)
        self._held: NDArray[np.int64] = np.empty(0, np.int64)
        if covered is not None and len(covered.held):
            learnt = np.concatenate([covered.veiled, covered.clean])
            self._held, self._masked = covered.held, covered.cache
            self._mean = mean_visibility(covered.cache, learnt, run.recipe.map_size)

    def rate(self, epochs: float) -> float:
        return rate_at(self._run, epochs / self._context.loop.epochs)

    def step(self, forward: Forward, batch: Batch, place: Place) -> Losses:
        return self._step(forward, batch, place.step)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Visibility of the faces that were held out, and verification."""
        trainee = self.module.eval()
        shared: dict[str, Any] = {
            "columns": trainee.columns, "batch_size": self._run.batch_size,
            "device": self._context.device,
        }  # fmt: skip

        def predict(batch: Batch) -> Tensor:
            return trainee.looked_at(batch)[1]

        def describe(batch: Batch) -> Tensor:
            pixels = trainee.backbone.input_spec.prepare(batch["image"])
            return embed(trainee.backbone, pixels, None, **trainee.beside(batch))[0]

        values: dict[str, float] = {}
        if len(self._held):
            values = evaluate_visibility(self._masked, self._held, self._mean, predict, **shared)
            values["score"] = -values["visibility_mse"]
        if self._context.pairs is not None:
            values |= verify(self._context.pairs, describe, **shared)
        return values

    def picture(self, path: Path, batch: Batch, place: Place) -> None:
        """Predicted visibility of some faces, and its scores so far."""
        draw_visibility(path, self.module, batch)
        draw_curves(path.parent)
