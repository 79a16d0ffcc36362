"""Which faces of which cache make the batches of a `train oaml` run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.order import Order
from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands.console import say
from faceguide.core.errors import TrainError
from faceguide.train.data.face_augment import FaceAugmentation, augmenting
from faceguide.train.data.keyed_random import keyed_uniform
from faceguide.train.data.occluders import Occluders
from faceguide.train.data.samplers import GraphBatches, MixedBatches, PersonBatches
from faceguide.train.data.swapped_surrounds import swapping
from faceguide.train.data.two_streams import TwoStreams
from faceguide.train.models.matchers.matching import match
from faceguide.train.oaml.oaml_settings import OamlRun, OamlSettings
from faceguide.train.oaml.oaml_step import OamlTrainee
from faceguide.train.run.run_context import RunContext

PURPOSE_HOLD_OUT = 33
NEIGHBOURS = "neighbours.safetensors"  # in a run's directory, of the sampler "graph"
CLEAN = 0.99  # mean visibility from which a face counts as wholly visible


@dataclass(frozen=True)
class Covered:
    """The faces that visibility is learnt from.

    Attributes:
        veiled: (N,) rows with occluded cells.
        clean: (M,) rows that are known to be wholly visible.
        held: (H,) rows of either kind, for evaluation only.
    """

    cache: FaceCache
    veiled: NDArray[np.int64]
    clean: NDArray[np.int64]
    held: NDArray[np.int64]


def covered_faces(
    cache: FaceCache, hold_out: float, seed: int, meta: Mapping[str, str] | None = None
) -> Covered | None:
    """Rows with known visibility, sorted into kinds; None when the cache has no masks.

    Estimated visibility is left out: nothing would be learnt from a network's own answers.

    Args:
        hold_out: share of the rows that is kept for evaluation.
    """
    if "visibility" not in cache.columns:
        return None
    rows = cache.select(known_occlusion=True, meta=meta)
    rows = rows[~cache.estimated(rows)]
    if not len(rows):
        return None
    drawn = keyed_uniform((seed, PURPOSE_HOLD_OUT), torch.from_numpy(rows), 1)[:, 0].numpy()
    held, rows = rows[drawn < hold_out], rows[drawn >= hold_out]
    shares = [
        cache.read(rows[start : start + 4096], ["visibility"])["visibility"]
        .astype(np.float32)
        .mean((1, 2))
        for start in range(0, len(rows), 4096)
    ]
    visible = np.concatenate([*shares, np.empty(0, np.float32)]) >= CLEAN
    return Covered(cache, rows[~visible], rows[visible], held)


def report_mixture(covered: Covered, run: OamlRun, needed: bool) -> None:
    """Say how many faces of which kind visibility is learnt from."""
    say(
        f"{covered.cache.directory}: {len(covered.veiled)} covered and {len(covered.clean)} wholly "
        f"visible faces with a known mask, {len(covered.held)} held out"
    )
    if needed and not len(covered.clean) and run.clean_share > 0:
        say(
            "Note: no wholly visible face among them, so the batches hold only covered ones; "
            "`prep masks --clean FOLDER` names clean photographs"
        )


def veiled_batches(
    covered: Covered, size: int, share: float, seed: int, rank: int, world: int
) -> MixedBatches:
    """Covered faces, each once per epoch, and wholly visible ones in a fixed proportion.

    Args:
        covered: the faces; without clean ones all are covered.
        size: of a batch on this rank.
        share: of the clean ones in a batch, 0 to below 1.
        seed, rank, world: see `Order`.

    Raises:
        TrainError: when no face is covered.
    """
    clean = round(size * share) if len(covered.clean) else 0
    clean = min(clean, size - 1)
    if not len(covered.veiled):
        raise TrainError("no covered face with a known mask; `prep masks` makes them known")
    return MixedBatches(
        Order(covered.veiled, size - clean, seed, rank, world),
        Order(np.arange(len(covered.clean)), clean, seed, rank, world) if clean else None,
        covered.clean[:, None],
    )


def stream_of(
    context: RunContext,
    run: OamlRun,
    rows: NDArray[np.int64],
    covered: Covered | None,
    second: FaceCache | None,
    trainee: OamlTrainee,
) -> Stream:
    """The batches of the run.

    Args:
        context: with the cache to recognise, and the process.
        covered: the faces that visibility is learnt from.
        second: their cache, if it is another.
        trainee: whose matcher tells which identities are similar.
    """
    cache, device, recipe = context.cache, context.device, run.recipe
    told = trainee.backbone.needs_keypoints
    place: dict[str, Any] = {
        "seed": recipe.seed, "rank": context.processes.rank, "world": context.processes.world,
    }  # fmt: skip

    def prepared(cache: FaceCache, key: int, **batches: Any) -> Stream:
        augmentation = augmentation_of(recipe)
        columns = ["image"] + ["label"] * (cache is not second)
        columns += ["visibility", "known"] * ("visibility" in cache.columns)
        columns += ["estimated"] * ("estimated" in cache.columns)
        swap = None
        if recipe.surround is not None and cache is not second:
            swap = swapping(cache, rows, recipe.surround[1], key)
        columns += ["landmarks"] * (augmentation.occluders is not None or told or swap is not None)
        augment = augmenting(augmentation, key, recipe.map_size, told)

        def transform(batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
            if "estimated" in batch:
                estimated = batch.pop("estimated").bool()
                batch["known"] = batch["known"].bool() & ~estimated
                seen = batch["visibility"].masked_fill(estimated[:, None, None], 1)
                batch["visibility"] = seen
            return augment(batch if swap is None else swap(batch, epoch), epoch)

        return Stream(
            cache, columns=columns, transform=transform, threads=run.threads, device=device,
            **batches,
        )  # fmt: skip

    def veiled(size: int) -> MixedBatches:
        assert covered is not None
        return veiled_batches(covered, size, run.clean_share, **place)

    if recipe.part == "occlusion":
        return prepared(cache, recipe.seed, batches=veiled(run.batch_size))
    grouped = (rows, cache.read(rows, ["label"])["label"], run.batch_size, run.images_per_person)
    if run.sampler == "shuffle":
        weights = dict(run.mix)
        main = prepared(
            cache, recipe.seed, rows=rows, batch_size=run.batch_size, weights=weights, **place
        )
    elif run.sampler == "pk":
        main = prepared(cache, recipe.seed, batches=PersonBatches(*grouped, **place))
    else:
        graph = GraphBatches(
            *grouped,
            similarity=lambda wanted: _similarity(cache, wanted, trainee, device),
            keep=context.directory / NEIGHBOURS,
            **place,
        )
        main = prepared(cache, recipe.seed, batches=graph)
    if second is None:
        return main
    # The caches count their rows alike, so the second one needs another key.
    other = prepared(second, recipe.seed + 1_000_003, batches=veiled(run.occlusion_batch))
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
        cache, rows, columns=trainee.columns, batch_size=64, shuffle=False, ragged="exact",
        device=device,
    )  # fmt: skip
    for batch in stream:
        found, visible = trainee.looked_at(batch)
        seen.append(visible.float().cpu())
        maps.append(found.half().cpu())
    faces, known = torch.cat(maps), torch.cat(seen)
    scores: NDArray[np.float32] = match(matcher, faces, faces, known, known).cpu().numpy()
    trainee.train(was_training)
    return scores
