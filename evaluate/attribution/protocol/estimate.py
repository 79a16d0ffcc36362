"""What a run will cost, estimated before it starts: images forward, and seconds on this machine.

The count follows from the plan; the seconds from timing one batch forward and one batch forward
and backward, with this network on this device, and a few replicates of the bootstrap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.chimera.chimera_list import DELETION
from faceguide.evaluate.attribution.job import Job
from faceguide.evaluate.attribution.methods.maps import repeat
from faceguide.evaluate.attribution.methods.method_table import Method
from faceguide.evaluate.attribution.methods.target import PairScore, score_gradient
from faceguide.evaluate.attribution.protocol import map_metrics
from faceguide.evaluate.attribution.protocol.blocks import Plan
from faceguide.evaluate.attribution.protocol.explain import CURVES
from faceguide.evaluate.attribution.protocol.responses import TABLE_CHUNK, table_forwards
from faceguide.evaluate.attribution.threshold import DRAWS
from faceguide.evaluate.metrics.bootstrap import PairWeights, replicate
from faceguide.evaluate.score.quick_forward import in_threads

_BACKWARD = 3  # a forward and backward pass, in forwards
_ROUNDS = 3  # of which the quickest counts
# Operations of a minute on a core, between those of small layers and of large ones.
_MINUTE = 60 * 40e9
_TYPICAL = 220  # forwards per pair of the standard methods
_MOST_PROBES = 16
_TIMED, _INTERVALS = 50, 3  # replicates that are timed; intervals of each method
_PAGE = 4.0  # seconds for figures and pages
_OF_CURVES = 3 * (map_metrics.STEPS + 1)


@dataclass(frozen=True)
class Estimate:
    """The cost of a part of a run.

    Attributes:
        pairs: that it explains.
        probes: that it measures.
        forwards: images forward; a backward pass counts 2.
        seconds: on this machine, measured rates.
        fixed: seconds of these that go into the start, intervals, figures and pages.
        unknown: methods whose cost is not known (the user's own) and not counted.
        chimeras: composed faces; 0 = the pairs are those of a list.
    """

    pairs: int
    probes: int
    forwards: float
    seconds: float
    fixed: float
    unknown: tuple[str, ...]
    chimeras: int = 0

    def text(self) -> str:
        """One line."""
        count, unit = (self.chimeras, "chimera") if self.chimeras else (self.pairs, "pair")
        each = (self.seconds - self.fixed) / count
        probes = "" if self.chimeras else f", {self.probes:,} probes"
        threads = torch.get_num_threads()
        known = f", without {', '.join(self.unknown)}" if self.unknown else ""
        return (
            f"{count:,} {unit}s{probes}: {self.forwards:,.0f} forwards, about "
            f"{duration(self.seconds)} on this machine with {threads} thread"
            f"{'' if threads == 1 else 's'} ({each:{'.2g' if each < 10 else ',.0f'}} s per {unit})"
            f"{known}"
        )


def duration(seconds: float) -> str:
    """Seconds in the unit that reads best."""
    for limit, unit, size in ((120, "seconds", 1), (7200, "minutes", 60)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.1f} hours"


def probes_of_a_minute(
    score: PairScore, side: int, pairs_per_probe: float, table: int = table_forwards(2)
) -> int:
    """Probes that a core explains in about a minute; the same on every machine.

    Args:
        side: of the crops, pixels.
        pairs_per_probe: mean of the list.
        table: forwards per probe that measure responses.
    """
    image = torch.zeros(1, 3, side, side, device=score.device)
    beside = (image.new_zeros(1, 5, 2),) if score.needs_keypoints else ()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        score.describe(image, *beside)
    each = counter.get_total_flops() * (table + _TYPICAL * pairs_per_probe)
    return max(1, min(_MOST_PROBES, int(_MINUTE / max(each, 1))))


def measure_forwards(methods: Sequence[Method], measures: Sequence[str], s: Settings) -> float:
    """Forwards per pair of the further measures."""
    wanted, total = set(measures), 0.0
    if wanted & CURVES:
        total += _OF_CURVES * len(methods)
    fresh = sum(method.cost(s) for method in methods if not method.control)
    again = {"sensitivity": map_metrics.DRAWS, "randomisation": 1, "swap": 1}
    return total + fresh * sum(again[name] for name in wanted & set(again))


def _seconds(job: Job, work: Callable[[Job, Tensor], object], images: Tensor) -> float:
    """Per image, where the whole crew is at work; calls with two images warm up."""

    def timed(some: Tensor) -> float:
        start = time.perf_counter()
        for _ in in_threads(work, [some] * len(job.crew), job.crew):
            pass
        if images.is_cuda:
            torch.cuda.synchronize(images.device)
        return time.perf_counter() - start

    timed(images[:2])
    return min(timed(images) for _ in range(_ROUNDS)) / (len(images) * len(job.crew))


def results_seconds(
    plan: Plan, methods: Sequence[Method], measures: Sequence[str], replicates: int
) -> float:
    """Seconds of the results: the bootstrap of every method, figures and pages."""
    rows, places = np.unique(np.stack([plan.probe, plan.reference]), return_inverse=True)
    weights, values = PairWeights(places.reshape(2, -1).T), np.ones(len(plan))

    def statistic(counts: NDArray[np.int32]) -> NDArray[np.float64]:
        return np.array([weights(counts) @ values])

    start = time.perf_counter()
    replicate(statistic, len(rows), min(_TIMED, replicates))
    each = (time.perf_counter() - start) / _TIMED
    return _PAGE + each * replicates * len(methods) * (_INTERVALS + len(measures))


def estimate(
    job: Job,
    methods: Sequence[Method],
    blocks: Sequence[int],
    replicates: int | None,
    spent: float = 0.0,
) -> Estimate:
    """Cost of these blocks, by timing two batches of the first pair.

    Args:
        replicates: of the bootstrap; None = no results.
        spent: seconds that the start has taken.
    """
    places = np.flatnonzero(np.isin(job.plan.block, np.array(blocks)))
    batch = job.batch(places[:1])
    # A CPU is busy with a few images; a GPU shows its rate with a whole batch only.
    wide, narrow = (TABLE_CHUNK, job.options.chunk) if batch.probe.is_cuda else (16, 8)

    @torch.inference_mode()
    def forward(own: Job, images: Tensor) -> object:
        beside = own.score.beside(repeat(batch.reference, len(images)))
        return own.score.quick.describe(images, *beside)

    def backward(own: Job, images: Tensor) -> object:
        return score_gradient(own.score.quick, images, repeat(batch.reference, len(images)))

    per_forward = _seconds(job, forward, batch.probe.expand(wide, -1, -1, -1))
    per_gradient = (
        per_forward * _BACKWARD
        if job.score.is_black_box
        else _seconds(job, backward, batch.probe.expand(narrow, -1, -1, -1))
    )
    pairs, probes = len(places), len(np.unique(job.plan.probe[places]))
    chimeras = 0 if job.chimeras is None else pairs // 2
    table = 0 if chimeras else probes * table_forwards(len(job.options.infills))
    if job.options.protocol == "threshold":
        table += pairs * len(methods) * (2 * DRAWS + 1)
    # Masked copies of a chimera are made once for both references.
    each = sum(m.cost(job.options) / (2 if chimeras and m.shared else 1) for m in methods)
    maps = pairs * (each + measure_forwards(methods, job.options.measures, job.options))
    if DELETION in job.options.games:
        table += chimeras * 2 * (1 + sum(m.signed for m in methods))
    unknown = tuple(m.name for m in methods if not m.control and m.cost(job.options) == 0)
    seconds = table * per_forward + maps * per_gradient / _BACKWARD
    fixed = spent
    if replicates is not None:
        fixed += results_seconds(job.plan, methods, job.options.measures, replicates)
    return Estimate(pairs, probes, table + maps, seconds + fixed, fixed, unknown, chimeras)
