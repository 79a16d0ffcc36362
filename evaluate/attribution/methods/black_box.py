"""Maps from scores only: the network may be an ONNX graph, or anything else without gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import CELLS, GRID, cell_index, pair_rng
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, baseline_for
from faceguide.evaluate.attribution.methods.target import PairScore, Reference

MASKS = 300  # of CorrRISE, as published


def occlusion(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """What the score loses when one of the 49 cells is covered with the baseline.

    (N, 7, 7), s(x) − s(x without the cell).
    """
    side = batch.probe.shape[-1]
    cells = torch.from_numpy(cell_index(side)).to(batch.probe.device)
    covers = (cells[None] == torch.arange(CELLS, device=cells.device)[:, None, None]).float()
    found = [
        clean - _covered(score, probe, empty, covers, reference, settings.chunk)
        for probe, empty, reference, clean in _each(score, batch, settings)
    ]
    return Maps(torch.stack(found).unflatten(1, (GRID, GRID)))


def corrrise(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Correlation of each pixel's being seen with the score, over random soft masks.

    (N, S, S), −1 to 1. Masks are those of RISE: 7×7 cells kept with probability 0.5, enlarged
    bilinearly and shifted by less than a cell; what they hide shows the baseline.
    """
    side = batch.probe.shape[-1]
    maps = []
    each = zip(batch.pairs, _each(score, batch, settings), strict=True)
    for pair, (probe, empty, reference, _) in each:
        rng = pair_rng(pair, settings.seed, "corrrise")
        seen = _soft_masks(rng, side).to(probe)
        scores = _covered(score, probe, empty, 1 - seen, reference, settings.chunk)
        moved, shown = scores - scores.mean(), seen - seen.mean(0)
        both = torch.einsum("m,mhw->hw", moved, shown)
        spread = moved.square().sum().sqrt() * shown.square().sum(0).sqrt()
        maps.append(both / spread.clamp_min(1e-12))
    return Maps(torch.stack(maps))


def _each(
    score: PairScore, batch: Batch, settings: Settings
) -> list[tuple[Tensor, Tensor, Reference, Tensor]]:
    """Probe (3, S, S), baseline (3, S, S), reference of one row and score () of each pair."""
    with torch.no_grad():
        clean = score.quick(batch.probe, *batch.reference)
    empty = baseline_for(score, batch.probe, settings.baseline)
    rows = [tuple(part[n : n + 1] for part in batch.reference) for n in range(len(clean))]
    return list(zip(batch.probe, empty, rows, clean, strict=True))


@torch.no_grad()
def _covered(
    score: PairScore, probe: Tensor, empty: Tensor, covers: Tensor, reference: Reference, chunk: int
) -> Tensor:
    """(M,) scores of the probe under covers (M, S, S), 1 = the baseline shows."""
    scores = []
    for some in covers.split(chunk):
        shown = torch.lerp(probe[None], empty[None], some[:, None])
        repeated = (part.expand(len(some), *part.shape[1:]) for part in reference)
        scores.append(score.quick(shown, *repeated))
    return torch.cat(scores)


def _soft_masks(rng: np.random.Generator, side: int) -> Tensor:
    """(M, S, S) from 0 to 1."""
    kept = torch.from_numpy((rng.random((MASKS, 1, GRID + 1, GRID + 1)) < 0.5).astype(np.float32))
    cell = -(-side // GRID)
    large = nn.functional.interpolate(kept, size=((GRID + 1) * cell,) * 2, mode="bilinear")[:, 0]
    down, across = rng.integers(0, cell, (2, MASKS))
    return torch.stack(
        [
            mask[y : y + side, x : x + side]
            for mask, y, x in zip(large, down.tolist(), across.tolist(), strict=True)
        ]
    )
