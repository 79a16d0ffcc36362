"""From a cache, a network and a list of pairs to a run that can start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from faceguide.cache.pairs.pair_doubts import pair_doubts
from faceguide.cache.pairs.pair_lists import PairList, read_pairs
from faceguide.cache.pairs.pair_rows import LeftOut, PairRows, resolve
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import say
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.parts import WHOLE
from faceguide.core.commands.settings import fixed
from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Options, Settings
from faceguide.evaluate.attribution.chimera.chimera_list import (
    ENOUGH,
    Chimeras,
    chimeras_of,
    identities_of,
    plan_chimeras,
)
from faceguide.evaluate.attribution.chimera.exchange import chimera_scores, judge_exchange
from faceguide.evaluate.attribution.job import Job
from faceguide.evaluate.attribution.methods.method_table import (
    COSINE,
    METHODS,
    STANDARD_BLACK_BOX,
    Method,
    choose,
)
from faceguide.evaluate.attribution.methods.target import (
    PairScore,
    check_depends,
    check_gradient,
    pair_score,
)
from faceguide.evaluate.attribution.protocol import map_metrics
from faceguide.evaluate.attribution.protocol.blocks import TABLE, Plan, block_path, make_plan
from faceguide.evaluate.attribution.protocol.estimate import Estimate, estimate, probes_of_a_minute
from faceguide.evaluate.attribution.protocol.infill import Donors
from faceguide.evaluate.attribution.protocol.separation import doubts_of, look, sentence
from faceguide.evaluate.evaluation_options import PairOptions
from faceguide.evaluate.score.quick_forward import on_one_core, workers_of
from faceguide.train.models.loading.network import Network
from faceguide.train.models.own_check import TRIED, check_own

ALL, STANDARD = "all", "standard"
CHIMERA: Literal["chimera"] = "chimera"


@dataclass(frozen=True)
class Planned:
    """What is explained, before a network is asked.

    Attributes:
        plan: the blocks of the pairs, or of the chimeras.
        rows: the pairs of the list, with those that are left out.
        doubts: about the list.
        options: with the protocol that is meant.
        chimeras: None where the pairs themselves are explained.
    """

    plan: Plan
    rows: PairRows
    doubts: Doubts
    options: Options
    chimeras: Chimeras | None


def plan_pairs(
    cache: FaceCache,
    listed: PairOptions,
    options: Options,
    weights: str,
    colour: str,
    score: PairScore | None = None,
) -> Planned:
    """The pairs or chimeras of a list, in blocks.

    Args:
        weights: digest of the network's weights.
        colour: order of the channels that it is fed.
        score: tells the size of a block where the options do not.

    Raises:
        AttributionError: when all are left out.
    """
    pairs = read_pairs(listed.pairs, listed.split)
    rows, doubts = explainable(cache, pairs, resolve(cache, pairs))
    if not len(rows):
        raise AttributionError(
            f"{listed.pairs}: none of its {rows.listed} pairs can be explained; the first: "
            f"{rows.left_out[0].reason}"
        )
    options = replace(options, protocol=options.protocol or _meant(cache, rows, options))
    # Replicates and margins change no map and no response.
    later = ("replicates", "delta", "tau_high", "tau_low", "epsilon", "chunk", "block")
    depends = {name: value for name, value in fixed(options).items() if name not in later}
    depends |= {"weights": weights, "colour": colour}
    composed = options.protocol == CHIMERA
    block = options.block
    if block is None:
        assert score is not None
        side = cache.require("image").shape[0]
        each = 2.0 if composed else len(rows) / len(np.unique(rows.probe))
        block = probes_of_a_minute(score, side, each, *((0,) if composed else ()))
    if composed:
        chimeras = chimeras_of(
            cache, rows, options.limit, options.seed, options.composition, options.games
        )
        return Planned(plan_chimeras(chimeras, depends, block), rows, doubts, options, chimeras)
    plan = make_plan(rows, depends, block, options.limit, options.seed)
    return Planned(plan, rows, doubts, options, None)


def _meant(cache: FaceCache, rows: PairRows, options: Options) -> Literal["chimera", "matched"]:
    """The protocol of a run that names none; `matched` is said."""
    if options.measures or options.infills != Options().infills:
        return "matched"  # these are of its responses
    count = len(identities_of(cache, rows))
    if count >= ENOUGH or options.games:
        return CHIMERA
    say(
        f"--protocol matched: the list has {count} {'identity' if count == 1 else 'identities'} of "
        f"two images; --protocol chimera, which ranks methods, takes {ENOUGH}"
    )
    return "matched"


def explainable(cache: FaceCache, pairs: PairList, rows: PairRows) -> tuple[PairRows, Doubts]:
    """Leave out pairs of an image with itself: their score is at its maximum, its gradient 0."""
    found = pair_doubts(cache, pairs, rows)
    alike = {
        int(place): why
        for kind, why in (("self_pairs", "itself"), ("equal_images", "an image of equal pixels"))
        for place in found.of_pairs.get(kind, ())
    }
    left_out = list(rows.left_out)
    for place, why in alike.items():
        number = int(rows.number[place])
        names = pairs.first[number], pairs.second[number]
        reason = f"pair {number} compares {names[0]} with {why}: the score is at its maximum"
        left_out.append(LeftOut(number, *names, reason))
    kept = np.setdiff1d(np.arange(len(rows)), list(alike))
    return replace(
        rows,
        number=rows.number[kept],
        probe=rows.probe[kept],
        reference=rows.reference[kept],
        same=rows.same[kept],
        fold=None if rows.fold is None else rows.fold[kept],
        left_out=sorted(left_out, key=lambda pair: pair.number),
    ), found.doubts


@dataclass(frozen=True)
class Prepared:
    """A run that can start.

    Attributes:
        rows: the pairs, with those that are left out.
        separation: how the network scores them.
        doubts: about the list and the weights.
        options: as they are recorded.
    """

    job: Job
    rows: PairRows
    separation: dict[str, Any]
    doubts: Doubts
    methods: list[Method]
    mine: range
    whole: bool

    @property
    def doubtful(self) -> dict[str, int]:
        """Counts of doubts about the list and the network."""
        return {**self.doubts.counts(), **doubts_of(self.separation).counts()}

    @property
    def pairs(self) -> int:
        """Number of pairs of this part."""
        return int(np.isin(self.job.plan.block, np.array(self.mine)).sum())

    def estimate(self, out: Path, replicates: int, spent: float = 0.0) -> Estimate | None:
        """What the blocks that are not begun in `out` will cost; None when there are none.

        Args:
            replicates: of the bootstrap behind the results, which a part leaves to others.
            spent: seconds that the start has taken.
        """
        todo = [block for block in self.mine if not block_path(out, TABLE, block).exists()]
        if not todo:
            return None
        return estimate(self.job, self.methods, todo, replicates if self.whole else None, spent)


def prepare(
    cache: FaceCache,
    network: Network,
    listed: PairOptions,
    names: Sequence[str],
    options: Options,
    part: tuple[int, int] = WHOLE,
    anyway: bool = False,
) -> Prepared:
    """Check everything that can be checked before the work begins; doubts are said.

    Args:
        anyway: explain also a network that does not separate the identities.
        names: of methods, or "all": every one that suits the network, or "standard": those of
            them that are not costly, and of a black box all.

    Raises:
        AttributionError: for what does not fit together.
        EvaluationError: when the crops have another size than the network takes.
        ScoreError: when the score does not depend on the probe.
    """
    options.check()
    with on_one_core(workers_of(network)) as workers:
        everything = list(names) in ([ALL], [STANDARD])
        score = pair_score(network, options.matcher)
        offered = [
            name
            for name, method in METHODS.items()
            if not method.control
            and (
                list(names) == [ALL]
                or not method.costly
                or (score.is_black_box and name in STANDARD_BLACK_BOX)
            )
        ]
        network.check_size(cache.require("image").shape[0], str(cache.directory))
        if network.is_foreign:
            few = cache.select()[:TRIED]
            crops = torch.from_numpy(cache.read(few, ["image"])["image"])
            check_own(network.backbone, network.name, crops)
        chosen = offered if everything else names
        choose(chosen)  # a name that does not exist is said before the list is read
        planned = plan_pairs(
            *(cache, listed, options, network.sha256, network.input_spec.colour), score
        )
        plan, rows, doubts, options = planned.plan, planned.rows, planned.doubts, planned.options
        methods = choose(chosen, planned.chimeras is None)
        donors = Donors.of(cache, np.concatenate([rows.probe, rows.reference]))
        wanted = "randomisation" in options.measures
        if wanted and score.is_black_box:
            raise AttributionError(
                f"--metrics randomisation: the weights inside {network.source} cannot be changed; "
                "leave it out"
            )
        random = map_metrics.randomised(score, options.seed) if wanted else None
        job = Job(cache, plan, score, options, donors, random, planned.chimeras, workers=workers)
        score.only_scores = all(method.black_box or method.control for method in methods)
        first = job.batch(plan.pairs_of(0)[:4])
        check_gradient(network.name, score, first.probe, *score.beside(first.reference))
        separation = look(score, cache, rows, options.seed, job.workers)
        if planned.chimeras is not None:
            scores = chimera_scores(score, cache, planned.chimeras, job.workers)
            job = replace(job, scores=scores)
            ranked = len(planned.chimeras.ranked)
            separation = judge_exchange(scores[:ranked], separation["noise"], options.seed)
        # Else the cause is known, and said.
        if separation["separates"] is not False and not score.is_black_box:
            check_depends(score, first.probe, first.reference)
        doubts.say()
        doubts.update(network.doubts)  # said when the weights were read
        if (text := sentence(separation)) is not None:
            if not anyway:
                raise AttributionError(f"{text}; --anyway explains it all the same")
            say(f"Warning: {text}")
        methods = _suited(job, methods, everything)
        mine = range(part[0], plan.blocks, part[1])
        return Prepared(job, rows, separation, doubts, methods, mine, part == WHOLE)


def _suited(job: Job, methods: list[Method], everything: bool) -> list[Method]:
    """The methods that work on this network; named ones that do not are an error, at once."""
    quick = Settings(steps=1, samples=1, seed=job.options.seed)
    suited, blind = [], []
    for method in methods:
        if method.name == "angle" and not job.score.has_embedding:
            continue  # nothing turns
        if everything and not method.suits(job.score):
            blind.append(method.name)
            continue
        # Whether there is an embedding is known without a pass.
        known = not method.needs or (method.needs == COSINE and job.score.has_embedding)
        if method.explain is not None:
            try:
                method.check_suits(job.score)
                if not known:
                    method.explain(job.score, job.batch(np.arange(1)), quick)
            except AttributionError as error:
                if not everything:
                    raise AttributionError(f"{method.name}: {error}") from None
                say(f"{method.name} left out: {error}")
                continue
        suited.append(method)
    if blind:
        say(f"left out, as no ONNX graph gives gradients: {', '.join(blind)}")
    return suited
