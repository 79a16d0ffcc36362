"""Geodesic IG: two methods that share a name, and neither is the third one that has it.

* `arc`: Integrated Gradients whose nodes are spaced by the arc that the embedding travels on its
  sphere, not by pixels. IG does not depend on how its path is parametrised, so in the limit this
  *equals* IG; it is adaptive quadrature, and completeness holds.
* `weighted`: the users' earlier method: the straight pixel path, each gradient weighted by how
  close the embedding is to the geodesic between the embeddings of the two ends. It is not an
  integral of anything and has no completeness.

Salek and Enguehard (2025, arXiv 2502.12108) integrate along geodesics of the pulled-back metric;
that is a different map and not here. captum has none of the three.
"""

from __future__ import annotations

import torch
from torch import Tensor

from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.gradients import chunked_gradient
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, along, baseline_for, repeat
from faceguide.evaluate.attribution.methods.target import PairScore, Reference, unit_embedding
from faceguide.evaluate.attribution.threshold import angles

COARSE = 32  # nodes of the pass that measures the arc
SHARPNESS, NEAR = 10.0, 0.8  # of the weights: sigmoid(10 · (cos − 0.8))
_WEIGHTED_STEPS = 50


_WHY = "Geodesic IG follows the embedding on its sphere"


@torch.no_grad()
def _embeddings(score: PairScore, images: Tensor, beside: Reference, chunk: int) -> Tensor:
    split = zip(*(one.split(chunk) for one in (images, *beside)), strict=True)
    return torch.cat([unit_embedding(score.quick.backbone, *parts) for parts in split])


def arc_nodes(
    score: PairScore, baseline: Tensor, probe: Tensor, settings: Settings, *beside: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the embedding has travelled equal arcs.

    Returns:
        (N, steps + 1) places from 0 to 1, and the embeddings (N, E) at 0 and at 1.
    """
    count = len(probe)
    coarse = torch.linspace(0, 1, COARSE, device=probe.device).expand(count, -1)
    images = along(baseline, probe, coarse)
    points = _embeddings(score, images, repeat(beside, COARSE), settings.chunk)
    points = points.unflatten(0, (count, COARSE))  # (N, K, E)
    arcs = angles(points[:, 1:], points[:, :-1])  # (N, K − 1)
    # A little of the pixel length too: where the embedding rests, nodes must not coincide.
    arcs = arcs + 0.05 * arcs.sum(1, keepdim=True) / (COARSE - 1) + 1e-12
    travelled = torch.cat([arcs.new_zeros(count, 1), arcs.cumsum(1)], 1)
    travelled = travelled / travelled[:, -1:]
    wanted = torch.linspace(0, 1, settings.steps + 1, device=probe.device, dtype=arcs.dtype)
    wanted = wanted.expand(count, -1).contiguous()
    # Inverse of the travelled arc, piecewise linear.
    right = torch.searchsorted(travelled, wanted).clamp(1, COARSE - 1)
    left = right - 1
    low, high = travelled.gather(1, left), travelled.gather(1, right)
    inside = ((wanted - low) / (high - low)).clamp(0, 1)
    places = ((left + inside) / (COARSE - 1)).to(probe.dtype)
    return places, points[:, 0], points[:, -1]


def geodesic_arc(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """IG by the midpoint rule on nodes of equal arc: Σ_j (x_{j+1} − x_j) ⊙ ∇s(midpoint)."""
    score.require_embedding(_WHY)
    baseline = baseline_for(score, batch, settings.baseline)
    beside = score.beside(batch.reference)
    nodes, start, end = arc_nodes(score, baseline, batch.probe, settings, *beside)
    middles = (nodes[:, 1:] + nodes[:, :-1]) / 2
    widths = nodes[:, 1:] - nodes[:, :-1]  # (N, steps)
    images = along(baseline, batch.probe, middles)
    _, gradient = chunked_gradient(
        score.quick, images, repeat(batch.reference, settings.steps), settings.chunk
    )
    gradient = gradient.unflatten(0, middles.shape)  # (N, steps, 3, S, S)
    mean = (gradient * widths[:, :, None, None, None]).sum(1)
    values = (mean * (batch.probe - baseline)).sum(1)
    change = score.compare((end,), batch.reference) - score.compare((start,), batch.reference)
    return Maps(values, change)


def slerp(start: Tensor, end: Tensor, places: Tensor) -> Tensor:
    """(N, K, E) points of the great circles from start to end, (N, E) of length 1."""
    angle = angles(start, end)[:, None].to(start.dtype)  # (N, 1)
    sine = torch.sin(angle).clamp_min(1e-12)
    ahead, behind = torch.sin(places * angle) / sine, torch.sin((1 - places) * angle) / sine
    curved = behind[:, :, None] * start[:, None] + ahead[:, :, None] * end[:, None]
    # Where both ends nearly coincide the sines cancel; the chord is the arc there.
    straight = torch.lerp(start[:, None], end[:, None], places[:, :, None])
    near = (angle < 1e-6)[:, :, None]
    return torch.nn.functional.normalize(torch.where(near, straight, curved), dim=2)


def geodesic_weighted(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """The earlier experiment's method: 50 right-hand steps, weighted gradients, magnitudes.

    A = Σ_c |(x − b) ⊙ 1/K Σ_k w_k ∇s(x_k)|, w_k = sigmoid(10·(cos(f(x_k), slerp_k) − 0.8)).
    """
    score.require_embedding(_WHY)
    baseline = baseline_for(score, batch, settings.baseline)
    count = len(batch.probe)
    places = torch.arange(1, _WEIGHTED_STEPS + 1, device=batch.probe.device) / _WEIGHTED_STEPS
    places = places.expand(count, -1)
    images = along(baseline, batch.probe, places)
    start = _embeddings(score, baseline, score.beside(batch.reference), settings.chunk)
    seen = []

    def recording(points: Tensor, *reference: Tensor) -> Tensor:
        # The forward pass of the gradient also gives the embedding.
        described = score.quick.describe(points, *score.beside(reference))
        seen.append(described[0].detach())
        return score.compare(described, reference)

    reference = repeat(batch.reference, _WEIGHTED_STEPS)
    _, gradient = chunked_gradient(recording, images, reference, settings.chunk)
    points = torch.cat(seen).unflatten(0, places.shape)  # (N, K, E); the last is the probe's
    closeness = (points * slerp(start, points[:, -1], places)).sum(2)
    weights = torch.sigmoid(SHARPNESS * (closeness - NEAR))
    weighted = gradient.unflatten(0, places.shape) * weights[:, :, None, None, None]
    return Maps(((batch.probe - baseline) * weighted.mean(1)).abs().sum(1))
