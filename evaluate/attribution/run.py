"""`evaluate attribution` and `evaluate merge`, start to finish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faceguide.cache.parts import WHOLE, shards_of
from faceguide.cache.reader import FaceCache
from faceguide.evaluate.attribution import metrics
from faceguide.evaluate.attribution.blocks import (
    Plan,
    make_plan,
    maps_path,
    missing_blocks,
    table_path,
)
from faceguide.evaluate.attribution.errors import AttributionError
from faceguide.evaluate.attribution.explain import Job, maps_of, table_of
from faceguide.evaluate.attribution.infill import INFILLS, Donors
from faceguide.evaluate.attribution.maps import Settings
from faceguide.evaluate.attribution.methods import COSINE, METHODS, Method, choose
from faceguide.evaluate.attribution.plug import pair_score
from faceguide.evaluate.attribution.report import write_report
from faceguide.evaluate.attribution.results import merge
from faceguide.evaluate.attribution.target import check_depends
from faceguide.evaluate.attribution.threshold import ThresholdRule
from faceguide.evaluate.block_files import is_there, read_arrays, write_arrays
from faceguide.evaluate.errors import Unfinished
from faceguide.evaluate.network import Network
from faceguide.evaluate.pair_rows import PairRows, resolve
from faceguide.evaluate.pairs import read_pairs
from faceguide.evaluate.prepare import provenance
from faceguide.evaluate.run_directory import begin, read_run
from faceguide.evaluate.verification import write_left_out

COMMAND = "attribution"
PROTOCOLS = ("matched", "threshold")
ALL = "all"


@dataclass(frozen=True)
class Options:
    """What a run may differ in.

    Attributes:
        matcher: of `scores.MATCHERS`, without fusions.
        protocol: "matched" or "threshold".
        infills: names, for `matched`.
        measures: further measures, names in `metrics.METRICS`.
        limit: explain so many pairs, drawn by the seed; None = all.
        block: probes per block.
        delta: margin that a claim must exceed.
        tau_high: radians; of the falsifiability criterion.
        tau_low: radians.
        epsilon: radians.
        replicates: of the bootstrap over persons.
        fill: of `threshold`.
        draws: of `threshold`.
        method: settings of the methods, the seed among them.
    """

    matcher: str = "cosine"
    protocol: str = "matched"
    infills: tuple[str, ...] = ("blur", "other")
    measures: tuple[str, ...] = ()
    limit: int | None = None
    block: int = 8
    delta: float = 0.0
    tau_high: float = 0.75
    tau_low: float = 0.55
    epsilon: float = 0.15
    replicates: int = 1000
    fill: str = "zero"
    draws: int = 100
    method: Settings = field(default_factory=Settings)

    def record(self) -> dict[str, Any]:
        """As run.json and results.json hold it."""
        flat = {name: value for name, value in asdict(self).items() if name != "method"}
        flat |= asdict(self.method)
        flat["infills"], flat["measures"] = list(self.infills), list(self.measures)
        return flat

    def check(self) -> None:
        """Refuse names that do not exist before weights are read.

        Raises:
            AttributionError: with the legal ones.
        """
        for what, given, legal in (
            ("infill", self.infills, INFILLS),
            ("metric", self.measures, tuple(metrics.METRICS)),
            ("protocol", (self.protocol,), PROTOCOLS),
        ):
            for name in given:
                if name not in legal:
                    raise AttributionError(f"no {what} {name!r}; choose from {', '.join(legal)}")
        if not self.infills:
            raise AttributionError("at least one infill is needed")


def plan_pairs(
    cache: FaceCache, pairs: Path, split: str | None, options: Options, weights: str
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
    depends["weights"] = weights
    seed = options.method.seed
    return make_plan(rows, depends, options.block, options.limit, seed), rows


def run(
    cache: FaceCache,
    network: Network,
    pairs: Path,
    split: str | None,
    names: Sequence[str],
    options: Options,
    out: Path,
    *,
    part: tuple[int, int] = WHOLE,
    overwrite: bool = False,
    device: torch.device | str = "cpu",
    say: Callable[[str], object] = lambda text: None,
    progress: Callable[[str, int], Callable[[int], object]] = lambda what, total: lambda n: None,
) -> dict[str, Any] | None:
    """Compute the blocks of a part that are missing; with one part, also the results.

    Args:
        cache: where the crops are.
        network: what is explained.
        pairs: the list of pairs.
        split: of an ND-TWIN list.
        names: of methods, or "all": every one that suits the network.
        options: everything else.
        out: the run directory.
        part: (i, N): do blocks i, i + N, …
        overwrite: replace another run in `out`.
        device: of torch.
        say: told what is left out and why.
        progress: makes a progress bar from a title and a total.

    Returns:
        The record of results.json, or None when other parts are needed.
    """
    options.check()
    everything = list(names) == [ALL]
    competing = [name for name, method in METHODS.items() if not method.control]
    methods = choose(competing if everything else names)
    score = pair_score(network, options.matcher)
    side = cache.require("image").shape[0]
    if side != score.input_spec.size and not network.name.startswith("cal_"):
        raise AttributionError(
            f"{cache.directory}: its crops are {side} pixels, {network.name} was trained on "
            f"{score.input_spec.size}; make a cache with `prep landmarks --size "
            f"{score.input_spec.size}`"
        )
    plan, rows = plan_pairs(cache, pairs, split, options, network.sha256)
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
    settings = {
        **options.record(),
        "pairs": str(pairs.resolve()),
        "split": split,
    }
    begin(
        out,
        COMMAND,
        settings,
        overwrite=overwrite,
        methods=[method.name for method in methods],
        **provenance(cache, network),
    )
    mine = shards_of(part, plan.blocks)
    bar = progress("blocks", len(mine))
    for block in mine:
        compute_block(job, methods, block, out)
        bar(1)
    if part[1] > 1:
        return None
    return _merge(out, cache, plan, rows, methods, options)


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


def compute_block(job: Job, methods: Sequence[Method], block: int, out: Path) -> None:
    """Make the files of a block that are missing."""
    key = job.plan.key
    table = read_arrays(table_path(out, block), key)
    if table is None:
        table = table_of(job, block)
        write_arrays(table_path(out, block), key, table)
    for method in methods:
        path = maps_path(out, method.name, block)
        if not is_there(path, key):
            write_arrays(path, key, maps_of(job, method, block, table))


def _merge(
    out: Path,
    cache: FaceCache,
    plan: Plan,
    rows: PairRows,
    methods: Sequence[Method],
    options: Options,
) -> dict[str, Any]:
    if missing := missing_blocks(out, plan, [method.name for method in methods]):
        raise Unfinished(out, "responses and maps", missing, plan.blocks)
    write_left_out(out, rows.left_out)
    record, judged = merge(
        out, cache, plan, methods, settings=options.record(), left_out=len(rows.left_out)
    )
    write_report(out, cache, plan, judged)
    return record


def merge_run(out: Path) -> dict[str, Any]:
    """Results of a run whose parts are all there, from its run.json alone.

    Raises:
        AttributionError: when it is no such run.
        Unfinished: when a block is missing.
    """
    about = read_run(out)
    if about.get("command") != COMMAND:
        raise AttributionError(
            f"{out}: expected a run of `evaluate attribution`, found {about.get('command')!r}"
        )
    settings = about["settings"]
    own = Settings(**{name: settings[name] for name in Settings.__dataclass_fields__})
    flat = {
        name: settings[name]
        for name in Options.__dataclass_fields__
        if name not in ("method", "infills", "measures")
    }
    options = Options(
        **flat,
        infills=tuple(settings["infills"]),
        measures=tuple(settings["measures"]),
        method=own,
    )
    cache = FaceCache.open(about["cache"])
    plan, rows = plan_pairs(
        cache, Path(settings["pairs"]), settings["split"], options, about["weights_sha256"]
    )
    # Controls come by themselves; a method that was left out of "all" is not in the list.
    listed = [name for name in about["methods"] if name not in METHODS or not METHODS[name].control]
    return _merge(out, cache, plan, rows, choose(listed), options)
