"""`evaluate attribution`, `methods` and `diff`; registered by `evaluate/cli.py`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from faceguide.cache.pairs.pair_doubts import is_contradicted
from faceguide.core.commands.console import Command, echo_json, interruptible, printable, say
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import CACHES, FOLDER, Output
from faceguide.evaluate.attribution.attribution_options import AttributionPlace, Options
from faceguide.evaluate.command_output import finish, show_part
from faceguide.evaluate.evaluation_options import NetworkOptions, PairOptions, progress_bar


def register(group: click.Group) -> None:
    """Add the commands of this folder to a group."""
    for command in (attribution_command, methods_command, diff_command):
        group.add_command(command)


@click.command("attribution", cls=Command)
@click.argument("directory", metavar="CACHE", type=CACHES)
@settings(listed=PairOptions, network=NetworkOptions, options=Options, place=AttributionPlace)
def attribution_command(
    directory: Path,
    listed: PairOptions,
    network: NetworkOptions,
    options: Options,
    place: AttributionPlace,
) -> None:
    """Rank attribution methods on faces of CACHE: do their maps know whose part is whose?

    Each face is composed of two identities of the list, and is explained against a photograph of
    either: a good map finds the part of the one it is asked about. With --protocol matched, and
    for short lists, the pairs themselves are explained, and maps are compared with what each cell
    does to the score. Control maps are tested alongside. Rerun the same command to resume; with
    --part, `evaluate merge` writes the results.

    \b
    Examples:
      evaluate attribution cache/ --pairs pairs.csv --backbone mobilefacenet \\
        --weights mobilefacenet.pt --methods hirescam,lrp --limit 100 --out maps/
      evaluate attribution cache/ --pairs pairs.csv --weights run/ --part 3/20 --out maps/
    """
    start = time.perf_counter()
    from faceguide.cache.reader import FaceCache
    from faceguide.evaluate.attribution import run
    from faceguide.evaluate.attribution.protocol.preparation import prepare

    options.check()
    cache = FaceCache.open(directory)
    loaded = network.load()
    out, part = place.out, place.part
    with interruptible():
        ready = prepare(cache, loaded, listed, place.methods, options, part, place.anyway)
        cost = ready.estimate(out, options.replicates, time.perf_counter() - start)
        if place.dry_run:
            text = "nothing is left to compute" if cost is None else cost.text()
            found = None if cost is None else {**asdict(cost), "doubts": ready.doubtful}
            echo_json(found) if place.as_json else click.echo(text)
            return
        if cost is not None:
            say(cost.text())
        record = run.run(
            ready, loaded, listed, out, overwrite=place.overwrite, progress=progress_bar
        )
    if record is None:
        show_part({"part": part, "waits": False}, out, place)
    else:
        show_results(record, out, place, said=ready.doubts)


@click.command("methods", cls=Command)
@settings(output=Output)
def methods_command(output: Output) -> None:
    """List the attribution methods: what they need and claim, forwards per pair, source.

    A backward pass counts as two forwards. Controls run with every evaluation.

    \b
    Example:
      evaluate methods
    """
    from faceguide.evaluate.attribution.methods.method_table import table
    from faceguide.evaluate.attribution.protocol.responses import table_forwards
    from faceguide.evaluate.report.tables import to_text

    rows = table()
    if output.as_json:
        echo_json(rows)
        return
    header = ["method", "needs", "claims", "forwards"]
    claims = {True: "direction", False: "magnitude"}
    cells = [
        [row["method"], row["needs"], claims[row["signed"]], f"{row['forwards']:.0f}"]
        for row in rows
    ]
    click.echo(f"{to_text((header, cells))}\n")
    costly = ", ".join(row["method"] for row in rows if row["costly"])
    click.echo(f"--methods standard leaves out {costly}")
    click.echo(f"--protocol matched, response table of all: {table_forwards(2)} per probe")
    click.echo("\n".join(f"{row['method']}: {row['citation']}" for row in rows))


@click.command("diff", cls=Command)
@click.argument("first", metavar="RUN", type=FOLDER)
@click.argument("second", metavar="RUN", type=FOLDER)
@click.option("--tolerance", type=click.FloatRange(0), default=1e-6, show_default=True)
@settings(output=Output)
def diff_command(first: Path, second: Path, tolerance: float, output: Output) -> None:
    """Compare two runs of `evaluate attribution`; exit 1 if they differ.

    \b
    Example:
      evaluate diff maps/ other-maps/
    """
    from faceguide.evaluate.attribution.pages import attribution_tables
    from faceguide.evaluate.attribution.pages.difference import compare_runs

    found = compare_runs(first, second, tolerance)
    lines = attribution_tables.difference_text(found).splitlines()
    echo_json(found) if output.as_json else click.echo("\n".join(map(printable, lines)))
    if not found["agree"]:
        raise click.exceptions.Exit(1)


def show_results(
    record: dict[str, Any],
    out: Path,
    output: Output,
    said: Doubts | None = None,
) -> None:
    """Print results.json or its table, and what is doubtful.

    Args:
        said: doubts that stderr has had before the run began.

    Raises:
        SomeFailed: when pairs were left out or maps failed and that is not allowed, or when more
            pairs contradict the labels than noise explains.
    """
    from faceguide.evaluate.attribution.pages import attribution_tables, chimera_tables
    from faceguide.evaluate.attribution.protocol import separation

    if output.as_json:
        echo_json(record)
    elif record["protocol"] == "chimera":
        click.echo(chimera_tables.chimera_text(record))
    else:
        click.echo(attribution_tables.method_text(record))
    separation.other_doubts(record["doubts"]).say(but=said.counts() if said else ())
    if said is None and output.as_json and (text := separation.sentence(record["network"])):
        say(f"Warning: {text}")
    left = record["pairs"]["left_out"]
    failed = sum(found["verdicts"]["error"] for found in record["methods"].values())
    parts = []
    if left:
        parts.append(f"{left} pairs are left out; {out / 'left_out.csv'} names them")
    if failed:
        parts.append(f"{failed} maps failed; {out / 'pairs.csv'} names them")
    if is_contradicted(record["doubts"], record["pairs"]["listed"] - left):
        parts.append("more than 1 % of the pairs contradict what is known of them")
    finish(["; ".join(parts)] if parts else [], output.allow_failures)
