"""The `threshold` falsification protocol, as the users' earlier experiment ran it.

Kept so that its figures can be reproduced and its artefact seen: the regions are cut at fixed
heights of the scaled map, so their areas differ by orders of magnitude, and a map of a few bright
specks is falsified whatever it says. Compare with `matched`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

HIGH, LOW = 0.7, 0.3  # heights of the scaled map above and below which a region is cut
DRAWS = 100  # counterfactuals per region
SIGMA = 0.02  # of the noise that is added to the whole image, pixels in 0 to 1


class ThresholdOutcome(NamedTuple):
    """What the rule finds of one map; the first four are NaN for a map without both regions.

    Attributes:
        rate: share of the K×K comparisons with high ≤ low; LOWER is better.
        falsified: mean high ≤ mean low, 0 or 1.
        mean_high: mean angle of the high region, radians.
        mean_low: mean angle of the low region, radians.
        area_high: share of the pixels.
        area_low: share of the pixels.
    """

    rate: float
    falsified: float
    mean_high: float
    mean_low: float
    area_high: float
    area_low: float


def regions(attribution: NDArray[np.floating]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """High and low region, (H, W) bool, of the map scaled to 0…1 by its minimum and maximum.

    A constant or non-finite map has neither.
    """
    low, high = float(attribution.min()), float(attribution.max())
    if not np.isfinite([low, high]).all() or high <= low:
        return np.zeros(attribution.shape, bool), np.zeros(attribution.shape, bool)
    scaled = (attribution - low) / (high - low)
    return scaled > HIGH, scaled < LOW


def angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles in radians between unit vectors, (N, E) and (E,) or (N, E).

    2·asin(‖u − v‖ / 2) instead of arccos⟨u, v⟩, which loses all digits near 0.
    """
    half = torch.linalg.vector_norm(first.double() - second.double(), dim=-1) / 2
    return 2 * torch.asin(half.clamp_max(1.0))


def counterfactuals(
    image: Tensor, region: NDArray[np.bool_], rng: np.random.Generator, draws: int, sigma: float
) -> Tensor:
    """(draws, 3, H, W) copies of an image (3, H, W) in 0…1: the region black, noise everywhere."""
    base = torch.where(torch.from_numpy(region), 0.0, image)
    noise = rng.standard_normal((draws, *image.shape), np.float32) * np.float32(sigma)
    return (base + torch.from_numpy(noise)).clamp(0.0, 1.0)


@torch.no_grad()
def threshold_outcome(
    attribution: NDArray[np.floating],
    image: Tensor,
    embed: Callable[[Tensor], Tensor],
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
    sigma: float = SIGMA,
    batch: int = 50,
) -> ThresholdOutcome:
    """Apply the rule to one map.

    Args:
        attribution: (H, W); the earlier experiment used magnitudes.
        image: (3, H, W) in 0…1.
        embed: (N, 3, H, W) in 0…1 → (N, E) of length 1.
    """
    high, low = regions(attribution)
    areas = float(high.mean()), float(low.mean())
    if not high.any() or not low.any():
        return ThresholdOutcome(np.nan, np.nan, np.nan, np.nan, *areas)
    clean = embed(image[None])[0]
    found = []
    for region in (high, low):
        images = counterfactuals(image, region, rng, draws, sigma)
        parts = [angles(embed(part), clean) for part in images.split(batch)]
        found.append(torch.cat(parts).numpy())
    on_high, on_low = found
    rate = float((on_high[:, None] <= on_low).mean())  # ties count against the map
    means = float(on_high.mean()), float(on_low.mean())
    return ThresholdOutcome(rate, float(means[0] <= means[1]), *means, *areas)
