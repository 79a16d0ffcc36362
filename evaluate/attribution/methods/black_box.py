"""Maps from scores only: the network may be an ONNX graph, or anything else without gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

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
        clean[:, None] - _covered(score, probe, empty, covers, reference, settings.chunk)
        for _, probe, empty, reference, clean in _each(score, batch, settings)
    ]
    return Maps(torch.cat(found).unflatten(1, (GRID, GRID)))


def corrrise(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Correlation of each pixel's being seen with the score, over random soft masks.

    (N, S, S), −1 to 1. Masks are those of RISE: 7×7 cells kept with probability 0.5, enlarged
    bilinearly and shifted by less than a cell; what they hide shows the baseline.
    """
    side = batch.probe.shape[-1]
    maps = []
    for key, probe, empty, reference, _ in _each(score, batch, settings):
        rng = pair_rng(key, settings.seed, "corrrise")
        seen = _soft_masks(rng, side).to(probe)
        scores = _covered(score, probe, empty, 1 - seen, reference, settings.chunk)
        moved, shown = scores - scores.mean(1, keepdim=True), seen - seen.mean(0)
        both = torch.einsum("pm,mhw->phw", moved, shown)
        spread = moved.square().sum(1).sqrt()[:, None, None] * shown.square().sum(0).sqrt()
        maps.append(both / spread.clamp_min(1e-12))
    return Maps(torch.cat(maps))


def _each(
    score: PairScore, batch: Batch, settings: Settings
) -> Iterator[tuple[int, Tensor, Tensor, Reference, Tensor]]:
    """Key, probe (3, S, S), baseline (3, S, S), references (P rows) and scores (P,) of a picture.

    Pairs of one picture that follow each other share its masked copies.
    """
    with torch.no_grad():
        clean = score.quick(batch.probe, *batch.reference)
    empty = baseline_for(score, batch.probe, settings.baseline)
    start = 0
    for key, group in itertools.groupby(batch.keys):
        rows = slice(start, start + len(list(group)))
        reference = tuple(part[rows] for part in batch.reference)
        yield key, batch.probe[start], empty[start], reference, clean[rows]
        start = rows.stop


@torch.no_grad()
def _covered(
    score: PairScore, probe: Tensor, empty: Tensor, covers: Tensor, reference: Reference, chunk: int
) -> Tensor:
    """(P, M) scores of the probe under covers (M, S, S), 1 = the baseline shows."""
    scores, score = [], score.quick
    for some in covers.split(chunk):
        shown = torch.lerp(probe[None], empty[None], some[:, None])
        beside = (one[:1].expand(len(some), *one.shape[1:]) for one in score.beside(reference))
        described = score.describe(shown, *beside)
        scores.append(
            torch.stack(
                [
                    score.compare(
                        described, tuple(one.expand(len(some), *one.shape[1:]) for one in row)
                    )
                    for row in zip(*(part.split(1) for part in reference), strict=True)
                ]
            )
        )
    return torch.cat(scores, 1)


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
