"""A run of `train distil` from its parts: rows, network, kept maps, loop, export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from faceguide.cache.inspect.occlusion_measures import estimate_doubts
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import say
from faceguide.core.errors import TrainError
from faceguide.core.files import digest, file_sha256
from faceguide.train.data.keyed_random import keyed_uniform
from faceguide.train.data.training_rows import require_meta
from faceguide.train.distil.alterations import Alterations
from faceguide.train.distil.distil_settings import SHARES, DistilRun
from faceguide.train.distil.distil_trainee import DistilTrainee
from faceguide.train.distil.distil_trainer import DistilTrainer
from faceguide.train.distil.frozen_layers import default_layer
from faceguide.train.distil.kept_maps import folder_of, keep_maps, open_maps
from faceguide.train.distil.map_batches import MapBatches
from faceguide.train.distributed import barrier
from faceguide.train.loop import train
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.loading.network_file import NetworkFile, read_network
from faceguide.train.models.own_networks import is_own
from faceguide.train.run.checkpoint import BEST
from faceguide.train.run.export_weights import BACKBONE, export
from faceguide.train.run.metrics_log import METRICS, read_metrics
from faceguide.train.run.run_context import RunContext
from faceguide.train.run.training_data import cache_hash

LEAST = 8  # faces; fewer tell nothing
_CLEAN = 0.99  # mean visibility from which a face counts as wholly visible
_PURPOSE_HELD = 45
_HELD = 64  # faces held out, or a tenth


@dataclass(frozen=True)
class Faces:
    """The faces of a run.

    Attributes:
        rows: (N,) of the cache, none of which is known to be covered.
        learnt, held: places among them.
        names: identities of those that are learnt.
    """

    rows: NDArray[np.int64]
    learnt: NDArray[np.int64]
    held: NDArray[np.int64]
    names: list[str]


def run_distil(context: RunContext, run: DistilRun, maps: Path | None = None) -> dict[str, Any]:
    """Distil, or resume, and export the best weights.

    Args:
        maps: folder for the maps of the frozen layers; None = in the run's directory.

    Returns:
        `steps` done; the `directory` and its `weights`; `maps`, the folder of kept maps;
        `stopped`, the step at which the clean limit ended the run, or None; and the agreement of
        the exported weights with the released ones.

    Raises:
        TrainError, ModelError, CheckpointError, CacheError: in one line each.
    """
    cache, recipe, directory = context.cache, run.recipe, context.directory
    first = context.processes.first
    counts = recipe.counts(run.batch_size)
    _require_sense(counts, run)
    file, network = _released(run)
    context.require_side(network.input_spec.size, file.name)
    faces = _faces(context, run)
    layer = run.from_layer or default_layer(network)
    trainee = DistilTrainee(network, layer)
    doubts = context.doubts(faces.names)
    doubts.update(estimate_doubts(cache, faces.rows))
    kinds = tuple(kind for kind, count in zip(SHARES, counts, strict=False) if count)
    depends = {
        "weights": file_sha256(file.path), "network": file.name, "layer": layer,
        "colour": file.colour.order, "cache": cache_hash(cache),
        "rows": digest(faces.rows.tolist()), "covers": list(recipe.cover), "seed": recipe.seed,
        "kinds": list(kinds),
    }  # fmt: skip
    steps = context.loop.steps
    fixed = context.fixed(run, faces.rows, from_layer=layer, depends=digest(depends), steps=steps)
    models = {
        "backbone": {
            "name": file.name, "arguments": file.arguments, "weights": BACKBONE,
            "colour": file.colour.order,
        }
    }  # fmt: skip
    altered = dict(zip((*SHARES, "clean"), counts, strict=True))
    context.begin(
        "train distil",
        run,
        fixed,
        models,
        faces.names,
        doubts,
        len(faces.learnt),
        steps or 0,
        altered=altered,
        layer=layer,
    )
    trainee.to(context.device)
    alterations = Alterations(cache, faces.rows, recipe.cover, recipe.seed)
    folder = folder_of(maps or directory / "maps", depends)
    if first:
        for line in _said(file, trainee, faces, cache, altered):
            say(line)
        keep_maps(folder, depends, trainee, alterations, len(faces.rows), kinds, context.device)
    barrier()
    kept = open_maps(folder, kinds, alterations, network.needs_keypoints)
    trainee.mean.copy_(torch.from_numpy(kept.targets["mean"].copy()))
    stream: Any = MapBatches(
        cache, kept, faces.rows, faces.learnt, counts, recipe.seed,
        context.processes.rank, context.processes.world, context.device,
    )  # fmt: skip
    trainer = DistilTrainer(trainee, run, digest(fixed), context, kept, faces.held, alterations)
    done = _stopped(directory, recipe.clean_limit)
    if done is None:
        done = train(trainer, stream, directory, context.loop, context.device, context.processes)
    result: dict[str, Any] = {"steps": done, "directory": str(directory)}
    if first:
        result |= _finish(directory, run, trainer, file, network)
        result["maps"] = str(folder)
    barrier()
    return result


def _require_sense(counts: tuple[int, int, int], run: DistilRun) -> None:
    covered, swapped, clean = counts
    if clean < 1:
        raise TrainError(
            f"--alter: of a batch of {run.batch_size}, {covered} covered and {swapped} swapped "
            "faces leave no unaltered one, which keep the network what it is; lower a share"
        )
    if swapped and not covered and not run.anyway:
        raise TrainError(
            "--alter surround without cover makes covered faces worse than the released network "
            "does (docs/distil.md); add --alter cover=0.5, or --anyway"
        )


def _released(run: DistilRun) -> tuple[NetworkFile, FaceBackbone]:
    """The network to start from, in eval mode."""
    assert run.init is not None  # Click requires it
    if is_own(run.backbone):
        raise TrainError(
            f"--backbone {run.backbone}: train distil takes the networks of `evaluate networks`"
        )
    file = read_network(run.init, run.backbone, run.colour, run.heads)
    if not isinstance(file.module, FaceBackbone):
        raise TrainError(
            f"{file.path}: holds {file.name}; train distil takes face networks, as train oaml does"
        )
    return file, file.module.eval()


def _faces(context: RunContext, run: DistilRun) -> Faces:
    cache, meta = context.cache, dict(run.meta)
    require_meta(cache, meta)
    rows = cache.select(meta=meta or None)
    if "visibility" in cache.columns and len(rows):
        found = cache.read(rows, ["visibility", "known"])
        covered = found["known"] & (found["visibility"].astype(np.float32).mean((1, 2)) < _CLEAN)
        if covered.any() and context.processes.first:
            say(f"Note: {int(covered.sum())} faces are left out: their masks say they are covered")
        rows = rows[~covered]
    if len(rows) < LEAST:
        raise TrainError(
            f"{cache.directory}: {len(rows)} unoccluded faces to learn from, {LEAST} are needed; "
            "loosen --meta"
        )
    count = min(_HELD, max(len(rows) // 10, 1))
    drawn = keyed_uniform((run.recipe.seed, _PURPOSE_HELD), torch.from_numpy(rows), 1)[:, 0]
    held = np.sort(np.argsort(drawn.numpy(), kind="stable")[:count])
    learnt = np.setdiff1d(np.arange(len(rows)), held)
    labels = np.unique(cache.read(rows[learnt], ["label"])["label"]).tolist()
    names = [cache.identities[label] for label in labels if label >= 0]
    return Faces(rows, learnt, held, names)


def _said(
    file: NetworkFile,
    trainee: DistilTrainee,
    faces: Faces,
    cache: FaceCache,
    altered: dict[str, int],
) -> list[str]:
    """What is to be known before the first step, a line each."""
    listed = ", ".join(f"{count} {name}" for name, count in altered.items())
    lines = [
        file.report.summary(),
        f"{len(faces.learnt)} faces are learnt, {len(faces.held)} held out; of a batch: {listed}; "
        f"trained from {trainee.last.layer} on: {len(trainee.last.trained)} tensors",
    ]
    if not trainee.linear:
        lines.append(
            f"Note: {file.name} has no linear tail, so whole embeddings are distilled, and its "
            "faces are compared by the cosine"
        )
    if altered["cover"] + altered["surround"]:
        there = np.zeros(len(faces.rows), bool)
        if "landmarks" in cache.columns:
            points = cache.read(faces.rows, ["landmarks"])["landmarks"]
            there = np.isfinite(points[..., :2]).all(axis=(1, 2))
        if not there.all():
            lines.append(
                f"Note: {int((~there).sum())} faces without landmarks are altered by those of the "
                "mean face"
            )
    else:
        lines.append("Warning: nothing is altered, so nothing will be learnt")
    return lines


def _stopped(directory: Path, limit: float) -> int | None:
    """The step at which the clean limit has ended a run in this directory."""
    lines = read_metrics(directory, "evaluation") if (directory / METRICS).exists() else []
    below = [line["step"] for line in lines if line["clean_agreement"] < limit]
    return below[0] if below else None


def _finish(
    directory: Path, run: DistilRun, trainer: DistilTrainer, file: NetworkFile, network: nn.Module
) -> dict[str, Any]:
    """Export the best weights; what the result says of them."""
    limit = run.recipe.clean_limit
    stopped = _stopped(directory, limit)
    if not (directory / BEST).exists():
        raise TrainError(
            f"{directory}: at the first evaluation the network agreed with the released one by "
            f"less than {limit} on unaltered faces, so nothing is kept; lower --lr, or "
            "--clean-limit, with another --out"
        )
    export(
        directory, trainer.recipe, {"backbone": (file.name, file.arguments)},
        {"backbone": network}, saved_as={"backbone": "network"},
    )  # fmt: skip
    lines = [one for one in read_metrics(directory, "evaluation") if one["score"] is not None]
    best = max(lines, key=lambda line: line["score"])
    agreement = {name: best[name] for name in best if name.endswith("_agreement")}
    return {
        "weights": str(directory / BACKBONE), "stopped": stopped, "best_step": best["step"],
        **agreement,
    }  # fmt: skip
