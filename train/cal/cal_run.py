"""A run of `train cal` from its parts: rows, classes, model, optimiser, loop, export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.cache.plan import IDENTITIES
from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands.console import say
from faceguide.core.commands.run_directory import begin_training, plain
from faceguide.core.errors import CheckpointError, TrainError
from faceguide.core.files import digest
from faceguide.train.cal.attention_guidance import collapse
from faceguide.train.cal.attention_pictures import (
    draw_attention,
    draw_energy,
)
from faceguide.train.cal.cal_step import (
    CalSettings,
    CalStep,
    Trainee,
    map_side,
)
from faceguide.train.cal.cal_views import predict
from faceguide.train.data import augment
from faceguide.train.data.pair_batches import PairBatches
from faceguide.train.data.training_rows import (
    class_table,
    training_rows,
)
from faceguide.train.distributed import Processes, barrier
from faceguide.train.job import Batch, Job, LoopSettings, Place, total_steps
from faceguide.train.loop import LAST, train
from faceguide.train.models import create
from faceguide.train.models.cal_network import WSDANCAL
from faceguide.train.models.colour import colour_of
from faceguide.train.models.weights import (
    fill,
    find_state,
)
from faceguide.train.pair_evaluation import (
    Pairs,
    verify,
)
from faceguide.train.run.export_weights import (
    BACKBONE,
    export,
)
from faceguide.train.run.training_data import cache_hash, write_identities
from faceguide.train.start_checks import doubts_of, require_meta, require_side

DECAY, DECAY_EPOCHS = 0.9, 2.0  # the rate is multiplied by this every so many epochs
MOMENTUM = 0.9
LISTED_SHARE = 4  # one pair of a pairs file per so many images of a batch


@dataclass(frozen=True)
class CalRun:
    """What `train cal` is asked for.

    Attributes:
        model: a name in `train.models.MODELS` that starts with `cal_`.
        heads: attention maps M.
        stride: image pixels per cell, 16 or 32.
        recipe: of a step.
        batch_size: images per batch and process.
        rate: learning rate at the start.
        weight_decay: of SGD.
        min_images: persons with fewer images are left out.
        meta: required values of meta columns.
        forwards: of the evaluation, 1, 2 or 8.
        init: weights file to start from, or None.
        threads: of the stream.
    """

    model: str
    recipe: CalSettings
    heads: int = 32
    stride: int = 16
    batch_size: int = 16
    rate: float = 1e-3
    weight_decay: float = 1e-5
    min_images: int = 1
    meta: tuple[tuple[str, str], ...] = ()
    forwards: int = 1
    init: Path | None = None
    threads: int = 2


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
    """Train, or go on training, and export the best weights.

    Args:
        cache: the faces to learn.
        directory: of the run.
        run: what.
        loop: how long and in which arithmetic.
        device: of this process.
        processes: this process among those connected.
        pairs: verification pairs and the cache they lie in, for the end of every epoch.
        contrastive_pairs: pairs of `cache` that guidance method 5 takes.
        argv: the command line for run.json.
        record: further fields of run.json.

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
    size = cache.require("image").shape[0]
    augment.check_crop(size, run.recipe.augmentation.crop)
    torch.manual_seed(run.recipe.seed)
    arguments = {"num_classes": len(people), "heads": run.heads, "stride": run.stride}
    model: WSDANCAL = create(run.model, **arguments)
    run.recipe.guidance.heads_of(run.heads)
    columns = run.recipe.columns(cache.columns)
    for name in columns:
        cache.require(name)
    trainee = Trainee(
        model,
        class_table(len(cache.identities), people),
        prior=bool(run.recipe.guidance.prior),
        freeze_norm=run.recipe.freeze_norm,
    )
    stream = _streams(cache, rows, run, columns, processes, device, learnt)
    fixed = _fixed(cache, run, rows, stream(None), loop, processes)
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
    listed = _listed(run, learnt)
    step = CalStep(run.recipe, trainee, map_side(model, run.recipe.augmentation.crop), listed)
    job = Job(
        module=trainee,
        step=step,
        optimiser=torch.optim.SGD(
            trainee.parameters(), run.rate, momentum=MOMENTUM, weight_decay=run.weight_decay
        ),
        rate=lambda epochs: run.rate * DECAY ** (epochs / DECAY_EPOCHS),
        stream=stream,
        recipe=digest(fixed),
        names=lambda numbers: cache.texts("key", numbers),
        evaluate=None if pairs is None else lambda: _evaluate(trainee, run, *pairs, device),
        picture=lambda path, batch, place: _picture(path, step, batch, place),
        warn=lambda values: collapse(values),
    )
    # Last of all: a start that fails leaves no claim on the directory.
    if processes.first:
        facts = {
            "models": {
                "backbone": {"name": run.model, "arguments": arguments, "weights": BACKBONE}
            },
            "cache": str(cache.directory.resolve()),
            "cache_hash": cache_hash(cache),
            "identities": IDENTITIES,
            "seed": run.recipe.seed,
            "doubts": doubts.counts(),
            **(record or {}),
        }
        settings = {**plain(asdict(run)), "loop": asdict(loop)}
        begin_training(directory, "train cal", settings, fixed=fixed, argv=argv, **facts)
        write_identities(directory, names)
        doubts.say()
    barrier()
    steps = train(job, directory, loop, device, processes)
    if processes.first:
        described = {"backbone": (run.model, arguments)}
        export(
            directory,
            digest(fixed),
            described,
            {"backbone": model},
            saved_as={"backbone": "model"},
            crop=run.recipe.augmentation.crop,
        )
        draw_energy(directory)
    barrier()
    return {"steps": steps, "weights": str(directory / BACKBONE)}


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


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names, which a message can list."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _fixed(
    cache: FaceCache,
    run: CalRun,
    rows: NDArray[np.int64],
    stream: Stream,
    loop: LoopSettings,
    processes: Processes,
) -> dict[str, Any]:
    """What must stay equal for a run to go on: everything that a gradient depends on."""
    settings = _flat(plain(asdict(run)))
    for name in ("threads", "forwards"):
        del settings[name]
    settings |= {
        "cache": cache_hash(cache),
        "rows": digest(rows.tolist()),
        "accumulate": loop.accumulate,
        "amp": loop.amp,
        "processes": processes.world,
    }
    if run.recipe.guidance.prior:
        # The prior fades over the whole run, so its length counts.
        settings["steps"] = total_steps(len(stream), loop)
    return settings


def _listed(run: CalRun, pairs: Pairs | None) -> int:
    return 0 if pairs is None else max(run.batch_size // LISTED_SHARE, 1)


def _streams(
    cache: FaceCache,
    rows: NDArray[np.int64],
    run: CalRun,
    columns: tuple[str, ...],
    processes: Processes,
    device: torch.device,
    pairs: Pairs | None,
) -> Callable[[dict[str, Any] | None], Stream]:
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
    return lambda state: Stream(cache, state=state, **shared)


def _evaluate(
    trainee: Trainee, run: CalRun, cache: FaceCache, pairs: Pairs, device: torch.device
) -> dict[str, float]:
    """Verification by the pooled features of the middle of each image."""
    trainee.eval()
    crop = run.recipe.augmentation.crop

    def describe(images: Tensor) -> Tensor:
        size = images.shape[1]
        geometry = augment.centre_geometry(len(images), size, min(crop, size), images.device)
        pixels = trainee.model.input_spec.prepare(augment.warp_images(images, geometry))
        return predict(trainee.model, pixels, run.forwards)[2]

    return verify(cache, pairs, describe, batch_size=2 * run.batch_size, device=device)


def _picture(path: Path, step: CalStep, batch: Batch, place: Place) -> None:
    draw_attention(path, step, batch, place)
    draw_energy(path.parent)
