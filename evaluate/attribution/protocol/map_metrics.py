"""Further measures of a map, some of which rerun the network.

`summary.DIRECTIONS` says which way is better. Deletion and insertion work on cells in the order
that the map gives them; curves are scaled by s(x) − s(empty), and a pair whose score hardly moves
between the two has no curve (NaN) instead of a clipped one.

Deletion, insertion: Petsiuk et al., 2018. SRG: Blücher et al., 2024. Max-sensitivity, infidelity:
Yeh et al., 2019; not captum's, whose noise belongs to a batch and not to a pair. Parameter
randomisation (Adebayo et al., 2018): |Spearman| of a map's cells with those of the randomised
network. Swap: 1 − Spearman to the map against another identity, 0 = blind to the pair.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import CELLS, cell_masks, pair_rng
from faceguide.evaluate.attribution.methods.maps import Batch, Explain, expanded, pixel_range
from faceguide.evaluate.attribution.methods.target import PairScore

METRICS = (*("deletion", "insertion", "srg", "sensitivity", "infidelity", "randomisation", "swap"),)
STEPS = 7  # of 7 cells each
LEAST_SPAN = 0.02
DRAWS = 4
RADIUS = 0.02  # of max-sensitivity, as a share of the pixel range


@torch.inference_mode()
def removal_curves(
    score: PairScore, batch: Batch, cells: NDArray[np.floating], empty: Tensor, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Scores while cells are removed and inserted, (N, STEPS + 1) each.

    Args:
        cells: (N, 49) attributions.
        empty: (N, 3, S, S) the picture without evidence (a strong blur).

    Returns:
        `most` (most important first removed), `least` (least first), `insert` (most first put
        onto the empty picture).
    """
    masks = cell_masks(batch.probe.shape[-1]).to(batch.probe.device)
    curves: dict[str, list[NDArray[np.float64]]] = {"most": [], "least": [], "insert": []}
    for place, pair in enumerate(batch.pairs):
        order = np.lexsort((pair_rng(pair, seed, "ties").random(CELLS), cells[place]))[::-1]
        probe, blank = batch.probe[place], empty[place]
        images = []
        for kind in ("most", "least", "insert"):
            ranked = order[::-1] if kind == "least" else order
            for step in range(STEPS + 1):
                taken = masks[torch.from_numpy(ranked[: step * CELLS // STEPS].copy())].any(0)
                inside, outside = (probe, blank) if kind == "insert" else (blank, probe)
                images.append(torch.where(taken, inside, outside))
        stacked = torch.stack(images)
        reference = expanded(batch.reference, place, len(stacked))
        values = score.quick(stacked, *reference).double().cpu().numpy().reshape(3, STEPS + 1)
        for kind, row in zip(curves, values, strict=True):
            curves[kind].append(row)
    return {kind: np.stack(rows) for kind, rows in curves.items()}


def curve_areas(curves: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """(N,) `deletion`, `insertion` and `srg` = area(least first) − area(most first).

    NaN where |s(x) − s(empty)| < 0.02: scaling such a curve would show rounding.
    """
    start, end = curves["most"][:, :1], curves["most"][:, -1:]
    span = np.where(np.abs(start - end) < LEAST_SPAN, np.nan, start - end)
    areas = {}
    for kind, rows in curves.items():
        scaled = (rows - end) / span
        areas[kind] = ((scaled[:, 1:] + scaled[:, :-1]) / 2).mean(1)  # trapezoids
    return {
        "deletion": areas["most"],
        "insertion": areas["insert"],
        "srg": areas["least"] - areas["most"],
    }


def _uniform(batch: Batch, settings: Settings, draw: int, radius: float) -> Tensor:
    shape = batch.probe.shape[1:]
    noise = [
        pair_rng(pair, settings.seed, f"sensitivity {draw}").uniform(-radius, radius, shape)
        for pair in batch.pairs
    ]
    return torch.from_numpy(np.stack(noise).astype(np.float32)).to(batch.probe)


def max_sensitivity(
    score: PairScore, batch: Batch, explain: Explain, settings: Settings, maps: Tensor
) -> NDArray[np.float64]:
    """(N,) max over draws of ‖a(x + δ) − a(x)‖ / ‖a(x)‖, |δ| ≤ 2 % of the pixel range."""
    radius = RADIUS * pixel_range(score.input_spec)
    length = maps.flatten(1).norm(dim=1)
    worst = torch.zeros_like(length)
    for draw in range(DRAWS):
        moved = replace(batch, probe=batch.probe + _uniform(batch, settings, draw, radius))
        change = (explain(score, moved, settings).values - maps).flatten(1).norm(dim=1)
        worst = torch.maximum(worst, change / length)
    return worst.double().cpu().numpy()


def infidelity(cells: NDArray[np.floating], change: NDArray[np.floating]) -> NDArray[np.float64]:
    """(N,) E[(β·a_u − (s(x) − s(x without u)))²] over cells and infills, over E[(…)²] of the score.

    β is the best scale of each map, so that a map is not judged by its unit; 0 is perfect, 1 is
    as good as a map of zeros. Needs the signed sum of the map over each cell.

    Args:
        cells: (N, 49) signed sums.
        change: (N, 49, R) s(x) − s(x without the cell).
    """
    effect = change.astype(np.float64)
    claim = np.broadcast_to(cells.astype(np.float64)[:, :, None], effect.shape)
    own = (claim * claim).sum((1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(own > 0, (claim * effect).sum((1, 2)) / own, 0.0)
        left = ((scale[:, None, None] * claim - effect) ** 2).sum((1, 2))
        ratio: NDArray[np.float64] = left / (effect**2).sum((1, 2))
    return ratio


def rank_correlation(
    first: NDArray[np.floating], second: NDArray[np.floating]
) -> NDArray[np.float64]:
    """(N,) Spearman correlation of the cells of two maps; NaN where one is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(cells, axis=1) for cells in (first, second))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: NDArray[np.float64] = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return found


@torch.no_grad()
def randomised(score: PairScore, seed: int) -> PairScore:
    """The score of the same network with all convolutions and linear layers randomised.

    Each keeps the mean and the deviation of its weights, so that activations stay in range.
    """
    # Without the network, whose quick passes have the weights that were learnt.
    other = copy.deepcopy(PairScore(score.backbone, score.matcher, score.map_side, score.head))
    generator = torch.Generator().manual_seed(seed)
    for module in other.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = module.weight
            spread, mean = float(weight.std()), float(weight.mean())
            weight.copy_(torch.randn(weight.shape, generator=generator) * spread + mean)
    return other
