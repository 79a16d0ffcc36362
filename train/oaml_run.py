"""A run of `train oaml` from its parts: rows, models, optimiser, loop, export."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.cache.console import say
from faceguide.cache.files import digest, replacing
from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.train.distributed import Processes, barrier
from faceguide.train.errors import TrainError
from faceguide.train.job import Batch, Job, LoopSettings, Place
from faceguide.train.keyed_random import keyed_uniform
from faceguide.train.loop import BEST, LAST, train
from faceguide.train.models import create
from faceguide.train.models.backbone import FaceBackbone
from faceguide.train.models.checkpoint import load_matching, read_state, split_head
from faceguide.train.models.matching import match
from faceguide.train.oaml import OamlSettings, OamlStep, OamlTrainee
from faceguide.train.oaml_pictures import draw_curves, draw_visibility
from faceguide.train.resume import load_state
from faceguide.train.run_directory import IDENTITIES, begin_run, cache_hash, write_identities
from faceguide.train.samplers import GraphBatches, PersonBatches, VeiledBatches
from faceguide.train.training_rows import class_table, training_rows
from faceguide.train.two_streams import TwoStreams
from faceguide.train.verification import Pairs, verify
from faceguide.train.visibility_metrics import evaluate_visibility, mean_visibility

ROLES = ("backbone", "head", "matcher", "occlusion_head")
SAMPLERS = ("pk", "graph", "shuffle")
MOMENTUM = 0.9
# AdaFace's steps at epochs 12, 20 and 24 of 26.
MILESTONES = (12 / 26, 20 / 26, 24 / 26)
PURPOSE_HOLD_OUT = 33
CLEAN = 0.99  # mean visibility from which a face counts as wholly visible


@dataclass(frozen=True)
class OamlRun:
    """What `train oaml` is asked for.

    Attributes:
        backbone: a name in `train.models.MODELS` of a face backbone.
        recipe: of a step.
        head: "adaface", "arcface" or "cosface".
        qaconv: version of the matcher, "2.1" or "2.0".
        weighting: how visibility enters the matcher.
        sampler: "pk", "graph" or "shuffle".
        images_per_person: K of the first two.
        batch_size: recognition images per batch and process.
        occlusion_batch: images of the second cache per batch and process.
        clean_share: of the occlusion batch, wholly visible faces.
        hold_out: share of the faces with known visibility that is kept for evaluation.
        rate: learning rate at the start.
        weight_decay: on all weights but those of BatchNorm.
        min_images: persons with fewer images are left out.
        meta: required values of meta columns.
        init: weights file to start from, or None.
        threads: of each stream.
    """

    backbone: str
    recipe: OamlSettings
    head: str = "adaface"
    qaconv: str = "2.1"
    weighting: str = "common"
    sampler: str = "pk"
    images_per_person: int = 4
    batch_size: int = 64
    occlusion_batch: int = 32
    clean_share: float = 0.2
    hold_out: float = 0.1
    rate: float = 0.1
    weight_decay: float = 5e-4
    min_images: int = 2
    meta: tuple[tuple[str, str], ...] = ()
    init: Path | None = None
    threads: int = 2


@dataclass(frozen=True)
class Covered:
    """The faces that visibility is learnt from.

    Attributes:
        cache: where they are.
        veiled: (N,) rows with hidden cells.
        clean: (M,) rows that are known to be wholly visible.
        held: (H,) rows of either kind, for evaluation alone.
    """

    cache: FaceCache
    veiled: NDArray[np.int64]
    clean: NDArray[np.int64]
    held: NDArray[np.int64]


def covered_faces(cache: FaceCache, hold_out: float, seed: int) -> Covered | None:
    """Rows with known visibility, sorted into kinds; None when the cache has no masks."""
    if "visibility" not in cache.columns:
        return None
    rows = cache.select(known_occlusion=True)
    if not len(rows):
        return None
    draws = keyed_uniform((seed, PURPOSE_HOLD_OUT), torch.from_numpy(rows), 1)[:, 0].numpy()
    held, rows = rows[draws < hold_out], rows[draws >= hold_out]
    shares = [
        cache.read(rows[start : start + 4096], ["visibility"])["visibility"]
        .astype(np.float32)
        .mean((1, 2))
        for start in range(0, len(rows), 4096)
    ]
    visible = np.concatenate([*shares, np.empty(0, np.float32)]) >= CLEAN
    return Covered(cache, rows[~visible], rows[visible], held)


def build(run: OamlRun, classes: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Role → name and arguments of every model of the run."""
    probe: FaceBackbone = create(run.backbone)
    side = run.recipe.map_size
    channels = probe.map_channels[side]
    models: dict[str, tuple[str, dict[str, Any]]] = {
        "backbone": (run.backbone, {"embedding_size": probe.embedding_size}),
        "occlusion_head": ("occlusion_head", {"channels": channels}),
    }
    if run.recipe.part != "occlusion":
        models["head"] = (
            run.head,
            {"num_classes": classes, "embedding_size": probe.embedding_size},
        )
        models["matcher"] = (
            "qaconv",
            {"version": run.qaconv, "channels": channels, "height": side, "width": side,
             "weighting": run.weighting},
        )  # fmt: skip
    return models


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
) -> dict[str, Any]:
    """Train, or go on training, and export the best weights.

    Args:
        cache: the faces to recognise; with part "occlusion" those whose visibility is learnt.
        directory: of the run.
        run: what.
        loop: how long and in which arithmetic.
        device: of this process.
        processes: this process among those connected.
        second: faces with masks that visibility is learnt from, beside those of `cache`.
        pairs: verification pairs and the cache they lie in, for the end of every epoch.
        argv: the command line for run.json.

    Returns:
        `steps` done, the `directory`, and the last evaluation.

    Raises:
        TrainError, ModelError, CheckpointError, CacheError: in one line each.
    """
    alone = run.recipe.part == "occlusion"
    if alone and second is not None:
        raise TrainError("--train occlusion learns from CACHE alone; leave --niqab out")
    rows, people = (
        (np.empty(0, np.int64), np.empty(0, np.int64))
        if alone
        else training_rows(cache, run.min_images, dict(run.meta))
    )
    covered = covered_faces(second or cache, run.hold_out, run.recipe.seed)
    if covered is None and (alone or second is not None):
        raise TrainError(
            f"{(second or cache).directory}: no face with a known mask; `prep masks` makes them"
        )
    _say_mixture(covered, run, alone or second is not None, processes)
    torch.manual_seed(run.recipe.seed)
    described = build(run, len(people))
    parts: dict[str, Any] = {
        role: create(name, **arguments) for role, (name, arguments) in described.items()
    }
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
    fixed = _fixed(cache, second, run, rows, loop, processes)
    if processes.first:
        record = {
            "models": {
                role: {"name": name, "arguments": arguments, "weights": f"{role}.safetensors"}
                for role, (name, arguments) in described.items()
            },
            "map": run.recipe.map_size,
            "cache": str(cache.directory.resolve()),
            "cache_hash": cache_hash(cache),
            "identities": IDENTITIES,
            "seed": run.recipe.seed,
        }
        settings = {**_plain(asdict(run)), "loop": asdict(loop)}
        begin_run(directory, "train oaml", settings, fixed=fixed, argv=argv, **record)
        write_identities(directory, [cache.identities[label] for label in people.tolist()])
    barrier()
    if run.init is not None and not (directory / LAST).exists():
        _initialise(parts, run.init, processes.first)
    if processes.world > 1 and device.type == "cuda":
        trainee = nn.SyncBatchNorm.convert_sync_batchnorm(trainee)
    trainee.to(device)
    step = OamlStep(run.recipe, trainee, run.recipe.map_size)
    evaluate = _evaluation(trainee, run, covered, pairs, device)
    job = Job(
        module=trainee,
        step=step,
        optimiser=_optimiser(trainee, run),
        rate=lambda epochs: _rate(run, epochs / loop.epochs),
        stream=_streams(cache, rows, run, covered, second, trainee, directory, processes, device),
        recipe=digest(fixed),
        names=lambda numbers: cache.texts("key", numbers),
        evaluate=evaluate,
        picture=lambda path, batch, place: _picture(path, step, batch, place),
    )
    steps = train(job, directory, loop, device, processes)
    if processes.first:
        _export(directory, described, digest(fixed))
        draw_curves(directory)
    barrier()
    return {"steps": steps, "directory": str(directory)}


def _say_mixture(covered: Covered | None, run: OamlRun, needed: bool, processes: Processes) -> None:
    if covered is None or not processes.first:
        return
    say(
        f"{covered.cache.directory}: {len(covered.veiled)} covered and {len(covered.clean)} wholly "
        f"visible faces with a known mask, {len(covered.held)} held out"
    )
    if needed and not len(covered.clean) and run.clean_share > 0:
        say(
            "Note: no wholly visible face among them, so the batches hold covered ones alone; "
            "`prep masks --clean FOLDER` names clean photographs"
        )


def _initialise(parts: dict[str, Any], path: Path, speak: bool) -> None:
    """Backbone, and the margin head where the file has one of as many classes."""
    backbone, head = split_head(read_state(path))
    lines = [load_matching(parts["backbone"], backbone, str(path)).summary()]
    if head and "head" in parts:
        lines.append(load_matching(parts["head"], head, f"{path} (head)").summary())
    if speak:
        for line in lines:
            say(line)


def _optimiser(trainee: OamlTrainee, run: OamlRun) -> torch.optim.Optimizer:
    """SGD for the whole network, AdamW for parts on a frozen one; no decay on BatchNorm."""
    norms: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in trainee.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
                (norms if is_norm else others).append(parameter)
    groups = [
        {"params": others, "weight_decay": run.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    if run.recipe.part == "all":
        return torch.optim.SGD(groups, run.rate, momentum=MOMENTUM)
    return torch.optim.AdamW(groups, run.rate)


def _rate(run: OamlRun, done: float) -> float:
    """AdaFace's three steps for the whole network, a cosine for parts."""
    if run.recipe.part == "all":
        return run.rate * 0.1 ** sum(done >= milestone for milestone in MILESTONES)
    return run.rate * max(0.5 * (1.0 + float(np.cos(np.pi * min(done, 1.0)))), 1e-3)


def _columns(cache: FaceCache, run: OamlRun, label: bool) -> tuple[str, ...]:
    columns = ["image", *(["label"] if label else [])]
    if "visibility" in cache.columns:
        columns += ["visibility", "known"]
    if run.recipe.augmentation.occluders is not None:
        columns.append("landmarks")
    return tuple(columns)


def _streams(
    cache: FaceCache,
    rows: NDArray[np.int64],
    run: OamlRun,
    covered: Covered | None,
    second: FaceCache | None,
    trainee: OamlTrainee,
    directory: Path,
    processes: Processes,
    device: torch.device,
) -> Callable[[dict[str, Any] | None], Stream]:
    seed, rank, world = run.recipe.seed, processes.rank, processes.world

    def veiled(size: int) -> VeiledBatches:
        assert covered is not None
        return VeiledBatches(
            covered.veiled, covered.clean, size, run.clean_share, seed, rank, world
        )

    def make(state: dict[str, Any] | None) -> Stream:
        shared: dict[str, Any] = {"threads": run.threads, "device": device}
        first: dict[str, Any] = {"columns": _columns(cache, run, label=True), **shared}
        if run.recipe.part == "occlusion":
            return Stream(cache, batches=veiled(run.batch_size), state=state, **first)
        labels = cache.read(rows, ["label"])["label"]
        if run.sampler == "shuffle":
            first |= {"rows": rows, "batch_size": run.batch_size, "seed": seed}
            first |= {"rank": rank, "world": world}
        elif run.sampler == "pk":
            first["batches"] = PersonBatches(
                rows, labels, run.batch_size, run.images_per_person, seed, rank, world
            )
        else:
            first["batches"] = GraphBatches(
                rows,
                labels,
                run.batch_size,
                lambda wanted: _similarity(cache, wanted, trainee, device),
                directory / "neighbours.npz",
                run.images_per_person,
                seed,
                rank,
                world,
            )
        main = Stream(cache, state=state, **first)
        if second is None:
            return main
        behind = Stream(
            second,
            batches=veiled(run.occlusion_batch),
            columns=_columns(second, run, label=False),
            state=None if state is None else state["second"],
            **shared,
        )
        return cast(Stream, TwoStreams(main, behind))  # what the loop uses of a Stream

    return make


@torch.no_grad()
def _similarity(
    cache: FaceCache, rows: NDArray[np.int64], trainee: OamlTrainee, device: torch.device
) -> NDArray[np.float32]:
    """QAConv scores of rows with each other, by the weights as they are."""
    was_training, matcher = trainee.training, trainee.matcher
    assert matcher is not None
    trainee.eval()
    maps, seen = [], []
    stream = Stream(
        cache, rows, columns=("image",), batch_size=64, shuffle=False, ragged="exact",
        device=device,
    )  # fmt: skip
    for batch in stream:
        pixels = trainee.backbone.input_spec.prepare(batch["image"])
        found = trainee.backbone.feature_map(pixels, trainee.settings.map_size)
        seen.append(trainee.occlusion_head(found)[:, 0].float().cpu())
        maps.append(found.half().cpu())
    faces, visible = torch.cat(maps), torch.cat(seen)
    scores: NDArray[np.float32] = match(matcher, faces, faces, visible, visible).cpu().numpy()
    trainee.train(was_training)
    return scores


def _evaluation(
    trainee: OamlTrainee,
    run: OamlRun,
    covered: Covered | None,
    pairs: tuple[FaceCache, Pairs] | None,
    device: torch.device,
) -> Callable[[], dict[str, float]] | None:
    """What is measured at the end of an epoch; None when there is nothing to measure on."""
    held = covered if covered is not None and len(covered.held) else None
    if held is None and pairs is None:
        return None
    mean = torch.ones(run.recipe.map_size, run.recipe.map_size)
    if held is not None:
        learnt = np.concatenate([held.veiled, held.clean])
        mean = mean_visibility(held.cache, learnt, run.recipe.map_size)

    def predict(images: Tensor) -> Tensor:
        pixels = trainee.backbone.input_spec.prepare(images)
        maps = trainee.backbone.feature_map(pixels, run.recipe.map_size)
        return trainee.occlusion_head(maps)[:, 0]

    def describe(images: Tensor) -> Tensor:
        return trainee.backbone(trainee.backbone.input_spec.prepare(images))[0]

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        trainee.eval()
        values: dict[str, float] = {}
        shared: dict[str, Any] = {"batch_size": run.batch_size, "device": device}
        if held is not None:
            values |= evaluate_visibility(held.cache, held.held, mean, predict, **shared)
            values["score"] = -values["visibility_mse"]
        if pairs is not None:
            values |= verify(*pairs, describe, **shared)
        return values

    return evaluate


def _picture(path: Path, step: OamlStep, batch: Batch, place: Place) -> None:
    draw_visibility(path, step, batch, place)
    draw_curves(path.parent)


def _export(directory: Path, described: dict[str, tuple[str, Any]], recipe: str) -> None:
    """Each model of the best save as safetensors."""
    from safetensors.torch import save_file

    state = load_state(directory / BEST, recipe)
    if state is None:
        raise TrainError(f"{directory / BEST}: not there, so nothing can be exported")
    for role, (name, arguments) in described.items():
        prefix = f"{role}."
        weights = {
            key.removeprefix(prefix): tensor.contiguous()
            for key, tensor in state.module.items()
            if key.startswith(prefix)
        }
        metadata = {"arch": name, **{key: str(value) for key, value in arguments.items()}}
        with replacing(directory / f"{role}.safetensors") as temporary:
            save_file(weights, str(temporary), metadata)


def _plain(value: Any) -> Any:
    """Settings as JSON values."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def _fixed(
    cache: FaceCache,
    second: FaceCache | None,
    run: OamlRun,
    rows: NDArray[np.int64],
    loop: LoopSettings,
    processes: Processes,
) -> dict[str, Any]:
    """What must stay equal for a run to go on: everything that a gradient depends on."""
    settings = _plain(asdict(run))
    del settings["threads"]
    recipe = settings.pop("recipe")
    return {
        **settings,
        **{f"recipe.{name}": value for name, value in recipe.items()},
        "cache": cache_hash(cache),
        "second": None if second is None else cache_hash(second),
        "rows": digest(rows.tolist()),
        "epochs": loop.epochs,  # the rate depends on it
        "accumulate": loop.accumulate,
        "amp": loop.amp,
        "processes": processes.world,
    }
