"""From a cache, a network and a list of pairs to a run that can start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from faceguide.cache.reader import FaceCache
from faceguide.evaluate.attribution import metrics
from faceguide.evaluate.attribution.blocks import Plan, make_plan, table_path
from faceguide.evaluate.attribution.errors import AttributionError
from faceguide.evaluate.attribution.estimate import Estimate, estimate
from faceguide.evaluate.attribution.explain import Job
from faceguide.evaluate.attribution.infill import Donors
from faceguide.evaluate.attribution.maps import Settings
from faceguide.evaluate.attribution.methods import COSINE, METHODS, Method, choose
from faceguide.evaluate.attribution.options import Options
from faceguide.evaluate.attribution.plug import pair_score
from faceguide.evaluate.attribution.target import check_depends
from faceguide.evaluate.attribution.threshold import ThresholdRule
from faceguide.evaluate.network import Network
from faceguide.evaluate.pair_rows import PairRows, resolve
from faceguide.evaluate.pairs import read_pairs
from faceguide.train.models.own import is_own
from faceguide.train.models.own_check import TRIED, check_own

ALL, STANDARD = "all", "standard"


def plan_pairs(
    cache: FaceCache, pairs: Path, split: str | None, options: Options, weights: str, colour: str
) -> tuple[Plan, PairRows]:
    """The blocks of a list's pairs, and the pairs with those that cannot be scored.

    Raises:
        AttributionError: when none can.
    """
    rows = resolve(cache, read_pairs(pairs, split))
    if not len(rows):
        raise AttributionError(
            f"{pairs}: none of its {rows.listed} pairs has both images in {cache.directory}; the "
            f"first: {rows.left_out[0].reason}"
        )
    # Replicates and margins change no map and no response.
    later = ("replicates", "delta", "tau_high", "tau_low", "epsilon", "chunk", "block")
    depends = {name: value for name, value in options.record().items() if name not in later}
    depends |= {"weights": weights, "colour": colour}
    seed = options.method.seed
    return make_plan(rows, depends, options.block, options.limit, seed), rows


@dataclass(frozen=True)
class Prepared:
    """A run that can start.

    Attributes:
        job: what it is made of.
        rows: the pairs, with those that cannot be scored.
        methods: that suit the network, and the controls.
        mine: blocks of this part.
        whole: whether that is all of them.
    """

    job: Job
    rows: PairRows
    methods: list[Method]
    mine: range
    whole: bool

    def estimate(self, out: Path) -> Estimate | None:
        """What the blocks that are not begun in `out` will cost; None when there are none."""
        todo = [block for block in self.mine if not table_path(out, block).exists()]
        return estimate(self.job, self.methods, todo) if todo else None


def prepare(
    cache: FaceCache,
    network: Network,
    pairs: Path,
    split: str | None,
    names: Sequence[str],
    options: Options,
    *,
    part: tuple[int, int] = (0, 1),
    device: torch.device | str = "cpu",
    say: Callable[[str], object] = lambda text: None,
) -> Prepared:
    """Check everything that can be checked before the work begins.

    Args:
        cache: where the crops are.
        network: what is explained.
        pairs: the list of pairs.
        split: of an ND-TWIN list.
        names: of methods, or "all": every one that suits the network, or "standard": those of
            them that are not costly.
        options: everything else.
        part: (i, N): do blocks i, i + N, …
        device: of torch.
        say: told what is left out and why.

    Raises:
        AttributionError: for what does not fit together.
        ScoreError: when the score does not depend on the probe.
    """
    options.check()
    everything = list(names) in ([ALL], [STANDARD])
    offered = [
        name
        for name, method in METHODS.items()
        if not method.control and (list(names) == [ALL] or not method.costly)
    ]
    methods = choose(offered if everything else names)
    score = pair_score(network, options.matcher)
    side = cache.require("image").shape[0]
    if side != score.input_spec.size and not network.name.startswith("cal_"):
        raise AttributionError(
            f"{cache.directory}: its crops are {side} pixels, {network.name} was trained on "
            f"{score.input_spec.size}; make a cache with `prep landmarks --size "
            f"{score.input_spec.size}`"
        )
    if is_own(network.name):
        few = cache.select()[:TRIED]
        crops = torch.from_numpy(cache.read(few, ["image"])["image"])
        check_own(network.backbone, network.name, crops)
    plan, rows = plan_pairs(cache, pairs, split, options, network.sha256, network.input_spec.colour)
    job = Job(
        cache,
        plan,
        score,
        options.method,
        options.infills,
        Donors.of(cache, np.concatenate([rows.probe, rows.reference])),
        options.protocol,
        ThresholdRule(draws=options.draws, fill=options.fill),
        options.measures,
        metrics.randomised(score, options.method.seed)
        if "randomisation" in options.measures
        else None,
        device,
    )
    first = job.batch(plan.pairs_of(0)[:2])
    check_depends(score, first.probe, first.reference)
    methods = _suited(job, methods, everything, say)
    mine = range(part[0], plan.blocks, part[1])
    return Prepared(job, rows, methods, mine, part[1] == 1)


def _suited(
    job: Job, methods: list[Method], everything: bool, say: Callable[[str], object]
) -> list[Method]:
    """The methods that work on this network; named ones that do not are an error, at once."""
    quick = Settings(steps=1, samples=1, seed=job.settings.seed)
    suited = []
    for method in methods:
        # Whether there is an embedding is known without a pass.
        if method.explain is not None and method.needs and not _only_cosine(job, method):
            try:
                method.explain(job.score, job.batch(np.arange(1)), quick)
            except AttributionError as error:
                if not everything:
                    raise AttributionError(f"{method.name}: {error}") from None
                say(f"{method.name} left out: {error}")
                continue
        suited.append(method)
    return suited


def _only_cosine(job: Job, method: Method) -> bool:
    return method.needs == COSINE and job.score.has_embedding
