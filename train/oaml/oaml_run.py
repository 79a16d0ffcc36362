"""A run of `train oaml` from its parts: rows, models, optimiser, loop, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from faceguide.cache.plan import IDENTITIES
from faceguide.cache.reader import FaceCache
from faceguide.core.commands import settings
from faceguide.core.commands.run_directory import begin_training
from faceguide.core.errors import TrainError
from faceguide.core.files import digest
from faceguide.train.data.training_rows import class_table, training_rows
from faceguide.train.distributed import Processes, barrier
from faceguide.train.loop import train
from faceguide.train.models.own_check import TRIED, check_own
from faceguide.train.models.own_networks import is_own
from faceguide.train.oaml.oaml_batches import NEIGHBOURS, covered_faces, say_mixture, stream_of
from faceguide.train.oaml.oaml_evaluation import Evaluation, evaluation_of
from faceguide.train.oaml.oaml_models import (
    build,
    feed_as_before,
    initialise,
    optimiser_of,
    rate_at,
)
from faceguide.train.oaml.oaml_pictures import draw_curves, draw_visibility
from faceguide.train.oaml.oaml_settings import OamlRun
from faceguide.train.oaml.oaml_step import OamlStep, OamlTrainee
from faceguide.train.pair_evaluation import Pairs
from faceguide.train.run.checkpoint import LAST
from faceguide.train.run.export_weights import export
from faceguide.train.run.training_data import cache_hash, write_identities
from faceguide.train.start_checks import doubts_of, require_meta, require_side
from faceguide.train.trainer import Batch, Forward, Losses, Place, Trainer
from faceguide.train.training_settings import LoopSettings


def run_oaml(
    cache: FaceCache,
    directory: Path,
    run: OamlRun,
    loop: LoopSettings,
    *,
    device: torch.device,
    processes: Processes,
    second: FaceCache | None = None,
    pairs: tuple[FaceCache, Pairs] | None = None,
    argv: list[str] | None = None,
    record: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train, or resume, and export the best weights.

    Args:
        cache: the faces to recognise; with part "occlusion" those whose visibility is learnt.
        directory: of the run.
        run: what.
        loop: how long and in which precision.
        device: of this process.
        processes: this process among those connected.
        second: faces with masks that visibility is learnt from, besides those of `cache`.
        pairs: verification pairs and the cache with their images, for the end of every epoch.
        argv: the command line for run.json.
        record: `settings` and `inputs` of run.json, when there is more than `run` and `loop`.

    Returns:
        `steps` done, the `directory`, and the last evaluation.

    Raises:
        TrainError, ModelError, CheckpointError, CacheError: in one line each.
    """
    alone = run.recipe.part == "occlusion"
    if alone and second is not None:
        raise TrainError("--train occlusion learns from CACHE alone; leave --niqab out")
    # The second cache need not have the columns that choose rows of the first.
    require_meta(cache, dict(run.meta))
    rows, people = (
        (np.empty(0, np.int64), np.empty(0, np.int64))
        if alone
        else training_rows(cache, run.min_images, dict(run.meta))
    )
    meta = dict(run.meta) if second is None else None
    covered = covered_faces(second or cache, run.hold_out, run.recipe.seed, meta)
    if covered is None and (alone or second is not None):
        raise TrainError(
            f"{(second or cache).directory}: no face with a known mask; `prep masks` makes them"
        )
    names = [cache.identities[label] for label in people.tolist()]
    torch.manual_seed(run.recipe.seed)
    fresh = not (directory / LAST).exists()
    described, parts = build(run, len(people), fresh)
    caches = {"CACHE": cache, "--niqab": second, "--eval-cache": pairs[0] if pairs else None}
    require_side(caches, parts["backbone"].input_spec.size, run.backbone)
    if pairs is not None:
        pairs[1].require_both_kinds()
    doubts = doubts_of(pairs, names)
    if is_own(run.backbone):
        some = cache.select()[:TRIED]
        if len(some):
            crops = torch.from_numpy(cache.read(some, ["image"])["image"])
            check_own(parts["backbone"], run.backbone, crops)
    trainee = OamlTrainee(
        parts["backbone"],
        parts["occlusion_head"],
        parts.get("head"),
        parts.get("matcher"),
        class_table(max(len(cache.identities), 1), people),
        run.recipe,
    )
    if second is None and covered is not None:
        rows = np.setdiff1d(rows, covered.held)
    fixed = {
        **settings.fixed(run, loop),
        "cache": cache_hash(cache),
        "second": None if second is None else cache_hash(second),
        "rows": digest(rows.tolist()),
        "epochs": loop.epochs,  # the rate depends on it
        "rate": run.start_rate,
        "processes": processes.world,
    }
    if pairs is not None:  # a score is compared with the best so far
        fixed["pairs"] = pairs[1].key(pairs[0])
    if fresh:
        initialise(parts, run, names, processes.first)
    elif not is_own(run.backbone):
        feed_as_before(directory, parts["backbone"])
    if processes.world > 1 and device.type == "cuda":
        trainee = nn.SyncBatchNorm.convert_sync_batchnorm(trainee)
    trainee.to(device)
    stream = stream_of(cache, rows, run, covered, second, trainee, directory, processes, device)
    evaluation = evaluation_of(trainee, run, covered, pairs, device)
    trainer = OamlTrainer(trainee, run, loop.epochs, digest(fixed), evaluation)
    say_mixture(covered, run, alone or second is not None, processes)
    # Last of all: a start that fails leaves no claim on the directory.
    if processes.first:
        facts = {
            "models": {
                role: {
                    "name": name,
                    "arguments": arguments,
                    "weights": f"{role}.safetensors",
                    **({"colour": parts[role].input_spec.colour} if role == "backbone" else {}),
                }
                for role, (name, arguments) in described.items()
            },
            "map": run.recipe.map_size,
            "cache": str(cache.directory.resolve()),
            "cache_hash": cache_hash(cache),
            "identities": IDENTITIES,
            "seed": run.recipe.seed,
            "doubts": doubts.counts(),
            **(record or {"settings": settings.recorded(run, loop)}),
        }
        begin_training(directory, "train oaml", fixed=fixed, argv=argv, **facts)
        write_identities(directory, names)
        if fresh:  # of a start that saved nothing
            (directory / NEIGHBOURS).unlink(missing_ok=True)
        doubts.say()
    barrier()
    steps = train(trainer, stream, directory, loop, device, processes)
    if processes.first:
        export(directory, digest(fixed), described, parts)
        draw_curves(directory)
    barrier()
    return {"steps": steps, "directory": str(directory)}


class OamlTrainer(Trainer):
    """`train oaml` as the loop sees it.

    Args:
        trainee: everything that is trained.
        run: what is asked for.
        epochs: of the whole run.
        recipe: digest of the settings that decide the numbers.
        evaluation: what is measured at the end of an epoch; None = nothing.
    """

    module: OamlTrainee

    def __init__(
        self,
        trainee: OamlTrainee,
        run: OamlRun,
        epochs: int,
        recipe: str,
        evaluation: Evaluation | None,
    ) -> None:
        self.module, self.recipe = trainee, recipe
        self.optimiser = optimiser_of(trainee, run)
        self._step, self._evaluation = OamlStep(run.recipe, trainee), evaluation
        self._run, self._epochs = run, epochs

    def rate(self, epochs: float) -> float:
        """See `rate_at`."""
        return rate_at(self._run, epochs / self._epochs)

    def step(self, forward: Forward, batch: Batch, place: Place) -> Losses:
        """See `OamlStep`."""
        return self._step(forward, batch)

    def evaluate(self) -> dict[str, float]:
        """See `Evaluation`."""
        return {} if self._evaluation is None else self._evaluation()

    def picture(self, path: Path, batch: Batch, place: Place) -> None:
        """Predicted visibility of some faces, and its scores so far."""
        draw_visibility(path, self.module, batch)
        draw_curves(path.parent)
