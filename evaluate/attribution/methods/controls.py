"""Maps whose outcome is known beforehand: every run carries them.

A protocol that does not give random maps 50 %, constant maps 100 % uniform and the oracle almost 0
says nothing about the methods next to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import GRID, pair_rng, pool
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, blurred
from faceguide.evaluate.attribution.methods.target import PairScore


def random_smooth(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Blurred noise, keyed by the pair: falsified half of the time."""
    side = batch.probe.shape[-1]
    sigma = side / 14
    # Blurred on a larger field: at a border, noise that repeats itself would be stronger.
    rim = round(3 * sigma)
    field = (side + 2 * rim, side + 2 * rim)
    noise = np.stack(
        [
            pair_rng(pair, settings.seed, "random").standard_normal(field, np.float32)
            for pair in batch.pairs
        ]
    )
    soft = blurred(torch.from_numpy(noise)[:, None], sigma)[:, 0]
    inside = soft[:, rim : rim + side, rim : rim + side]
    # Lifted above 0, not made absolute: peaks and valleys are then alike, and high and low cells
    # could change places.
    return Maps(inside - inside.amin((1, 2), keepdim=True))


def centre(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """A Gaussian at the middle of the crop, whatever the picture."""
    side = batch.probe.shape[-1]
    along = (torch.arange(side) + 0.5) / side - 0.5
    one = torch.exp(-(along[:, None] ** 2 + along[None] ** 2) / (2 * 0.2**2))
    return Maps(one.expand(len(batch.probe), -1, -1).clone())


def edges(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Strength of the edges (Sobel): a map of the picture that knows no network."""
    grey = batch.probe.mean(1, keepdim=True)
    kernel = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]]).to(grey)
    padded = torch.nn.functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    across = torch.nn.functional.conv2d(padded, kernel[None, None])
    down = torch.nn.functional.conv2d(padded, kernel.T[None, None])
    return Maps((across.square() + down.square()).sqrt()[:, 0])


def patch_likeness(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Correlation of the two pictures in each cell, grey and blurred: knows both, no network.

    (N, 7, 7), −1 to 1; 0 where a cell of either is of one colour.

    Raises:
        AttributionError: when the pixels of the references are not given.
    """
    sigma = 3 / 112 * batch.probe.shape[-1]
    first, second = (
        blurred(images.double().mean(1, keepdim=True), sigma)[:, 0]
        for images in (batch.probe, batch.other_pixels())
    )
    mean = pool(first), pool(second)
    product = pool(first * second) - mean[0] * mean[1]
    spread = [pool(one.square()) - m.square() for one, m in zip((first, second), mean, strict=True)]
    both = (spread[0].clamp_min(0) * spread[1].clamp_min(0)).sqrt()
    found = torch.where(both > 1e-12, product / both.clamp_min(1e-12), torch.zeros_like(both))
    return Maps(found.unflatten(1, (GRID, GRID)).float())


def constant(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """One everywhere: must be called uniform, every time."""
    return Maps(torch.ones(len(batch.probe), GRID, GRID))


def read_off(name: str, table: Mapping[str, NDArray[Any]]) -> Maps:
    """`angle`, `oracle` or `oracle_reversed` of N pairs from their response table, (N, 7, 7).

    `oracle` is the measured effect of each cell, the mean over infills. The table that it is read
    off also judges it, so it wins by construction: a floor, not a competitor.
    """
    if name == "angle":
        cells = table["angle"].mean(2)
    else:
        cells = np.abs(table["masked"] - table["clean"][:, None, None]).astype(float).mean(2)
        if name == "oracle_reversed":
            cells = cells.max(1, keepdims=True) - cells
    return Maps(torch.from_numpy(np.ascontiguousarray(cells)).unflatten(1, (GRID, GRID)))
