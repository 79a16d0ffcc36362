"""Integrated Gradients with nodes where they are needed, and weights that add up.

(x − b) ⊙ ∫ ∂s/∂x along the straight line (Sundararajan et al., 2017). The slope of the score along
the line jumps wherever an activation switches, thousands of times from black to a face, so no rule
of few fixed nodes converges. But the score itself comes free with each gradient, and with it the
exact integral between two nodes: what the trapezoid rule misses there is known, not estimated.

1. Nodes are put where the rule misses most, in three rounds, up to `steps` gradients per pair.
2. What is still missing over the whole line, the *gap*, is closed by the smallest change of the
   weights (least squares) that makes them integrate the known change of the score: the calibration
   estimator of survey sampling (Deville and Särndal, 1992). No weight changes by more than half.
3. Pairs whose map then still does not add up to within 1 % get twice, and then four times, the
   gradients. What that leaves open stays, and is reported as the completeness error.

The gap before closing is reported next to it. docs/attribution.md says how far the map is from the
limit at a given number of steps; closing does not bring it nearer. captum's IntegratedGradients
knows fixed nodes only, which do not converge here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.gradients import chunked_gradient
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, along, baseline_for, repeat
from faceguide.evaluate.attribution.methods.target import PairScore

START = 9  # nodes of the first pass, closer together near the baseline
ROUNDS = 3
MOST_CHANGE = 0.5  # of a weight, when the gap is closed
TOLERANCE = 0.01  # completeness error above which a pair gets more gradients
MOST_STEPS = 4  # times `steps`


@dataclass(frozen=True)
class Line:
    """What is known along the straight lines of N pairs, in the order in which nodes were added.

    Attributes:
        places: (N, K) from 0 to 1, the first START or so from end to end.
        value: (N, K) scores.
        maps: (N, K, S, S) (x − b) ⊙ gradient, summed over channels.
    """

    places: Tensor
    value: Tensor
    maps: Tensor

    def of(self, rows: Tensor) -> Line:
        """Of these pairs only."""
        return Line(self.places[rows], self.value[rows], self.maps[rows])


Evaluate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def integrated_gradients(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """(x − b) ⊙ ∫ ∂s/∂x, summed over channels: the trapezoid rule on adaptive nodes, closed."""
    baseline = baseline_for(score, batch, settings.baseline)
    count, step = len(batch.probe), batch.probe - baseline

    def evaluate(rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (R, K) and (x − b) ⊙ gradient (R, K, S, S) of some pairs at places (R, K)."""
        images = along(baseline[rows], batch.probe[rows], places.to(batch.probe.dtype))
        reference = repeat(tuple(part[rows] for part in batch.reference), places.shape[1])
        value, gradient = chunked_gradient(score.quick, images, reference, settings.chunk)
        products = gradient.unflatten(0, places.shape) * step[rows][:, None]
        return value.unflatten(0, places.shape).double(), products.sum(2)

    everyone = torch.arange(count, device=step.device)
    first = min(max(settings.steps, 2), START)
    places = torch.linspace(0, 1, first, device=step.device, dtype=torch.double).square()
    places = places.expand(count, -1)
    line = refined(Line(places, *evaluate(everyone, places)), everyone, evaluate, settings.steps)
    change = line.value[:, first - 1] - line.value[:, 0]
    found, rows = summed(line, change), everyone
    for budget in (2 * settings.steps, MOST_STEPS * settings.steps):
        error = found.completeness_error()
        assert error is not None
        assert found.gap is not None
        late = error[rows] > TOLERANCE
        rows = rows[late]
        if not len(rows):
            break
        line = refined(line.of(late), rows, evaluate, budget)
        more = summed(line, change[rows])
        assert more.gap is not None
        found = found._replace(
            values=found.values.index_copy(0, rows, more.values),
            gap=found.gap.index_copy(0, rows, more.gap),
        )
    return found


def refined(line: Line, rows: Tensor, evaluate: Evaluate, steps: int) -> Line:
    """With nodes halfway between those where the rule misses most, `steps` per pair in all."""
    per_round = math.ceil(max(steps - line.places.shape[1], 0) / ROUNDS)
    while line.places.shape[1] < steps:
        known = line.places.shape[1]
        more = min(per_round, steps - known, known - 1)
        order = line.places.argsort(1)
        at, seen, slope = (
            part.gather(1, order)
            for part in (line.places, line.value, line.maps.double().sum((2, 3)))
        )
        missed = seen.diff(dim=1) - at.diff(dim=1) * (slope[:, 1:] + slope[:, :-1]) / 2
        worst = missed.abs().topk(more, dim=1).indices
        middles = (at[:, 1:] + at[:, :-1]).gather(1, worst) / 2
        value, maps = evaluate(rows, middles)
        line = Line(
            torch.cat([line.places, middles], 1),
            torch.cat([line.value, value], 1),
            torch.cat([line.maps, maps], 1),
        )
    return line


def summed(line: Line, change: Tensor) -> Maps:
    """The closed sum over the nodes; `change` (N,) is what it has to come to."""
    weights, gap = closed(trapezoid(line.places), line.maps.double().sum((2, 3)), change)
    values = (line.maps * weights.to(line.maps.dtype)[:, :, None, None]).sum(1)
    return Maps(values, change, gap=gap)


def trapezoid(places: Tensor) -> Tensor:
    """(N, K) weights of the trapezoid rule at places (N, K) in any order, each place once."""
    order = places.argsort(1)
    width = places.gather(1, order).diff(dim=1)
    none = width.new_zeros(len(width), 1)
    weight = (torch.cat([width, none], 1) + torch.cat([none, width], 1)) / 2
    return torch.empty_like(weight).scatter_(1, order, weight)


def closed(weights: Tensor, slope: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Weights that integrate the slope to the change, or come as near as half of each allows.

    w′ = w·(1 + λ·(slope − mean)): of all weights with the same sum that integrate the slope to the
    change, the nearest to w in Σ (w′ − w)² / w.

    Args:
        weights: (N, K) > 0, sum 1.
        slope: (N, K).
        change: (N,).

    Returns:
        (N, K) weights and (N,) the gap that they close.
    """
    mean = (weights * slope).sum(1, keepdim=True)
    off = slope - mean
    gap = change - mean[:, 0]
    spread = (weights * off.square()).sum(1).clamp_min(torch.finfo(slope.dtype).tiny)
    most = MOST_CHANGE / off.abs().amax(1).clamp_min(torch.finfo(slope.dtype).tiny)
    factor = (gap / spread).clamp(-most, most)
    return weights * (1 + factor[:, None] * off), gap
