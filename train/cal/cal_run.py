"""A run of `train cal` from its parts: rows, classes, model, optimiser, loop, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.cache.plan import IDENTITIES
from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands import settings
from faceguide.core.commands.console import say
from faceguide.core.commands.run_directory import begin_training
from faceguide.core.errors import CheckpointError, TrainError
from faceguide.core.files import digest
from faceguide.train.cal.attention_guidance import collapse, heads_of
from faceguide.train.cal.attention_pictures import draw_attention, draw_energy
from faceguide.train.cal.cal_settings import CalRun
from faceguide.train.cal.cal_step import CalStep, Trainee, columns_of, map_side
from faceguide.train.cal.cal_views import predict
from faceguide.train.data import augment
from faceguide.train.data.pair_batches import PairBatches
from faceguide.train.data.training_rows import class_table, training_rows
from faceguide.train.distributed import Processes, barrier
from faceguide.train.loop import train
from faceguide.train.models import create
from faceguide.train.models.cal_network import WSDANCAL
from faceguide.train.models.colour import colour_of
from faceguide.train.models.weights import fill, find_state
from faceguide.train.pair_evaluation import Pairs, verify
from faceguide.train.run.checkpoint import LAST
from faceguide.train.run.export_weights import BACKBONE, export
from faceguide.train.run.training_data import cache_hash, write_identities
from faceguide.train.start_checks import doubts_of, require_meta, require_side
from faceguide.train.trainer import Batch, Forward, Losses, Place, Trainer
from faceguide.train.training import total_steps
from faceguide.train.training_settings import LoopSettings

DECAY, DECAY_EPOCHS = 0.9, 2.0  # the rate is multiplied by this every so many epochs
MOMENTUM = 0.9
LISTED_SHARE = 4  # one pair of a pairs file per so many images of a batch


def default_crop(cache: FaceCache) -> int:
    """7/8 of the cached side, as 448 of 512, where the crops have a margin; else all of it."""
    size = cache.require("image").shape[0]
    if not cache.recipe.get("margin"):
        return size
    return max(size * 7 // 8 // 16 * 16, 16)


def run_cal(
    cache: FaceCache,
    directory: Path,
    run: CalRun,
    loop: LoopSettings,
    *,
    device: torch.device,
    processes: Processes,
    pairs: tuple[FaceCache, Pairs] | None = None,
    contrastive_pairs: Pairs | None = None,
    argv: list[str] | None = None,
    record: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train, or resume, and export the best weights.

    Args:
        cache: the faces to learn.
        directory: of the run.
        run: what.
        loop: how long and in which precision.
        device: of this process.
        processes: this process among those connected.
        pairs: verification pairs and the cache with their images, for the end of every epoch.
        contrastive_pairs: pairs of `cache` that guidance method 5 takes.
        argv: the command line for run.json.
        record: `settings` and `inputs` of run.json, when there is more than `run` and `loop`.

    Returns:
        `steps` done and the `weights` file.

    Raises:
        TrainError, ModelError, CheckpointError, CacheError: in one line each.
    """
    require_meta(cache, dict(run.meta))
    rows, people = training_rows(cache, run.min_images, dict(run.meta))
    names = [cache.identities[label] for label in people.tolist()]
    evaluated = None if pairs is None else pairs[0]
    require_side({"CACHE": cache, "--eval-cache": evaluated}, None, run.model)
    if pairs is not None:
        pairs[1].require_both_kinds()
    doubts = doubts_of(pairs, names)
    learnt = _learnt(contrastive_pairs, rows, processes.first)
    if contrastive_pairs is not None:
        doubts.update(contrastive_pairs.doubts)
    crop, recipe = run.crop or default_crop(cache), run.recipe
    augment.check_crop(cache.require("image").shape[0], crop)
    torch.manual_seed(recipe.seed)
    arguments = {"num_classes": len(people), "heads": run.heads, "stride": run.stride}
    model: WSDANCAL = create(run.model, **arguments)
    heads_of(recipe.guidance, run.heads)
    columns = columns_of(recipe, cache.columns)
    for name in columns:
        cache.require(name)
    trainee = Trainee(
        model,
        class_table(len(cache.identities), people),
        prior=bool(recipe.guidance.weight("prior")),
        freeze_norm=recipe.freeze_norm,
    )
    stream = _stream(cache, rows, run, columns, processes, device, learnt)
    fixed = {
        **settings.fixed(run, loop),
        "crop": crop,
        "cache": cache_hash(cache),
        "rows": digest(rows.tolist()),
        "processes": processes.world,
    }
    if recipe.guidance.weight("prior"):
        # The prior fades over the whole run, so its length counts.
        fixed["steps"] = total_steps(len(stream), loop)
    if pairs is not None:  # a score is compared with the best so far
        fixed |= {"pairs": pairs[1].key(pairs[0]), "forwards": run.forwards}
    if learnt is not None:
        fixed["contrastive_pairs"] = learnt.key(cache)
    if not (directory / LAST).exists():
        line = _initialise(model, run)
        if processes.first:
            say(line)
    if processes.world > 1 and device.type == "cuda":
        trainee = nn.SyncBatchNorm.convert_sync_batchnorm(trainee)
    trainee.to(device)
    side, listed = map_side(model, crop), _listed(run, learnt)
    step = CalStep(recipe, augment.Augmentation(crop), trainee, side, listed)
    trainer = CalTrainer(trainee, step, run, digest(fixed), pairs, device)
    # Last of all: a start that fails leaves no claim on the directory.
    if processes.first:
        facts = {
            "models": {
                "backbone": {"name": run.model, "arguments": arguments, "weights": BACKBONE}
            },
            "cache": str(cache.directory.resolve()),
            "cache_hash": cache_hash(cache),
            "identities": IDENTITIES,
            "seed": recipe.seed,
            "doubts": doubts.counts(),
            **(record or {"settings": settings.recorded(run, loop)}),
        }
        begin_training(directory, "train cal", fixed=fixed, argv=argv, **facts)
        write_identities(directory, names)
        doubts.say()
    barrier()
    steps = train(trainer, stream, directory, loop, device, processes)
    if processes.first:
        export(
            directory,
            digest(fixed),
            {"backbone": (run.model, arguments)},
            {"backbone": model},
            saved_as={"backbone": "model"},
            crop=crop,
        )
        draw_energy(directory)
    barrier()
    return {"steps": steps, "weights": str(directory / BACKBONE)}


class CalTrainer(Trainer):
    """CAL as the loop sees it.

    Args:
        trainee: everything that is trained.
        step: its losses.
        run: what is asked for.
        recipe: digest of the settings that decide the numbers.
        pairs: for the evaluation, with their cache; None = none.
        device: of the module.
    """

    module: Trainee

    def __init__(
        self,
        trainee: Trainee,
        step: CalStep,
        run: CalRun,
        recipe: str,
        pairs: tuple[FaceCache, Pairs] | None,
        device: torch.device,
    ) -> None:
        self.module, self.recipe = trainee, recipe
        self.optimiser = torch.optim.SGD(
            trainee.parameters(), run.rate, momentum=MOMENTUM, weight_decay=run.weight_decay
        )
        self._step, self._run, self._pairs, self._device = step, run, pairs, device

    def rate(self, epochs: float) -> float:
        """Falls steadily."""
        return self._run.rate * DECAY ** (epochs / DECAY_EPOCHS)

    def step(self, forward: Forward, batch: Batch, place: Place) -> Losses:
        """See `CalStep`."""
        return self._step(forward, batch, place)

    def evaluate(self) -> dict[str, float]:
        """Verification by the pooled features of the middle of each image."""
        if self._pairs is None:
            return {}
        self.module.eval()
        spec = self.module.model.input_spec

        def describe(images: Tensor) -> Tensor:
            size = images.shape[1]
            crop = min(self._step.augmentation.crop, size)
            geometry = augment.centre_geometry(len(images), size, crop, images.device)
            pixels = spec.prepare(augment.warp_images(images, geometry))
            return predict(self.module.model, pixels, self._run.forwards)[2]

        batch_size = 2 * self._run.batch_size
        return verify(*self._pairs, describe, batch_size=batch_size, device=self._device)

    def picture(self, path: Path, batch: Batch, place: Place) -> None:
        """Attention on some faces, and its energy so far."""
        draw_attention(path, self._step, batch, place)
        draw_energy(path.parent)

    def warning(self, values: dict[str, float]) -> str | None:
        """Whether heads have collapsed."""
        return collapse(values)


def _initialise(model: WSDANCAL, run: CalRun) -> str:
    """Fill the model with the weights of `run.init`; says what was taken.

    Raises:
        CheckpointError: when they do not fit, or were trained on another colour order.
    """
    if run.init is None:
        return "Warning: no --init: the network starts from random weights"
    state = find_state(run.init, model, "--model")
    colour = colour_of(model, state)
    if colour.order != model.input_spec.colour:
        raise CheckpointError(
            f"{run.init}: was trained on {colour.order}, and train cal feeds "
            f"{model.input_spec.colour}; choose other weights"
        )
    return fill(model, state, run.init, "--model").summary()


def _learnt(pairs: Pairs | None, rows: NDArray[np.int64], speak: bool) -> Pairs | None:
    """The pairs of which both images are learnt; the others are counted aloud.

    Raises:
        TrainError: when there is none.
    """
    if pairs is None:
        return None
    both = np.isin(pairs.first, rows) & np.isin(pairs.second, rows)
    if not both.any():
        raise TrainError(
            f"--contrastive-pairs: none of its {len(both)} pairs has both images among those that "
            "are learnt; loosen --meta and --min-images, or choose another --contrastive-split"
        )
    if speak and not both.all():
        say(
            f"Note: {int((~both).sum())} of {len(both)} pairs of --contrastive-pairs are left out: "
            "an image is not among those that are learnt"
        )
    return Pairs(pairs.first[both], pairs.second[both], pairs.same[both])


def _listed(run: CalRun, pairs: Pairs | None) -> int:
    return 0 if pairs is None else max(run.batch_size // LISTED_SHARE, 1)


def _stream(
    cache: FaceCache,
    rows: NDArray[np.int64],
    run: CalRun,
    columns: tuple[str, ...],
    processes: Processes,
    device: torch.device,
    pairs: Pairs | None,
) -> Stream:
    shared: dict[str, Any] = {
        "columns": columns,
        "threads": run.threads,
        "device": device,
    }
    if pairs is None:
        shared |= {
            "rows": rows,
            "batch_size": run.batch_size,
            "seed": run.recipe.seed,
            "rank": processes.rank,
            "world": processes.world,
        }
    else:
        shared["batches"] = PairBatches(
            rows,
            pairs.first,
            pairs.second,
            run.batch_size,
            _listed(run, pairs),
            run.recipe.seed,
            processes.rank,
            processes.world,
        )
    return Stream(cache, **shared)
