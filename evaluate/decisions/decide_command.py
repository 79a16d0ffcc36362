"""The command `evaluate decide`; registered by the group in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from faceguide.core.commands.console import Command, echo_json, interruptible, printable
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import FOLDER, Output, Seed
from faceguide.core.files import write_json
from faceguide.evaluate.evaluation_options import Tables
from faceguide.evaluate.report.tables import Table, between, percent, save_table, to_text


@click.command("decide", cls=Command)
@click.argument("dev", metavar="DEV_RUN", type=FOLDER)
@click.argument("test", metavar="TEST_RUN", type=FOLDER)
@settings(made=Tables, random=Seed, output=Output)
def decide_command(dev: Path, test: Path, made: Tables, random: Seed, output: Output) -> None:
    """Set thresholds on DEV_RUN and use them on TEST_RUN, two runs of `evaluate verification`.

    Printed: FMR, FNMR and accuracy on both; the gap to the threshold that the same rule sets on the
    test itself; EER, FMR100, FMR1000, Cllr and minCllr of both. Intervals resample the
    identities of both lists. Runs without --calibration get log-likelihood ratios from a line that
    is fitted on DEV_RUN. Writes decisions.json, tables (CSV, LaTeX), det.pdf and det.png.

    \b
    Examples:
      evaluate decide lfw/ mfr2/ --out transfer/
      evaluate decide lfw-calibrated/ mfr2-calibrated/ --out transfer-calibrated/ --json
    """
    from faceguide.evaluate.decisions.decide_run import decide
    from faceguide.evaluate.decisions.scored_run import ScoredRun
    from faceguide.evaluate.metrics.roc import curve, rank
    from faceguide.evaluate.report.compare import run_names
    from faceguide.evaluate.report.figures import det_figure, save

    made.check()
    names = [printable(name) for name in run_names([dev, test])]
    with interruptible():
        runs = ScoredRun.of(dev), ScoredRun.of(test)
        record = decide(*runs, made.replicates, random.seed)
        made.out.mkdir(parents=True, exist_ok=True)
        write_json(made.out / "decisions.json", record)
        of = f"Thresholds of {names[0]} on {names[1]}, per cent."
        shown = {
            "thresholds": (_thresholds(record), of),
            "gaps": (_gaps(record), f"{of[:-11]}: less errors at its own thresholds, per cent."),
            "sets": (_sets(record, names), "Errors in per cent, Cllr in bits."),
        }
        for stem, (table, caption) in shown.items():
            save_table(table, caption, made.out, stem)
        rankings = [rank(run.score, run.same) for run in runs]
        curves = {name: curve(one) for name, one in zip(names, rankings, strict=True)}
        least = min(1.0 / len(one.impostor) for one in rankings)
        marks = {
            name: [(rule[side]["fmr"], rule[side]["fnmr"]) for rule in record["thresholds"]]
            for name, side in zip(names, ("dev", "test"), strict=True)
        }
        save(det_figure(curves, least, marks), made.out, "det")
    if output.as_json:
        echo_json(record)
    else:
        click.echo("\n\n".join(to_text(table) for table, _ in shown.values()))
        click.echo(f"log-likelihood ratios of Cllr: {printable(record['llr'])}")
    Doubts.of(record["doubts"]).say()


def _thresholds(record: dict[str, Any]) -> Table:
    header = ["threshold of DEV", "score", "FMR there", "FNMR there", "FMR of TEST", "interval"]
    header += ["FNMR of TEST", "interval", "accuracy of TEST", "interval"]
    rows = []
    for rule in record["thresholds"]:
        cells = [rule["at"], f"{rule['threshold']:.4f}"]
        cells += [percent(rule["dev"][name]) for name in ("fmr", "fnmr")]
        for name in ("fmr", "fnmr", "accuracy"):
            cells += [percent(rule["test"][name]), between(rule["test_intervals"][name])]
        rows.append(cells)
    return header, rows


def _gaps(record: dict[str, Any]) -> Table:
    header = ["gap on TEST", "own score", "FMR", "interval", "FNMR", "interval", "accuracy"]
    header += ["interval"]
    rows = []
    for rule in record["thresholds"]:
        if rule["gap"] is None:
            rows.append([rule["at"], *["–", ""] * 3, ""])
            continue
        cells = [rule["at"], f"{rule['own_threshold']:.4f}"]
        for name in ("fmr", "fnmr", "accuracy"):
            cells += [percent(rule["gap"][name]), between(rule["gap_intervals"][name])]
        rows.append(cells)
    return header, rows


def _sets(record: dict[str, Any], names: list[str]) -> Table:
    header = ["list", "run", "identities", "genuine", "impostors", "EER", "interval"]
    header += ["FMR100", "interval", "FMR1000", "interval"]
    header += ["minCllr", "Cllr", "interval"]
    rows = []
    for name, (side, found) in zip(names, record["sets"].items(), strict=True):
        cells = [side.upper(), name]
        cells += [f"{found[count]:,}" for count in ("identities", "genuine", "impostors")]
        for figure in ("eer", "fmr100", "fmr1000"):
            cells += [percent(found[figure]), between(found["intervals"][figure])]
        ends = found["intervals"]["cllr"]
        cells += [f"{found['min_cllr']:.3f}", f"{found['cllr']:.3f}"]
        cells += ["" if ends is None else f"[{ends[0]:.3f}, {ends[1]:.3f}]"]
        rows.append(cells)
    return header, rows
