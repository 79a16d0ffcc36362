"""The command `evaluate occluded`; registered by the group in `cli`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import Command, echo_json, interruptible
from faceguide.core.commands.doubts import OF_WEIGHTS, Doubts
from faceguide.core.commands.settings import option, settings
from faceguide.core.commands.shared_options import CACHES, FOLDER, Outcome, Seed
from faceguide.core.files import write_bytes, write_json
from faceguide.evaluate.command_output import finish
from faceguide.evaluate.evaluation_options import NetworkOptions, PairOptions, Tables, progress_bar
from faceguide.evaluate.report.tables import Table, between, percent, save_table, to_text
from faceguide.evaluate.score.matcher_options import CalibrationFile, VisibilitySource
from faceguide.train.training_settings import KINDS

if TYPE_CHECKING:
    from faceguide.train.models.loading.network import Network


@dataclass(frozen=True, kw_only=True)
class CoverOptions(Seed, VisibilitySource, CalibrationFile):
    """What is laid over the faces."""

    covers: tuple[str, ...] = option(
        KINDS, "Kinds of drawn covers; may be repeated.", type=click.Choice(KINDS), multiple=True
    )
    pictures: Path | None = option(
        None, "Folder of PNG occluders with occlusions.csv, as OCFR-2022 has it, in their place.",
        type=FOLDER,
    )  # fmt: skip
    strength: tuple[float, ...] = option(
        (0.25, 0.5, 0.75, 1.0), "Share of a cover that is laid; may be repeated.",
        type=click.FloatRange(0, 1, min_open=True), multiple=True,
    )  # fmt: skip


@click.command("occluded", cls=Command)
@click.argument("directory", metavar="CACHE", type=CACHES)
@settings(
    listed=PairOptions, network=NetworkOptions, asked=CoverOptions, made=Tables, output=Outcome
)
def occluded_command(
    directory: Path,
    listed: PairOptions,
    network: NetworkOptions,
    asked: CoverOptions,
    made: Tables,
    output: Outcome,
) -> None:
    """Cover the first face of each of CACHE's pairs; print accuracy by the share that is covered.

    Covers have exact masks and depend on the seed and the face only. Every matcher that the network
    has is scored: cosine, visible-embedding with these masks (or the occlusion head's), a
    trained QAConv, and the matcher of --calibration with its scores calibrated. Decisions are by
    the thresholds of the uncovered pairs. Writes occluded.json, tables (CSV, LaTeX),
    accuracy.pdf, accuracy.png and covers.png, examples to look at.

    \b
    Examples:
      evaluate occluded lfw/ --pairs pairs.txt --weights mobilefacenet.pt --out lfw-occluded/
      evaluate occluded lfw/ --pairs pairs.txt --weights run/ --covers niqab --out niqab/
      evaluate occluded lfw/ --pairs pairs.txt --weights run/ --pictures OCFR/occluders --out ocfr/
    """
    import numpy as np

    from faceguide.evaluate.report.figures import save, shown_figure

    made.check()
    cache = FaceCache.open(directory)
    with interruptible():
        record, left_out = _record(cache, listed, network.load(), asked, made)
        write_json(made.out / "occluded.json", record)
        shown = {
            "occluded": (_figures(record), "Accuracy and TAR by covered share of the face."),
            "differences": (_differences(record), "Differences with 95 % intervals."),
        }
        for stem, (table, caption) in shown.items():
            save_table(table, caption, made.out, stem)
        parts = [part for part in record["parts"] if "matchers" in part]
        curves = {
            name: np.array(
                [
                    [
                        1 - part["mean_covered"],
                        part["matchers"][name]["accuracy"],
                        *(
                            part["matchers"][name]["intervals"]["accuracy"]
                            or [part["matchers"][name]["accuracy"]] * 2
                        ),
                    ]
                    for part in parts
                ]
            )
            for name in record["matchers"]
        }
        save(shown_figure(curves), made.out, "accuracy")
    if output.as_json:
        echo_json(record)
    else:
        click.echo("\n\n".join(to_text(table) for table, _ in shown.values()))
    Doubts.of(record["doubts"]).say(but=OF_WEIGHTS)
    finish(left_out, output.allow_failures)


def _record(
    cache: FaceCache, listed: PairOptions, network: Network, asked: CoverOptions, made: Tables
) -> tuple[dict[str, Any], list[str]]:
    """The record, and a line where pairs were left out."""
    from faceguide.cache.pairs.pair_doubts import pair_doubts
    from faceguide.cache.pairs.pair_lists import read_pairs
    from faceguide.cache.pairs.pair_rows import clusters, resolve
    from faceguide.core.errors import EvaluationError
    from faceguide.evaluate.calibrate.calibration_file import read_calibration
    from faceguide.evaluate.metrics.strata import LEAST
    from faceguide.evaluate.occluded.by_covered_share import FAR, by_covered_share
    from faceguide.evaluate.occluded.cover_sheet import cover_sheet
    from faceguide.evaluate.occluded.covered_scores import covered_scores
    from faceguide.evaluate.occluded.laid_covers import LaidCovers
    from faceguide.evaluate.occluded.picture_covers import read_pictures
    from faceguide.evaluate.score.face_reader import covers_source
    from faceguide.evaluate.score.prepare import provenance
    from faceguide.evaluate.verification import write_left_out

    pictures = () if asked.pictures is None else read_pictures(asked.pictures)
    covers = LaidCovers(asked.covers, pictures, asked.seed)
    pairs = read_pairs(listed.pairs, listed.split)
    rows = resolve(cache, pairs)
    genuine = int(rows.same.sum())
    if min(genuine, len(rows) - genuine) < LEAST:
        raise EvaluationError(
            f"{listed.pairs}: expected {LEAST} pairs of one identity and of two or more with both "
            f"images in {cache.directory}, found {genuine} and {len(rows) - genuine}"
        )
    source = covers_source(asked.visibility, network, cache)
    rule = None if asked.calibration is None else read_calibration(asked.calibration)
    strengths = tuple(sorted(set(asked.strength)))
    people, _ = clusters(cache, rows.probe, rows.reference, rows.same)
    levels = list(
        covered_scores(
            cache, network, rows, covers, strengths, source, rule,
            progress_bar("faces", len(set(rows.probe)) * len(strengths)),
        )
    )  # fmt: skip
    parts = by_covered_share(levels, rows.same, rows.fold, people, made.replicates, asked.seed)
    doubts = pair_doubts(cache, pairs, rows).doubts
    doubts.update(network.doubts)
    if rule is not None and asked.calibration is not None:
        doubts.update(rule.doubts(asked.calibration, network, source, flip=True))
    made.out.mkdir(parents=True, exist_ok=True)
    lost = write_left_out(made.out, rows.left_out)
    write_bytes(made.out / "covers.png", cover_sheet(cache, rows.probe, covers, strengths))
    record = {
        **provenance(cache, network),
        "pairs": len(rows),
        "left_out": lost,
        "covers": [picture.name for picture in pictures] or list(asked.covers),
        "strengths": strengths,
        "visibility": "exact" if source == "cache" else "head",
        "calibration": asked.calibration and str(asked.calibration.resolve()),
        "matchers": list(levels[0].scores),
        "far": FAR,
        "replicates": made.replicates,
        "seed": asked.seed,
        "parts": parts,
        "doubts": doubts.counts(),
    }
    what = (
        f"{lost['count']} of {rows.listed} pairs left out; {made.out / 'left_out.csv'} names them"
    )
    return record, [what] if lost["count"] else []


def _covered(part: dict[str, Any]) -> str:
    low, high = part["covered"]
    return "nothing" if high == 0 else f"{100 * low:.0f}–{100 * high:.0f} %"


def _figures(record: dict[str, Any]) -> Table:
    header = ["covered", "matcher", "mean covered", "pairs", "accuracy", "interval", "AUC"]
    header += ["TAR@1e-2", "interval"]
    rows = []
    for part in record["parts"]:
        for name in record["matchers"]:
            found = part.get("matchers", {}).get(name, {})
            ends = found.get("intervals", {})
            rows.append(
                [
                    _covered(part), name, percent(part["mean_covered"], 1), f"{part['pairs']:,}",
                    percent(found.get("accuracy")), between(ends.get("accuracy")),
                    percent(found.get("auc")), percent(found.get("tar")), between(ends.get("tar")),
                ]
            )  # fmt: skip
    return header, rows


def _differences(record: dict[str, Any]) -> Table:
    header = ["covered", "first", "second", "Δ accuracy", "Δ AUC", "Δ TAR@1e-2"]
    rows = []
    for part in record["parts"]:
        for found in part.get("differences", []):
            cells = [_covered(part), found["first"], found["second"]]
            for figure in ("accuracy", "auc", "tar"):
                one = found.get(figure)
                cells.append(
                    "–" if one is None
                    else f"{percent(one['difference'])} {between(one['interval'])}".strip()
                )  # fmt: skip
            rows.append(cells)
    return header, rows
