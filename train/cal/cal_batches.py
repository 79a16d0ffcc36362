"""The batches of a `train cal` run, with what is made of them in the stream's threads."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.order import Order
from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream, Transform
from faceguide.core.errors import TrainError
from faceguide.core.faces.face_oval import oval_of
from faceguide.train.cal.cal_settings import CalRun, CalSettings
from faceguide.train.cal.cal_step import columns_of
from faceguide.train.data.samplers import MixedBatches
from faceguide.train.data.swapped_surrounds import swapping
from faceguide.train.listed_pairs import Pairs
from faceguide.train.run.run_context import RunContext


def stream_of(
    context: RunContext, run: CalRun, rows: NDArray[np.int64], listed: Pairs | None, pairs: int
) -> Stream:
    """The rows in a new order each epoch, so many listed pairs behind them in a batch."""
    columns = columns_of(run.recipe, context.cache.columns)
    for name in columns:
        context.cache.require(name)
    shared: dict[str, Any] = {
        "columns": columns, "threads": run.threads, "device": context.device,
        "transform": transform_of(run.recipe, context.cache, rows),
    }  # fmt: skip
    seed, rank, world = run.recipe.seed, context.processes.rank, context.processes.world
    if listed is None:
        return Stream(
            context.cache, rows, batch_size=run.batch_size, seed=seed, rank=rank, world=world,
            **shared,
        )  # fmt: skip
    if run.batch_size <= 2 * pairs:
        raise TrainError(
            f"--contrastive-pairs needs --batch-size 3 or more, found {run.batch_size}"
        )
    both = np.stack([listed.first, listed.second], axis=1)
    batches = MixedBatches(
        Order(rows, run.batch_size - 2 * pairs, seed, rank, world),
        Order(np.arange(len(both)), pairs, seed + 1, rank, world),
        both,
    )
    return Stream(context.cache, batches=batches, **shared)


def transform_of(
    settings: CalSettings, cache: FaceCache, rows: NDArray[np.int64]
) -> Transform | None:
    """Swapped surrounds, and the oval of `--guide oval`; None where neither is asked for.

    Args:
        rows: (N,) increasing rows that are learnt.

    Returns:
        A transform that takes `landmarks` out of the batch, and adds `oval`, (N, 1, G, G) uint8
        share of each cell of the heatmap inside the face's oval, 255 = 1.
    """
    aims = bool(settings.guidance.weight("oval"))
    swap = None
    if settings.surround is not None:
        swap = swapping(cache, rows, settings.surround[1], settings.seed)
    if swap is None and not aims:
        return None

    def transform(batch: dict[str, torch.Tensor], epoch: int) -> dict[str, torch.Tensor]:
        made = batch if swap is None else swap(batch, epoch)
        points = made["landmarks"].numpy()[..., :2].astype(np.float64)
        made = {name: values for name, values in made.items() if name != "landmarks"}
        if aims:
            made["oval"] = torch.from_numpy(
                ovals(points, made["image"].shape[1], made["heatmap"].shape[1])
            )
        return made

    return transform


def ovals(landmarks: NDArray[np.float64], size: int, grid: int) -> NDArray[np.uint8]:
    """Share of each cell inside the oval of each face.

    Args:
        landmarks: (N, 478, 2) in crop pixels divided by `size`, the side of the crop; a face with
            any that is not finite has no oval.

    Returns:
        (N, 1, grid, grid), 255 = 1.
    """
    drawn = np.zeros((len(landmarks), 1, grid, grid), np.uint8)
    for place in np.flatnonzero(np.isfinite(landmarks).all(axis=(1, 2))).tolist():
        share = cv2.resize(
            oval_of(landmarks[place] * size, size), (grid, grid), interpolation=cv2.INTER_AREA
        )
        drawn[place, 0] = np.rint(255 * share)
    return drawn
