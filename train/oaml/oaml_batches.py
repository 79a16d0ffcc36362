"""Which faces of which cache make the batches of a `train oaml` run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands.console import say
from faceguide.train.data.face_augment import FaceAugmentation, augmenting
from faceguide.train.data.keyed_random import keyed_uniform
from faceguide.train.data.occluders import Occluders
from faceguide.train.data.samplers import GraphBatches, PersonBatches, VeiledBatches
from faceguide.train.data.two_streams import TwoStreams
from faceguide.train.distributed import Processes
from faceguide.train.models.matchers.matching import match
from faceguide.train.oaml.oaml_settings import OamlRun, OamlSettings
from faceguide.train.oaml.oaml_step import OamlTrainee

PURPOSE_HOLD_OUT = 33
NEIGHBOURS = "neighbours.safetensors"  # in a run's directory, of the sampler "graph"
CLEAN = 0.99  # mean visibility from which a face counts as wholly visible


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


def covered_faces(
    cache: FaceCache, hold_out: float, seed: int, meta: Mapping[str, str] | None = None
) -> Covered | None:
    """Rows with known visibility, sorted into kinds; None when the cache has no masks.

    Args:
        cache: with masks or without.
        hold_out: share of the rows that is kept for evaluation.
        seed: of the draw of those.
        meta: required values of meta columns.
    """
    if "visibility" not in cache.columns:
        return None
    rows = cache.select(known_occlusion=True, meta=meta)
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


def say_mixture(covered: Covered | None, run: OamlRun, needed: bool, processes: Processes) -> None:
    if covered is None or not processes.first:
        return
    say(
        f"{covered.cache.directory}: {len(covered.veiled)} covered and {len(covered.clean)} wholly "
        f"visible faces with a known mask, {len(covered.held)} held out"
    )
    if needed and not len(covered.clean) and run.clean_share > 0:
        say(
            "Note: no wholly visible face among them, so the batches hold only covered ones; "
            "`prep masks --clean FOLDER` names clean photographs"
        )


def _columns(cache: FaceCache, run: OamlRun, label: bool) -> tuple[str, ...]:
    columns = ["image", *(["label"] if label else [])]
    if "visibility" in cache.columns:
        columns += ["visibility", "known"]
    if augmentation_of(run.recipe).occluders is not None:
        columns.append("landmarks")
    return tuple(columns)


def stream_of(
    cache: FaceCache,
    rows: NDArray[np.int64],
    run: OamlRun,
    covered: Covered | None,
    second: FaceCache | None,
    trainee: OamlTrainee,
    directory: Path,
    processes: Processes,
    device: torch.device,
) -> Stream:
    seed, rank, world = run.recipe.seed, processes.rank, processes.world

    def veiled(size: int) -> VeiledBatches:
        assert covered is not None
        return VeiledBatches(
            covered.veiled, covered.clean, size, run.clean_share, seed, rank, world
        )

    recipe = run.recipe
    shared: dict[str, Any] = {"threads": run.threads, "device": device}

    def prepared(cache: FaceCache, label: bool, seed: int) -> dict[str, Any]:
        transform = augmenting(augmentation_of(recipe), seed, recipe.map_size)
        return {**shared, "columns": _columns(cache, run, label), "transform": transform}

    first = prepared(cache, True, seed)
    if recipe.part == "occlusion":
        return Stream(cache, batches=veiled(run.batch_size), **first)
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
            directory / NEIGHBOURS,
            run.images_per_person,
            seed,
            rank,
            world,
        )
    main = Stream(cache, **first)
    if second is None:
        return main
    # The caches count their rows alike, so the second one needs another key.
    behind = prepared(second, False, seed + 1_000_003)
    other = Stream(second, batches=veiled(run.occlusion_batch), **behind)
    return cast(Stream, TwoStreams(main, other))  # what the loop uses of a Stream


def augmentation_of(recipe: OamlSettings) -> FaceAugmentation:
    """What the recipe's options ask for."""
    kinds = tuple(kind for kind in recipe.occluders if kind != "none")
    occluders = Occluders(kinds, recipe.occluder_share) if kinds else None
    if recipe.augment:
        return FaceAugmentation(occluders=occluders)
    return FaceAugmentation(0.0, 0.0, 0.0, 0.0, occluders)


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
