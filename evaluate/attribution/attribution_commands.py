"""`evaluate attribution`, `methods` and `diff`; registered by `evaluate/cli.py`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from faceguide.cache.pairs.pair_doubts import is_contradicted
from faceguide.core.commands.console import (
    SomeFailed,
    echo_json,
    interruptible,
    printable,
    say,
)
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.option_types import device_option
from faceguide.evaluate.command_output import show_part
from faceguide.evaluate.evaluation_options import (
    EXISTING,
    FILE,
    FOLDER,
    OUT,
    colour_option,
    part_option,
)


def register(group: click.Group) -> None:
    """Add the commands of this folder to a group."""
    for command in (attribution_command, methods_command, diff_command):
        group.add_command(command)


def _names(context: click.Context, option: click.Parameter, value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip())


@click.command("attribution")
@click.argument("directory", metavar="CACHE", type=FOLDER)
@click.option("--pairs", type=FILE, required=True, help="The list of pairs.")
@click.option("--split", help="Of ND-TWIN's pairs: train, val or test.")
@click.option("--backbone", help="Its name, or module:function; a training run knows it.")
@click.option("--weights", type=EXISTING, required=True, help="A weights file or a training run.")
@colour_option
@click.option("--matcher", default="cosine", show_default=True, help="Of evaluate verification.")
@click.option(
    "--methods",
    callback=_names,
    default="standard",
    show_default=True,
    help="Names or module:function, separated by commas, see `evaluate methods`; all: every one "
    "that suits the network; standard: without geodesic-weighted.",
)
@click.option("--out", type=OUT, required=True, help="Run directory.")
@click.option(
    "--protocol",
    type=click.Choice(("matched", "threshold")),
    default="matched",
    show_default=True,
    help="threshold: an earlier rule whose regions differ in area; to reproduce its figures.",
)
@click.option(
    "--infills",
    callback=_names,
    default="blur,other",
    show_default=True,
    help="What takes a cell's place: blur, mean, face, other.",
)
@click.option(
    "--metrics",
    callback=_names,
    default="",
    help="deletion, insertion, srg, sensitivity, infidelity, randomisation, swap.",
)
@click.option("--steps", type=click.IntRange(1), default=20, show_default=True, help="Of IG.")
@click.option(
    "--quadrature",
    type=click.Choice(("adaptive", "gauss-legendre")),
    default="adaptive",
    show_default=True,
    help="Of IG; gauss-legendre: captum's, to compare with figures made by it.",
)
@click.option(
    "--samples", type=click.IntRange(1), default=16, show_default=True, help="SmoothGrad."
)
@click.option(
    "--baseline",
    type=click.Choice(("black", "blur", "grey")),
    default="black",
    show_default=True,
    help="Where paths begin.",
)
@click.option("--delta", type=float, default=0.0, show_default=True, help="Required margin.")
@click.option("--tau-high", type=float, default=0.75, show_default=True, help="Radians.")
@click.option("--tau-low", type=float, default=0.55, show_default=True, help="Radians.")
@click.option("--epsilon", type=float, default=0.15, show_default=True, help="Radians.")
@click.option("--bootstrap", type=click.IntRange(0), default=1000, show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Draw so many pairs, for a first look.")
@part_option
@click.option(
    "--block",
    type=click.IntRange(1),
    help="Probes of a block, which is kept whole.  [default: about a minute's]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Images of one backward pass; more for a GPU.",
)
@device_option
@click.option("--seed", type=int, default=0, show_default=True, help="Of all draws.")
@click.option("--dry-run", is_flag=True, help="Check, count and estimate the time; no run.")
@click.option("--overwrite", is_flag=True, help="Replace another run in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print results.json.")
def attribution_command(
    directory: Path,
    pairs: Path,
    split: str | None,
    backbone: str | None,
    weights: Path,
    colour: str | None,
    methods: tuple[str, ...],
    out: Path,
    part: tuple[int, int],
    device: str,
    dry_run: bool,
    overwrite: bool,
    as_json: bool,
    **rest: Any,
) -> None:
    """Test attribution maps of pairs of faces of CACHE: do they name the cells that matter?

    Every cell of a probe is replaced alone by realistic infills and the change of the score kept;
    a map is falsified when the cells it calls important change the score no more than those it
    calls unimportant. Controls run along. Running the same command again goes on where it stopped;
    with --part, `evaluate merge` writes the results.

    \b
    Examples:
      evaluate attribution cache/ --pairs pairs.csv --backbone mobilefacenet \\
        --weights mobilefacenet.pt --methods grad-cam,lrp --limit 10 --out maps/
      evaluate attribution cache/ --pairs pairs.csv --weights run/ --part 3/20 --out maps/
    """
    start = time.perf_counter()
    from faceguide.cache.reader import FaceCache
    from faceguide.evaluate.attribution import run
    from faceguide.evaluate.attribution.attribution_options import Options
    from faceguide.evaluate.attribution.methods.maps import Settings
    from faceguide.evaluate.attribution.protocol.preparation import prepare
    from faceguide.evaluate.score.network import (
        load_network,
        on_device,
    )

    options = Options(
        matcher=rest["matcher"],
        protocol=rest["protocol"],
        infills=rest["infills"],
        measures=rest["metrics"],
        limit=rest["limit"],
        block=rest["block"],
        delta=rest["delta"],
        tau_high=rest["tau_high"],
        tau_low=rest["tau_low"],
        epsilon=rest["epsilon"],
        replicates=rest["bootstrap"],
        method=Settings(
            steps=rest["steps"],
            quadrature=rest["quadrature"],
            samples=rest["samples"],
            baseline=rest["baseline"],
            chunk=rest["batch_size"],
            seed=rest["seed"],
        ),
    )
    options.check()
    cache = FaceCache.open(directory)
    place = on_device(device)
    network = load_network(backbone, weights, place, colour)
    for note in network.notes:
        say(note)
    network.doubts.say()
    with interruptible():
        ready = prepare(
            *(cache, network, pairs, split, methods, options), part=part, device=place, say=say
        )
        cost = ready.estimate(out, options.replicates, time.perf_counter() - start)
        if dry_run:
            text = "nothing is left to compute" if cost is None else cost.text()
            found = None if cost is None else {**asdict(cost), "doubts": ready.doubtful}
            echo_json(found) if as_json else click.echo(text)
            return
        if cost is not None:
            say(cost.text())
        record = run.run(
            *(ready, network, pairs, split, options, out),
            overwrite=overwrite,
            progress=lambda what, total: tqdm(total=total, unit=f" {what}", disable=None).update,
        )
    if record is None:
        show_part({"part": part, "waits": False}, out, as_json)
    else:
        show_results(record, out, as_json, said=ready.doubts)


@click.command("methods")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
def methods_command(as_json: bool) -> None:
    """List the attribution methods: cost in forwards per probe, needs, source.

    A backward pass counts as two forwards. Controls run with every evaluation.

    \b
    Example:
      evaluate methods
    """
    from faceguide.evaluate.attribution.methods.method_table import table
    from faceguide.evaluate.attribution.protocol.responses import table_forwards
    from faceguide.evaluate.report.tables import to_text

    rows = table()
    if as_json:
        echo_json(rows)
        return
    header = ["method", "needs", "forwards"]
    cells = [
        [row["method"], row["needs"], f"{row['forwards']:.0f}{'*' * row['shares_pass']}"]
        for row in rows
    ]
    click.echo(to_text((header, cells)))
    click.echo("\n* one pass for all of these together")
    costly = ", ".join(row["method"] for row in rows if row["costly"])
    click.echo(f"--methods standard leaves out {costly}")
    click.echo(f"response table, shared by all: {table_forwards(2)} forwards per probe")
    click.echo("\n".join(f"{row['method']}: {row['citation']}" for row in rows))


@click.command("diff")
@click.argument("first", metavar="RUN", type=FOLDER)
@click.argument("second", metavar="RUN", type=FOLDER)
@click.option("--tolerance", type=click.FloatRange(0), default=1e-6, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diff_command(first: Path, second: Path, tolerance: float, as_json: bool) -> None:
    """Say whether two runs of `evaluate attribution` agree, and where not; exit 1 if not.

    \b
    Example:
      evaluate diff maps/ maps-again/
    """
    from faceguide.evaluate.attribution.pages import attribution_tables
    from faceguide.evaluate.attribution.pages.difference import compare_runs

    found = compare_runs(first, second, tolerance)
    echo_json(found) if as_json else click.echo(
        printable_lines(attribution_tables.difference_text(found))
    )
    if not found["agree"]:
        raise click.exceptions.Exit(1)


def printable_lines(text: str) -> str:
    """The text with control characters escaped, except line ends."""
    return "\n".join(printable(line) for line in text.splitlines())


def show_results(
    record: dict[str, Any],
    out: Path,
    as_json: bool,
    allow_failures: bool = False,
    said: Doubts | None = None,
) -> None:
    """Print results.json or its table, and what is doubtful.

    Args:
        record: of results.json.
        out: the run directory.
        as_json: print one JSON object.
        allow_failures: pairs that were left out are no reason for another exit code.
        said: doubts that stderr has had before the run began.

    Raises:
        SomeFailed: when pairs were left out or maps failed and that is not allowed, or when more
            pairs contradict the labels than noise explains.
    """
    from faceguide.evaluate.attribution.pages import attribution_tables
    from faceguide.evaluate.attribution.protocol import separation

    echo_json(record) if as_json else click.echo(attribution_tables.method_text(record))
    doubts = Doubts()
    for kind, count in record["doubts"].items():
        if kind != "network_does_not_separate" and (said is None or kind not in said.counts()):
            doubts.add(kind, count=count)
    doubts.say()
    if said is None and as_json and (text := separation.sentence(record["network"])):
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
    if parts and not allow_failures:
        raise SomeFailed("; ".join(parts))
    if parts:
        say("; ".join(parts))
