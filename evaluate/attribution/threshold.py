"""The `threshold` falsification protocol, as the users' earlier experiment ran it.

Kept so that its figures can be reproduced and its artefact seen: the regions are cut at fixed
heights of the scaled map, so their areas differ by orders of magnitude, and a map of a few bright
specks is falsified whatever it says. Compare with `matched`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.core.errors import AttributionError

FILLS = ("zero", "mean", "noise")


@dataclass(frozen=True)
class ThresholdRule:
    """The rule's settings.

    Attributes:
        high: pixels of the scaled map above this are the high region.
        low: pixels below this are the low region.
        draws: counterfactuals per region.
        sigma: standard deviation of the noise added to the whole image, pixels in 0 to 1.
        fill: of the region: "zero", "mean" (of the image) or "noise".
    """

    high: float = 0.7
    low: float = 0.3
    draws: int = 100
    sigma: float = 0.02
    fill: str = "zero"


@dataclass(frozen=True)
class ThresholdOutcome:
    """What the rule finds of one map.

    Attributes:
        rate: share of the K×K comparisons with high ≤ low; LOWER is better; None when untestable.
        falsified: mean high ≤ mean low; None when untestable.
        mean_high: mean angle of the high region, radians, or None.
        mean_low: mean angle of the low region, radians, or None.
        area_high: share of the pixels.
        area_low: share of the pixels.
    """

    rate: float | None
    falsified: bool | None
    mean_high: float | None
    mean_low: float | None
    area_high: float
    area_low: float


def regions(
    attribution: NDArray[np.floating], rule: ThresholdRule
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """High and low region, (H, W) bool, of the map scaled to 0…1 by its minimum and maximum.

    A constant or non-finite map has neither.
    """
    low, high = float(attribution.min()), float(attribution.max())
    if not np.isfinite([low, high]).all() or high <= low:
        return np.zeros(attribution.shape, bool), np.zeros(attribution.shape, bool)
    scaled = (attribution - low) / (high - low)
    return scaled > rule.high, scaled < rule.low


def angles(first: Tensor, second: Tensor) -> Tensor:
    """Angles in radians between unit vectors, (N, E) and (E,) or (N, E).

    2·asin(‖u − v‖ / 2) instead of arccos⟨u, v⟩, which loses all digits near 0.
    """
    half = torch.linalg.vector_norm(first.double() - second.double(), dim=-1) / 2
    return 2 * torch.asin(half.clamp_max(1.0))


def counterfactuals(
    image: Tensor, region: NDArray[np.bool_], rule: ThresholdRule, rng: np.random.Generator
) -> Tensor:
    """(K, 3, H, W) copies in 0…1 with the region filled and noise everywhere.

    Args:
        image: (3, H, W) in 0…1.
        region: (H, W) bool.
        rule: fill, sigma and K.
        rng: of the noise.
    """
    shape = (rule.draws, *image.shape)
    base = image.expand(shape).clone()
    mask = torch.from_numpy(region)
    if rule.fill == "zero":
        base[..., mask] = 0.0
    elif rule.fill == "mean":
        base[..., mask] = image.mean((1, 2))[None, :, None]
    elif rule.fill == "noise":
        noise = rng.random((rule.draws, image.shape[0], int(region.sum())), np.float32)
        base[..., mask] = torch.from_numpy(noise)
    else:
        raise AttributionError(f"fill must be one of {', '.join(FILLS)}, found {rule.fill!r}")
    jitter = rng.standard_normal(shape, np.float32) * np.float32(rule.sigma)
    return (base + torch.from_numpy(jitter)).clamp(0.0, 1.0)


@torch.no_grad()
def threshold_outcome(
    attribution: NDArray[np.floating],
    image: Tensor,
    embed: Callable[[Tensor], Tensor],
    rng: np.random.Generator,
    rule: ThresholdRule | None = None,
    batch: int = 50,
) -> ThresholdOutcome:
    """Apply the rule to one map.

    Args:
        attribution: (H, W), as the method gives it; the earlier experiment used magnitudes.
        image: (3, H, W) in 0…1.
        embed: (N, 3, H, W) in 0…1 → (N, E) of length 1.
        rng: of the noise.
        rule: its settings.
        batch: images of one forward pass.

    Returns:
        The outcome. A map without a high or a low region is untestable and says so; it is not
        dropped.
    """
    rule = rule or ThresholdRule()
    high, low = regions(attribution, rule)
    areas = float(high.mean()), float(low.mean())
    if not high.any() or not low.any():
        return ThresholdOutcome(None, None, None, None, *areas)
    clean = embed(image[None])[0]
    found = []
    for region in (high, low):
        images = counterfactuals(image, region, rule, rng)
        parts = [angles(embed(part), clean) for part in images.split(batch)]
        found.append(torch.cat(parts).numpy())
    on_high, on_low = found
    # high ≤ low counts against the map, ties included.
    against = np.searchsorted(np.sort(on_high), on_low, side="right").sum()
    mean_high, mean_low = float(on_high.mean()), float(on_low.mean())
    rate = float(against / (len(on_high) * len(on_low)))
    return ThresholdOutcome(rate, mean_high <= mean_low, mean_high, mean_low, *areas)
