"""`evaluate suite`: the benchmarks that lie in a folder, each by its published protocol."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from faceguide.core.commands.console import Command, SomeFailed, echo_json, interruptible, say
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import FOLDER, Outcome
from faceguide.core.errors import EvaluationError
from faceguide.evaluate.evaluation_options import NetworkOptions
from faceguide.evaluate.score.matcher_options import CachedMatcherOptions
from faceguide.evaluate.suite.suite_options import SuiteOptions
from faceguide.preprocess.public_sets.benchmarks import BENCHMARKS, benchmark_list


class _Suite(Command):
    """With `--list`, which needs no folder, weights and run directory."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--list" in args and not {"-h", "--help"} & set(args):
            if "--json" in args:
                echo_json({name: asdict(one) for name, one in BENCHMARKS.items()})
            else:
                click.echo(benchmark_list())
            ctx.exit()
        return super().parse_args(ctx, args)


@click.command("suite", cls=_Suite)
@click.argument("folder", type=FOLDER)
@click.option(
    "--list",
    "listed",
    is_flag=True,
    help="Say of each benchmark what it is, where it is had, how it lies on disk; run none.",
)
@click.option("--dry-run", is_flag=True, help="Say what was found and what is absent; run none.")
@settings(network=NetworkOptions, options=CachedMatcherOptions, suite=SuiteOptions, output=Outcome)
def suite_command(
    folder: Path,
    listed: bool,
    dry_run: bool,
    network: NetworkOptions,
    options: CachedMatcherOptions,
    suite: SuiteOptions,
    output: Outcome,
) -> None:
    """Run the benchmarks that lie in FOLDER, each by its published protocol: one table.

    Sets are known by their own layouts (--list). Photographs are aligned first, into a cache that
    is kept; aligned crops are taken as they are. Each protocol is a run of its own in OUT/runs,
    for `evaluate report` and `compare`. Figures over less than the whole published list are
    marked, and the exit code is 3. Rerun the same command to resume; what is finished is kept.

    \b
    Examples:
      evaluate suite --list
      evaluate suite benchmarks/ --weights ir50.ckpt --out table/ --dry-run
      evaluate suite benchmarks/ --weights ir50.ckpt --only lfw,rfw --caches sets/ --out table/
    """
    from faceguide.evaluate.suite.suite_run import run_suite
    from faceguide.evaluate.suite.suite_table import (
        footnotes,
        rehearsal,
        rehearsal_text,
        write_tables,
    )
    from faceguide.preprocess.public_sets.find_sets import Inventory, find_sets

    options.names()
    with interruptible():
        inventory = find_sets(folder)
        if suite.only:
            inventory = Inventory(
                [one for one in inventory.found if one.benchmark in suite.only],
                [one for one in inventory.doubtful if one.benchmark in (*suite.only, "")],
            )
        if dry_run:
            planned = rehearsal(inventory)
            echo_json(planned) if output.as_json else click.echo(rehearsal_text(planned))
            return
        if not inventory.found:
            lines = [str(one) for one in inventory.doubtful] or [
                f"{BENCHMARKS[name].title} is expected as {BENCHMARKS[name].tree}"
                for name in suite.only
            ]
            text = "; ".join(lines) or "`evaluate suite --list` says how each lies on disk"
            raise EvaluationError(f"{folder}: no known benchmark found; {text}")
        record = run_suite(inventory, network.load(), options, suite)
        text = write_tables(record, suite.out)
    echo_json(record) if output.as_json else click.echo(text)
    unclear = [row for row in record["rows"] if not row["complete"]]
    absent = sorted(set(suite.only) - {one.benchmark for one in inventory.found})
    for name in absent:
        say(f"{name} was not found; it is expected as {BENCHMARKS[name].tree or 'unknown'}")
    if output.as_json:
        for line in footnotes(record):
            say(line)
    if (unclear or absent or inventory.doubtful) and not output.allow_failures:
        raise SomeFailed(
            f"{len(unclear)} of {len(record['rows'])} protocols are incomplete or failed, "
            f"{len(inventory.doubtful) + len(absent)} sets could not be run"
        )
