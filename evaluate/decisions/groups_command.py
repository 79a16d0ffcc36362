"""The command `evaluate groups`; registered by the group in `cli`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from faceguide.core.commands.console import Command, echo_json, interruptible, printable
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.option_types import FiniteRange
from faceguide.core.commands.settings import option, settings
from faceguide.core.commands.shared_options import FOLDER, Output, Seed
from faceguide.core.files import write_json
from faceguide.evaluate.evaluation_options import Tables
from faceguide.evaluate.report.tables import Table, between, percent, save_table, to_text


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """Which groups, and at which threshold."""

    by: str = option(help="Meta column of the cache, or pose or occlusion.")
    fmr: float = option(
        1e-2, "False match rate over all pairs, 0 to 1, that sets the threshold.",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
    )  # fmt: skip
    score: float | None = option(
        None, "Score to accept from, e.g. a published one, in place of --fmr.", type=FiniteRange()
    )


@click.command("groups", cls=Command)
@click.argument("run", type=FOLDER)
@settings(asked=GroupOptions, made=Tables, random=Seed, output=Output)
def groups_command(
    run: Path, asked: GroupOptions, made: Tables, random: Seed, output: Output
) -> None:
    """Do the pairs of RUN err alike in every group at one threshold?

    RUN is a run of `evaluate verification`. For each group, by name: pairs, identities, FNMR and
    FMR with intervals that resample identities; the highest over the lowest rate; and tests between
    every two groups with Holm's correction. A pair of two groups is counted apart; by pose or
    occlusion a pair is where its more turned or occluded face is. Writes groups.json, groups.csv,
    groups.tex, tests.csv and tests.tex.

    \b
    Examples:
      evaluate groups rfw/ --by race --fmr 1e-3 --out rfw-groups/
      evaluate groups lfw/ --by pose --score 0.363 --out lfw-pose/
    """
    made.check()
    with interruptible():
        record = _record(run, asked, made.replicates, random.seed)
        made.out.mkdir(parents=True, exist_ok=True)
        write_json(made.out / "groups.json", record)
        shown = {
            "groups": (_rates(record), f"FNMR and FMR by {asked.by} in per cent, {_where(record)}"),
            "tests": (_tests(record), "Differences in per cent, with Holm's correction."),
        }
        for stem, (table, caption) in shown.items():
            save_table(table, caption, made.out, stem)
    Doubts.of(record["doubts"]).say()
    if output.as_json:
        echo_json(record)
        return
    click.echo(
        f"{record['pairs']:,} pairs of {record['identities']:,} identities by {printable(asked.by)}"
        f", {_where(record)}"
    )
    click.echo("\n\n".join(to_text(table) for table, _ in shown.values()))
    for line in _ratios(record):
        click.echo(line)


def _record(run: Path, asked: GroupOptions, replicates: int, seed: int) -> dict[str, Any]:
    import numpy as np

    from faceguide.cache.inspect.occlusion_measures import estimate_doubts
    from faceguide.core.errors import EvaluationError
    from faceguide.evaluate.decisions.group_rates import group_rates
    from faceguide.evaluate.decisions.pair_groups import PairGroups
    from faceguide.evaluate.decisions.scored_run import ScoredRun
    from faceguide.evaluate.metrics.roc import rank, tar_cells

    scored = ScoredRun.of(run)
    cache, doubts = scored.cache(), Doubts()
    groups = PairGroups.of(cache, asked.by, scored.probe, scored.reference)
    if asked.by == "occlusion":
        doubts = estimate_doubts(cache, np.unique([scored.probe, scored.reference]))
    threshold, fmr = asked.score, None
    if threshold is None:
        (cell,) = tar_cells(rank(scored.score, scored.same), (asked.fmr,))
        if cell.threshold is None:
            raise EvaluationError(
                f"{run}: a threshold at an FMR of {asked.fmr:g} {cell.refused}; give a higher "
                "--fmr, or --score"
            )
        threshold, fmr = cell.threshold, asked.fmr
    return {
        "run": str(run.resolve()),
        "by": asked.by,
        "fmr": fmr,
        "replicates": replicates,
        "seed": seed,
        "doubts": doubts.counts(),
        **group_rates(
            scored.score, scored.same, scored.people, groups, threshold, replicates, seed
        ),
    }


def _where(record: dict[str, Any]) -> str:
    text = f"accepted from {record['threshold']:.4f} on"
    fmr = record["fmr"]
    return text + ("" if fmr is None else f": FMR {fmr:g} over all of these pairs")


def _rates(record: dict[str, Any]) -> Table:
    header = ["group", "identities", "genuine", "FNMR", "interval", "impostors", "FMR", "interval"]
    rows = []
    for group in (*record["groups"], *record["rest"], record["all"]):
        genuine, impostor = group["fnmr"], group["fmr"]
        most = max(genuine["identities"], impostor["identities"])
        cells = [printable(group["group"]), str(most)]
        for found in (genuine, impostor):
            cells += [f"{found['n']:,}", percent(found["rate"]), between(found["interval"])]
        rows.append(cells)
    return header, rows


def _tests(record: dict[str, Any]) -> Table:
    header = ["first", "second", "rate", "difference", "interval", "p", "p (Holm)"]
    rows = [
        [
            printable(test["first"]), printable(test["second"]), test["kind"].upper(),
            percent(test["difference"]), between(test["interval"]),
            *("–" if test[p] is None else f"{test[p]:.3g}" for p in ("p", "p_holm")),
        ]
        for test in record["tests"]
    ]  # fmt: skip
    return header, rows


def _ratios(record: dict[str, Any]) -> list[str]:
    lines = []
    for kind, found in record["ratios"].items():
        if found is None:
            continue
        of = f"{printable(found['highest'])} over {printable(found['lowest'])}"
        if found["ratio"] is None:
            lines.append(f"{kind.upper()} highest over lowest: – ({of}, which has no error)")
            continue
        low, high = ("∞" if end is None else f"{end:.2f}" for end in found["interval"])
        lines.append(
            f"{kind.upper()} highest over lowest: {found['ratio']:.2f} [{low}, {high}] ({of}, "
            "chosen after seeing the rates)"
        )
    return lines
