"""`evaluate attribution` and `evaluate merge`, from a prepared run to its results."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.run_directory import begin_evaluation, read_run
from faceguide.core.commands.settings import fixed, refixed
from faceguide.core.errors import AttributionError, Unfinished
from faceguide.core.files import json_bytes, publish
from faceguide.evaluate.attribution.attribution_options import Options
from faceguide.evaluate.attribution.chimera.chimera_results import merge_chimeras
from faceguide.evaluate.attribution.job import Job
from faceguide.evaluate.attribution.methods.method_table import METHODS, Method, choose
from faceguide.evaluate.attribution.pages.attribution_page import write_report
from faceguide.evaluate.attribution.pages.chimera_page import write_chimera_report
from faceguide.evaluate.attribution.protocol.blocks import TABLE, block_path, missing_blocks
from faceguide.evaluate.attribution.protocol.explain import maps_of, table_of
from faceguide.evaluate.attribution.protocol.preparation import Planned, Prepared, plan_pairs
from faceguide.evaluate.attribution.protocol.responses import table_forwards
from faceguide.evaluate.attribution.results import SEPARATION, merge
from faceguide.evaluate.evaluation_options import PairOptions
from faceguide.evaluate.score.block_files import is_there, read_block, write_block
from faceguide.evaluate.score.prepare import provenance
from faceguide.evaluate.verification import write_left_out
from faceguide.train.models.loading.network import Network

COMMAND = "attribution"


def run(
    ready: Prepared,
    network: Network,
    listed: PairOptions,
    out: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[str, int], Callable[[int], object]] = lambda what, total: lambda n: None,
) -> dict[str, Any] | None:
    """Compute the blocks of a part that are missing; with one part, also the results.

    Args:
        progress: makes a progress bar from a title and a total.

    Returns:
        The record of results.json, or None when other parts are needed.
    """
    job = ready.job
    begin_evaluation(
        out,
        COMMAND,
        {**fixed(listed, job.options), "block": job.plan.per_block},
        overwrite=overwrite,
        methods=[method.name for method in ready.methods],
        doubts_of_weights=network.doubts.counts(),
        **provenance(job.cache, network),
    )
    if overwrite:
        (out / SEPARATION).unlink(missing_ok=True)
    publish(out / SEPARATION, json_bytes(ready.separation))
    bar = progress("pairs", ready.pairs)
    for block in ready.mine:
        compute_block(job, ready.methods, block, out, bar)
    if not ready.whole:
        return None
    planned = Planned(job.plan, ready.rows, ready.doubts, job.options, job.chimeras)
    return _merge(out, job.cache, planned, ready.methods)


def compute_block(
    job: Job,
    methods: Sequence[Method],
    block: int,
    out: Path,
    bar: Callable[[int], object] = lambda count: None,
) -> None:
    """Make the files of a block that are missing; `bar` advances by pairs."""
    key, places = job.plan.key, job.plan.pairs_of(block)
    probes = len(np.unique(job.plan.probe[places]))
    table_cost = table_forwards(len(job.options.infills)) * probes
    steps = [float(0 if job.chimeras else table_cost)]
    steps += [len(places) * max(method.cost(job.options), 1.0) for method in methods]
    # Whole pairs, in proportion to the forwards that are done.
    done = np.floor(np.cumsum(steps) / sum(steps) * len(places) + 1e-9).astype(int)
    ticks = iter(np.diff(done, prepend=0).tolist())
    table = read_block(block_path(out, TABLE, block), key)
    if table is None:
        table = table_of(job, block)
        write_block(block_path(out, TABLE, block), key, table)
    bar(next(ticks))
    paths = [block_path(out, method.name, block) for method in methods]
    lacking = [not is_there(path, key) for path in paths]
    wanted = list(itertools.compress(methods, lacking))
    with contextlib.closing(maps_of(job, wanted, block, table)) as maps:
        for path, lacks in zip(paths, lacking, strict=True):
            if lacks:
                write_block(path, key, next(maps))
            bar(next(ticks))


def _merge(
    out: Path, cache: FaceCache, planned: Planned, methods: Sequence[Method]
) -> dict[str, Any]:
    plan, rows, doubts, options = planned.plan, planned.rows, planned.doubts, planned.options
    if missing := missing_blocks(out, plan, [method.name for method in methods]):
        raise Unfinished(out, "responses and maps", missing, plan.blocks)
    write_left_out(out, rows.left_out)
    if planned.chimeras is not None:
        chimeras = planned.chimeras
        record, told, question = merge_chimeras(
            out, cache, plan, chimeras, methods, options, rows, doubts
        )
        write_chimera_report(out, cache, plan, chimeras, told, question)
    else:
        record, judged, question = merge(out, cache, plan, methods, options, rows, doubts)
        write_report(out, cache, plan, judged, question)
    return record


def merge_run(out: Path) -> dict[str, Any]:
    """Results of a run whose parts are all there, from its run.json only.

    Raises:
        AttributionError: when it is no such run.
        Unfinished: when a block is missing.
    """
    about = read_run(out)
    if about.get("command") != COMMAND:
        raise AttributionError(
            f"{out}: expected a run of `evaluate attribution`, found {about.get('command')!r}"
        )
    listed, options = refixed(about["settings"], out, PairOptions, Options)
    cache = FaceCache.open(about["cache"])
    planned = plan_pairs(cache, listed, options, about["weights_sha256"], about["colour"])
    planned.doubts.update(Doubts.of(about["doubts_of_weights"]))
    # Controls come by themselves; a method that was left out of "all" is not in the list.
    names = [name for name in about["methods"] if name not in METHODS or not METHODS[name].control]
    methods = choose(names, planned.chimeras is None)
    return _merge(out, cache, planned, [m for m in methods if m.name in about["methods"]])
