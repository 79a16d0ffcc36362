"""What attention looks at, as a picture, and the share of its energy in the regions, as a curve."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from faceguide.cache.schema import REGIONS
from faceguide.core.files import replacing
from faceguide.train.cal.attention_guidance import assigned_heads, at_cells, heads_of
from faceguide.train.cal.cal_step import CalStep
from faceguide.train.cal.guidance_losses import energy_share
from faceguide.train.data import augment
from faceguide.train.models.cal_network import CalParts
from faceguide.train.run.metrics_log import read_metrics
from faceguide.train.training import Batch, Place

TILE = 160  # pixels of a tile's side
HEADING = 20  # pixels above the first row
FACES = 6
_OUTLINE = (255, 255, 255)


def overlay(image: NDArray[np.uint8], attention: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(H, W, 3) RGB, darkened, and (h, w) attention as colours over it: a tile."""
    tile = cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_AREA)
    scaled = attention / max(float(attention.max()), 1e-12)
    large = cv2.resize(scaled.astype(np.float32), (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    colour = cv2.applyColorMap((large.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(tile, 0.4, colour[:, :, ::-1].astype(np.uint8), 0.6, 0).astype(np.uint8)


def outline(tile: NDArray[np.uint8], values: Tensor) -> None:
    """Draw on the tile, in place, the line around where (G, G) exceeds half of its maximum."""
    large = cv2.resize(values.float().cpu().numpy(), (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    if large.max() > 0:
        inside = (large >= large.max() / 2).astype(np.uint8)
        lines, _ = cv2.findContours(inside, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(tile, lines, -1, _OUTLINE, 1, cv2.LINE_AA)


def write(tile: NDArray[np.uint8], text: str, place: tuple[int, int] = (4, TILE - 5)) -> None:
    """Text on a tile, in place; by default at its lower left."""
    for colour, width in ((0, 0, 0), 3), ((255, 255, 255), 1):
        cv2.putText(tile, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, width, cv2.LINE_AA)


def region_attention(maps: Tensor, assignment: tuple[int, ...]) -> list[Tensor]:
    """(N, M, h, w) → per region the (N, h, w) mean of its heads' normalised maps."""
    shares = maps / maps.sum((2, 3), keepdim=True).clamp_min(1e-12)
    return [
        part.mean(1) if part.shape[1] else torch.zeros_like(maps[:, 0])
        for part in shares[:, : sum(assignment)].split(list(assignment), dim=1)
    ]


def draw_attention(path: Path, step: CalStep, batch: Batch, place: Place) -> None:
    """Write a PNG, one row per face: input with the heatmap's outline, mean attention, then the
    heads of eyes, nose and mouth, by number, with the outline of their region. An oval that guides
    is outlined on the mean.

    The number on a tile is the share of its attention's energy in all regions, on those of a
    region in that one. Faces whose landmarks may not guide have neither outline nor number.

    Args:
        step: with the model; it is in eval mode afterwards.
        batch: columns of the cache; the first faces are drawn as training saw them.
        place: of the batch, for its augmentation.
    """
    few = {name: values[:FACES] for name, values in batch.items()}
    recipe, trainee = step.settings, step.trainee
    pixels, targets = step.prepare(few, place)
    geometry = augment.draw_geometry(
        step.augmentation, few["image"].shape[1], recipe.seed, place.epoch, few["row"]
    )
    images = augment.warp_images(few["image"], geometry).cpu().numpy()
    trainee.eval()
    with torch.no_grad():
        parts = trainee.model(pixels, parts=True)
    assert isinstance(parts, CalParts)
    maps, assignment = parts.maps.float(), heads_of(recipe.guidance, trainee.heads)
    columns = torch.stack([maps.mean(1), *region_attention(maps, assignment)], 1)  # (N, 4, h, w)
    rows = []
    for face, image in enumerate(images):
        tiles = [cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_AREA)]
        tiles += [overlay(image, column) for column in columns[face].cpu().numpy()]
        if targets is not None and targets.known[face]:
            cells = at_cells(targets, step.side, step.side)
            masks = torch.cat([cells.mask, cells.regions], 1)  # (N, 4, h, w)
            shares = energy_share(columns, masks)[face].tolist()
            outline(tiles[0], targets.heatmap[face, 0])
            covered = [*targets.regions[face, 3:], *targets.regions[face, :3]]
            for tile, region in zip(tiles[-len(covered) :], covered, strict=True):
                outline(tile, region)
            for tile, share in zip(tiles[1:], shares, strict=True):
                write(tile, f"{share:.2f}")
        rows.append(np.concatenate(tiles, axis=1))
    names = ["image, heatmap", f"{trainee.heads} heads"]
    numbers = assigned_heads(recipe.guidance, trainee.heads)
    names += [f"{name}: {numbers[name]}" for name in REGIONS]
    write_grid(path, names, rows)


def write_grid(path: Path, names: list[str], rows: list[NDArray[np.uint8]]) -> None:
    """Write rows, (h, w, 3) RGB of one width each, as a PNG under the titles of equal columns."""
    width = rows[0].shape[1]
    strip = np.zeros((HEADING, width, 3), np.uint8)
    for number, name in enumerate(names):
        write(strip, name, (number * width // len(names) + 4, HEADING - 6))
    grid = np.concatenate([strip, *rows], axis=0)
    with replacing(path) as temporary:
        Image.fromarray(grid).save(temporary, "PNG")


def draw_energy(directory: Path) -> None:
    """Write energy.png: energy inside the regions by step, if the cache has regions."""
    from matplotlib.figure import Figure

    lines = read_metrics(directory, "train", "energy_inside")
    if not lines:
        return
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    for name in ("inside", *REGIONS):
        values = [line[f"energy_{name}"] for line in lines]
        width = 2.5 if name == "inside" else 1.5
        axes.plot([line["step"] for line in lines], values, label=name, linewidth=width)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("share of attention energy")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=4, frameon=False)
    with replacing(directory / "energy.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120)
