"""A threshold of clean faces on masked ones: how much of the loss do calibrations take back?

    python bench/transfer.py --data DATA --probes DATA/mfr2_dev --json transfer.json --work WORK

DATA is laid out as for bench/occlusion.py, --probes too. Everything is made by the product's
commands. Thresholds are set on the pairs of LFW folds 0 and 1 and used on the pairs of the
probes, real faces with and without masks. Calibrations are fitted on LFW by `evaluate calibrate`.
Visibility is estimated on both sides (`prep masks --estimate`), by a head that `train oaml --train
occlusion` teaches on photographs with surgical masks and on drawn covers.

For each matcher: accuracy, FMR and FNMR on the probes at LFW's threshold; the gap to the threshold
that the same rule sets on the probes themselves; and what that gap is less than plain cosine's.
Intervals (95 %) resample the identities of both lists, the same draws for all matchers. Cllr (bits)
is what the odds cost that the scores stand for; scores without a calibration get a line.
"""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import occlusion_faces as source
from numpy.typing import NDArray
from robust import command

from faceguide.evaluate.decisions.decide_run import decide
from faceguide.evaluate.decisions.scored_run import ScoredRun
from faceguide.evaluate.decisions.transfer import RankedPairs, rates, thresholds
from faceguide.evaluate.metrics.bootstrap import interval
from faceguide.evaluate.metrics.roc import rank

FARS = (1e-2,)
RULES = ("best accuracy", "equal error rate", "FMR 1e-2")
# Name → options of `evaluate verification`, method of `evaluate calibrate`.
MATCHERS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "cosine": ((), None),
    "cosine, Platt": ((), "platt"),
    "cosine, isotonic": ((), "isotonic"),
    "visible": (("--matcher", "visible-embedding", "--visibility", "cache"), None),
    "visible, calibrated": (
        ("--matcher", "visible-embedding", "--visibility", "cache"),
        "visibility",
    ),
}


@click.command(help=__doc__.splitlines()[0])
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--probes", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--json", "out", type=click.Path(path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), help="Kept caches and runs.")
@click.option("--replicates", default=1000, show_default=True)
def main(data: Path, probes: Path, out: Path, work: Path | None, replicates: int) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = (work or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        runs = scored(data, probes, folder)
        found = measured({name: ranked(both) for name, both in runs.items()}, replicates)
        odds = {name: decide(*both, replicates, 0)["sets"] for name, both in runs.items()}
    out.write_text(json.dumps({"thresholds": found, "odds": odds}, indent=1))
    show(found)
    show_odds(odds)


def scored(data: Path, probes: Path, work: Path) -> dict[str, list[ScoredRun]]:
    """By matcher the run on LFW and that on the probes."""
    weights = data / "weights" / "mobilefacenet.pt"
    caches = {"lfw": source.lfw_faces(data, work), "probes": source.probe_faces(probes, work)}
    masked = source.masked_faces(data, work)
    head = work / "head"
    if not (head / "backbone.safetensors").exists():
        drawn = (word for kind in ("medical", "band", "niqab") for word in ("--occluders", kind))
        command(
            "train", "oaml", str(masked.directory), "--train", "occlusion", "--init", str(weights),
            "--out", str(head), "--device", "cpu", "--batch-size", "8", "--epochs", "40", *drawn,
        )  # fmt: skip
    lists = {"lfw": data / "lfw112_dev" / "pairs.csv", "probes": work / "probes.csv"}
    write_pairs(probes / "pairs.csv", lists["probes"])
    for cache in caches.values():
        command("prep", "masks", "--cache", str(cache.directory), "--estimate", str(head))
    found: dict[str, list[ScoredRun]] = {}
    for name, (words, method) in MATCHERS.items():
        calibration: tuple[str, ...] = ()
        if method is not None:
            file = work / f"{method}.calibration.safetensors"
            seen = ("--visibility", "cache") if method == "visibility" else ()
            if not file.exists():
                command(
                    "evaluate", "calibrate", str(caches["lfw"].directory), "--weights",
                    str(weights), "--method", method, *seen, "--out", str(file),
                    "--device", "cpu",
                )  # fmt: skip
            calibration = ("--calibration", str(file))
        for side, cache in caches.items():
            run = work / f"{name} {side}"
            command(
                "evaluate", "verification", str(cache.directory), "--pairs", str(lists[side]),
                "--weights", str(weights), "--out", str(run), "--device", "cpu", "--bootstrap",
                "0", *words, *calibration,
            )  # fmt: skip
            found.setdefault(name, []).append(ScoredRun.of(run))
    return found


def ranked(runs: list[ScoredRun]) -> list[RankedPairs]:
    return [RankedPairs(rank(run.score, run.same), run.people) for run in runs]


def write_pairs(published: Path, path: Path) -> None:
    """The list of MFR2, whose columns are names and numbers, by file names."""
    with published.open(encoding="utf-8") as file, path.open("w", encoding="utf-8") as to:
        to.write("a,b,same\n")
        for row in csv.DictReader(file):
            sides = [f"{row[s]}/{row[s]}_{int(row[f'{s}_num']):04d}" for s in ("a", "b")]
            to.write(f"{sides[0]},{sides[1]},{row['same']}\n")


def measured(runs: dict[str, list[RankedPairs]], replicates: int) -> dict[str, Any]:
    """By matcher and rule the figures on the probes, with intervals."""

    def figures(number: int | None) -> dict[str, NDArray[np.float64]]:
        """(2, rules, 3) by matcher: FMR, FNMR and accuracy on the probes, and their gaps."""
        found = {}
        for name, (dev, test) in runs.items():
            weights = [(None, None)] * 2
            if number is not None:
                weights = [dev.weights(1, number), test.weights(0, number)]
            here = thresholds(dev.ranking, FARS, *weights[0])
            own = thresholds(test.ranking, FARS, *weights[1])
            at = rates(test.ranking, here, *weights[1])
            found[name] = np.stack([at, at - rates(test.ranking, own, *weights[1])])
        return found

    once, drawn = figures(None), [figures(number) for number in range(replicates)]
    result: dict[str, Any] = {}
    for name in runs:
        each = np.stack([one[name] for one in drawn])
        less = each[:, 1] - np.stack([one["cosine"][1] for one in drawn])
        for place, rule in enumerate(RULES):
            row: dict[str, Any] = {}
            for column, figure in enumerate(("fmr", "fnmr", "accuracy")):
                change = once[name][1] - once["cosine"][1]
                row[figure] = with_interval(once[name][0], each[:, 0], place, column)
                row[f"gap_{figure}"] = with_interval(once[name][1], each[:, 1], place, column)
                row[f"gap_{figure}_less_cosine"] = with_interval(change, less, place, column)
            result.setdefault(name, {})[rule] = row
    return result


def with_interval(
    once: NDArray[np.float64], drawn: NDArray[np.float64], place: int, column: int
) -> list[float | None]:
    bounds = interval(drawn[:, place, column]) or (None, None)
    return [float(once[place, column]), *bounds]


def show(found: dict[str, Any]) -> None:
    def cell(value: list[float], sign: str) -> str:
        return "{:{s}.3f} [{:{s}.3f}, {:{s}.3f}]".format(*value, s=sign).replace("-", "−")

    for rule in RULES:
        click.echo(f"\nthreshold at LFW's {rule}\n")
        click.echo("| matcher | accuracy | FMR | FNMR | gap of accuracy | less cosine's |")
        click.echo("|---|---|---|---|---|---|")
        for name, rows in found.items():
            cells = [cell(rows[rule][figure], "") for figure in ("accuracy", "fmr", "fnmr")]
            cells += [cell(rows[rule][f"gap_accuracy{end}"], "+") for end in ("", "_less_cosine")]
            click.echo(f"| {name} | {' | '.join(cells)} |")


def show_odds(odds: dict[str, Any]) -> None:
    click.echo("\n| matcher | Cllr on LFW | Cllr on the probes | its minimum there |")
    click.echo("|---|---|---|---|")
    for name, sets in odds.items():
        dev, test = sets["dev"], sets["test"]
        low, high = test["intervals"]["cllr"]
        there = f"{test['cllr']:.3f} [{low:.3f}, {high:.3f}]"
        click.echo(f"| {name} | {dev['cllr']:.3f} | {there} | {test['min_cllr']:.3f} |")


if __name__ == "__main__":
    main()
