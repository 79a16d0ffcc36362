"""How well visibility is predicted: squared error, AUC and overlap, next to two baselines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.evaluate.metrics.roc import measure, rank
from faceguide.train.oaml.oaml_step import on_grid


def visibility_scores(predicted: Tensor, true: Tensor) -> dict[str, float]:
    """Over all cells of all faces.

    Args:
        predicted, true: (N, h, w), 0 to 1, 1 = visible.

    Returns:
        `mse`; `auc` of visible against occluded cells (true share at least one half), NaN
        where there is one kind only, or a prediction is not finite; `iou`, the overlap of the
        occluded cells at one half, 1 where no cell is occluded or predicted to be.
    """
    predicted, true = predicted.double(), true.double()
    found, hidden = predicted < 0.5, true < 0.5
    union = int((found | hidden).sum())
    visible = ~hidden.flatten().numpy()
    auc = float("nan")
    if visible.any() and not visible.all() and bool(predicted.isfinite().all()):
        auc = measure(rank(predicted.flatten().numpy(), visible)).auc
    return {
        "mse": float((predicted - true).square().mean()),
        "auc": auc,
        "iou": int((found & hidden).sum()) / union if union else 1.0,
    }


def evaluate_visibility(
    cache: FaceCache,
    held: NDArray[np.int64],
    mean: Tensor,
    predict: Callable[[dict[str, Tensor]], Tensor],
    *,
    columns: tuple[str, ...] = ("image",),
    batch_size: int,
    device: torch.device,
) -> dict[str, float]:
    """Scores on faces that were held out.

    Args:
        held: (N,) rows.
        mean: (h, w) mean visibility of the training faces, the better of the two baselines.
        predict: a batch of B faces → (B, h, w).
        columns: that it needs of them.

    Returns:
        `visibility_mse`, `visibility_auc`, `visibility_iou`; the same with `_mean_map` and
        `_all_visible` behind for the baselines (mse and iou).
    """
    stream = Stream(
        cache, held, columns=(*columns, "visibility"), batch_size=batch_size, shuffle=False,
        ragged="exact", device=device,
    )  # fmt: skip
    found, true = [], []
    for batch in stream:
        prediction = predict(batch).float().cpu()
        found.append(prediction)
        true.append(on_grid(batch["visibility"].cpu(), prediction.shape[1]))
    wanted = torch.cat(true)
    scores = {
        f"visibility_{name}": value
        for name, value in visibility_scores(torch.cat(found), wanted).items()
    }
    for name, constant in (("mean_map", mean), ("all_visible", torch.ones_like(mean))):
        baseline = visibility_scores(constant.expand_as(wanted), wanted)
        scores |= {f"visibility_{key}_{name}": baseline[key] for key in ("mse", "iou")}
    return scores


def mean_visibility(cache: FaceCache, rows: NDArray[np.int64], side: int) -> Tensor:
    """(side, side) mean over rows with known visibility."""
    total, count = torch.zeros(side, side, dtype=torch.float64), 0
    for start in range(0, len(rows), 4096):
        seen = cache.read(rows[start : start + 4096], ["visibility"])["visibility"]
        total += on_grid(torch.from_numpy(seen.astype(np.float32)), side).double().sum(0)
        count += len(seen)
    return (total / max(count, 1)).float()
