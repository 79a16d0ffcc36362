"""What the occlusion head sees: pictures while training, and its curves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.core.files import replacing
from faceguide.train.cal.attention_pictures import write_grid
from faceguide.train.oaml.oaml_step import OamlTrainee, on_grid, views
from faceguide.train.run.metrics_log import read_metrics
from faceguide.train.training import Batch

TILE = 112  # pixels of a tile's side
FACES = 8
_UNKNOWN = (90, 90, 90)


def _tile(cells: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(h, w) 0 to 1 → grey squares, white = 1."""
    grey = cv2.resize(
        (cells.clip(0, 1) * 255).astype(np.uint8), (TILE, TILE), interpolation=cv2.INTER_NEAREST
    )
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def _overlay(image: NDArray[np.uint8], cells: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The image, with red where a cell is predicted to be occluded."""
    hidden = 1.0 - cv2.resize(cells, (TILE, TILE), interpolation=cv2.INTER_LINEAR).clip(0, 1)
    red = np.zeros_like(image)
    red[..., 0] = 255
    share = 0.6 * hidden[..., None]
    return np.rint(image * (1 - share) + red * share).astype(np.uint8)


def draw_visibility(path: Path, trainee: OamlTrainee, batch: Batch) -> None:
    """Write a PNG, one row per face under titles: input, true map, predicted map, overlay, error.

    White is visible in the maps and wrong in the error; a face without a known mask has grey
    tiles instead. Of a batch from two caches, the covered faces are drawn.

    Args:
        trainee: the networks; they are in eval mode afterwards.
        batch: columns of the cache, as training saw them.
    """
    seen = views(batch)
    first = seen.count if len(seen.images) > seen.count else 0
    few = slice(first, first + FACES)
    trainee.eval()
    images = seen.images[few]
    with torch.no_grad():
        pixels = trainee.backbone.input_spec.prepare(images)
        told = {name: values[few] for name, values in seen.beside.items()}
        maps = trainee.backbone.feature_map(pixels, trainee.settings.map_size, **told)
        predicted = trainee.occlusion_head(maps)[:, 0].float()
    true = on_grid(seen.visibility[few], predicted.shape[1]).cpu().numpy()
    rows = []
    for face, known in enumerate(seen.known[few].tolist()):
        picture = cv2.resize(
            images[face].cpu().numpy(), (TILE, TILE), interpolation=cv2.INTER_AREA
        ).astype(np.uint8)
        guess = predicted[face].cpu().numpy()
        unknown = np.full((TILE, TILE, 3), _UNKNOWN, np.uint8)
        tiles = [
            picture,
            _tile(true[face]) if known else unknown,
            _tile(guess),
            _overlay(picture, guess),
            _tile(np.abs(guess - true[face])) if known else unknown,
        ]
        rows.append(np.concatenate(tiles, axis=1))
    write_grid(path, ["image", "visible", "predicted", "occluded in red", "error"], rows)


def draw_curves(directory: Path) -> None:
    """Write visibility.png: MSE, AUC and IoU of held-out faces by step, if there are any."""
    from matplotlib.figure import Figure

    lines = read_metrics(directory, "evaluation", "visibility_mse")
    if not lines:
        return
    figure = Figure(figsize=(9.6, 3.2), layout="constrained")
    steps = [line["step"] for line in lines]
    for place, name in enumerate(("mse", "auc", "iou"), 1):
        axes = figure.add_subplot(1, 3, place)
        axes.plot(steps, [line[f"visibility_{name}"] for line in lines], marker=".")
        baseline = lines[-1].get(f"visibility_{name}_mean_map")
        if baseline is not None:
            axes.axhline(baseline, linestyle=":", color="grey", label="mean map")
            axes.legend()
        axes.set_xlabel("optimiser step")
        axes.set_title({"mse": "MSE", "auc": "AUC", "iou": "IoU@0.5"}[name])
    with replacing(directory / "visibility.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120)
