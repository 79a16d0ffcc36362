"""Maps from scores only: the network may be an ONNX graph, or anything else without gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import GRID, cell_masks, pair_rng
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, baseline_for, expanded
from faceguide.evaluate.attribution.methods.target import PairScore, Reference

MASKS = 300  # of CorrRISE, as published


def occlusion(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """What the score loses when one of the 49 cells is covered with the baseline.

    (N, 7, 7), s(x) − s(x without the cell).
    """
    return _lost(score, batch, settings, baseline_for(score, batch, settings.baseline))


def occlusion_by_blur(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """As `occlusion`, with the blurred face in the cell."""
    return _lost(score, batch, settings, baseline_for(score, batch, "blur"))


def occlusion_by_faces(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """As `occlusion`, with the cell of another identity's face, so that it stays a face."""
    return _lost(score, batch, settings, batch.other_faces(1)[:, 0])


def _lost(score: PairScore, batch: Batch, settings: Settings, empty: Tensor) -> Maps:
    covers = cell_masks(batch.probe.shape[-1]).to(batch.probe)
    found = [
        clean[:, None] - _covered(score, probe, blank, covers, reference, settings.chunk)
        for _, probe, blank, reference, clean in _each(score, batch, empty)
    ]
    return Maps(torch.cat(found).unflatten(1, (GRID, GRID)))


def minplus(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """What the full face loses without a cell and an empty one gains by it, averaged, (N, 7, 7).

    MinPlus of Mery and Morris (2022) on cells; empty is the baseline.
    """
    covers = cell_masks(batch.probe.shape[-1]).to(batch.probe)
    # All but one cell covered, and after these everything.
    rest = torch.cat([1 - covers, torch.ones_like(covers[:1])])
    found = []
    empty = baseline_for(score, batch, settings.baseline)
    for _, probe, blank, reference, clean in _each(score, batch, empty):
        without = _covered(score, probe, blank, covers, reference, settings.chunk)
        only = _covered(score, probe, blank, rest, reference, settings.chunk)
        found.append((clean[:, None] - without + only[:, :-1] - only[:, -1:]) / 2)
    return Maps(torch.cat(found).unflatten(1, (GRID, GRID)))


def corrrise(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Correlation of each pixel's being seen with the score, over random soft masks.

    (N, S, S), −1 to 1. Masks are those of RISE: 7×7 cells kept with probability 0.5, enlarged
    bilinearly and shifted by less than a cell; what they hide shows the baseline.
    """
    side = batch.probe.shape[-1]
    maps = []
    empty = baseline_for(score, batch, settings.baseline)
    for key, probe, blank, reference, _ in _each(score, batch, empty):
        seen = _soft_masks(pair_rng(key, settings.seed, "corrrise"), side).to(probe)
        scores = _covered(score, probe, blank, 1 - seen, reference, settings.chunk)
        maps.append(_correlation(scores, seen))
    return Maps(torch.cat(maps))


def fv_rise(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """What masks hide that lower the score, less what masks hide that raise it, (N, S, S).

    The two heat maps of FV-RISE (Bousnina et al., 2023), S-HM − D-HM: the mean, over the masks
    that lower (raise) the score, of what each hides times the change. Masks are the authors', of
    5×5 cells kept with probability 0.54; their code weighs what a mask shows, hence low is
    important there, takes 10,000 masks, and hides by black.
    """
    side, maps = batch.probe.shape[-1], []
    empty = baseline_for(score, batch, settings.baseline)
    for key, probe, blank, reference, clean in _each(score, batch, empty):
        seen = _soft_masks(pair_rng(key, settings.seed, "fv-rise"), side, 5, 0.54).to(probe)
        lost = clean[:, None] - _covered(score, probe, blank, 1 - seen, reference, settings.chunk)
        maps.append(_mean_hidden(lost, seen) - _mean_hidden(-lost, seen))
    return Maps(torch.cat(maps))


def _mean_hidden(change: Tensor, seen: Tensor) -> Tensor:
    """(P, S, S) the mean of (1 − seen) · change over the masks whose change (P, M) is above 0."""
    total = torch.einsum("pm,mhw->phw", change.clamp_min(0), 1 - seen)
    return total / (change > 0).sum(1).clamp_min(1)[:, None, None]


def region_shap(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Shapley values of the landmark regions and of the rest, spread over their pixels.

    (N, S, S); Σ map = s(x) − s(baseline). Exact: all 2^R coalitions are scored, in which the other
    regions show the baseline (Lundberg and Lee, 2017).
    """
    marked = batch.probe_regions()
    players = torch.cat([marked, 1 - marked.sum(1, keepdim=True).clamp_max(1)], 1)
    count = players.shape[1]
    present = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * count)  # (2^R, R)
    maps, claimed, start = [], [], 0
    empty = baseline_for(score, batch, settings.baseline)
    for _, probe, blank, reference, _ in _each(score, batch, empty):
        areas = players[start]  # (R, S, S)
        start += len(reference[0])
        seen = torch.einsum("mr,rhw->mhw", present.to(areas), areas)
        scores = _covered(score, probe, blank, 1 - seen, reference, settings.chunk)
        values = shapley(scores.double())
        shares = values.to(areas) / areas.sum((1, 2)).clamp_min(1)
        maps.append(torch.einsum("pr,rhw->phw", shares, areas))
        claimed.append(scores[:, -1] - scores[:, 0])
    return Maps(torch.cat(maps), torch.cat(claimed))


def shapley(scores: Tensor) -> Tensor:
    """(P, R) Shapley values of R players.

    Args:
        scores: (P, 2^R) of the coalitions, in the order of binary numbers, the first player's
            digit first.
    """
    count = scores.shape[1].bit_length() - 1
    members = torch.cartesian_prod(*[torch.tensor([0, 1])] * count).sum(1)  # (2^R,)
    found = []
    for player in range(count):
        # (P, 2^R) -> (P, before, 2, after): without and with the player
        split = scores.unflatten(1, (2**player, 2, -1))
        others = members.unflatten(0, (2**player, 2, -1))[:, 0]
        weight = torch.tensor(
            [1 / (count * math.comb(count - 1, size)) for size in range(count)]
        ).to(scores)[others.to(scores.device)]
        found.append(((split[:, :, 1] - split[:, :, 0]) * weight).sum((1, 2)))
    return torch.stack(found, 1)


@torch.no_grad()
def corrrise_both(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """CorrRISE as published: both faces are masked, each by masks of its own, (N, S, S)."""
    side, quick, maps = batch.probe.shape[-1], score.quick, []
    pictures = batch.probe, batch.other_pixels()
    empty = [baseline_for(score, replace(batch, probe=one), settings.baseline) for one in pictures]
    for place, (key, pair) in enumerate(zip(batch.keys, batch.pairs, strict=True)):
        seen = [
            _soft_masks(pair_rng(number, settings.seed, what), side).to(batch.probe)
            for number, what in ((key, "corrrise"), (pair, "corrrise reference"))
        ]
        scores = []
        for some in zip(*(masks.split(settings.chunk) for masks in seen), strict=True):
            described = [
                quick.describe(
                    torch.lerp(blank[place], one[place], shown[:, None]),
                    *score.beside(expanded(batch.reference, place, len(shown))),
                )
                for one, blank, shown in zip(pictures, empty, some, strict=True)
            ]
            scores.append(quick.compare(*described))
        maps.append(_correlation(torch.cat(scores)[None], seen[0]))
    return Maps(torch.cat(maps))


def _correlation(scores: Tensor, seen: Tensor) -> Tensor:
    """(P, S, S) Pearson's correlation of scores (P, M) with what is seen (M, S, S)."""
    moved, shown = scores - scores.mean(1, keepdim=True), seen - seen.mean(0)
    both = torch.einsum("pm,mhw->phw", moved, shown)
    spread = moved.square().sum(1).sqrt()[:, None, None] * shown.square().sum(0).sqrt()
    return both / spread.clamp_min(1e-12)


def _each(
    score: PairScore, batch: Batch, empty: Tensor
) -> Iterator[tuple[int, Tensor, Tensor, Reference, Tensor]]:
    """Key, probe (3, S, S), its empty picture, references (P rows) and scores (P,) of a picture.

    Pairs of one picture that follow each other share its masked copies.
    """
    with torch.no_grad():
        clean = score.quick(batch.probe, *batch.reference)
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
        described = score.describe(shown, *score.beside(expanded(reference, 0, len(some))))
        values = [
            score.compare(described, expanded(reference, row, len(some)))
            for row in range(len(reference[0]))
        ]
        scores.append(torch.stack(values))
    return torch.cat(scores, 1)


def _soft_masks(
    rng: np.random.Generator, side: int, cells: int = GRID, share: float = 0.5
) -> Tensor:
    """(M, S, S) from 0 to 1, of cells that are kept with probability `share`."""
    kept = (rng.random((MASKS, 1, cells + 1, cells + 1)) < share).astype(np.float32)
    cell = -(-side // cells)
    large = nn.functional.interpolate(
        torch.from_numpy(kept), size=((cells + 1) * cell,) * 2, mode="bilinear"
    )[:, 0]
    down, across = rng.integers(0, cell, (2, MASKS))
    return torch.stack(
        [
            mask[y : y + side, x : x + side]
            for mask, y, x in zip(large, down.tolist(), across.tolist(), strict=True)
        ]
    )
