"""What `evaluate` commands print of a run, and the exit code that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from faceguide.cache.pairs.pair_doubts import is_contradicted
from faceguide.core.commands.console import SomeFailed, echo_json, printable, say
from faceguide.core.commands.doubts import OF_WEIGHTS, Doubts
from faceguide.core.commands.shared_options import Output


def show(command: str, record: dict[str, Any], out: Path, output: Output) -> None:
    """Print the record of a run, or what a part of it has to say.

    Raises:
        SomeFailed: when entries were left out and that is not allowed.
    """
    if "part" in record:
        show_part(record, out, output)
        return
    echo_json(record) if output.as_json else _TEXTS[command](record)
    if command != "embed":
        what = "pairs" if command == "verification" else "images"
        _tell(record, out, output.allow_failures, what)


def show_part(record: dict[str, Any], out: Path, output: Output) -> None:
    """What a part says: what it embedded, and what comes next."""
    if output.as_json:
        echo_json(record)
    index, parts = record["part"]
    if record["waits"]:
        say(
            f"part {index}/{parts}: faces are embedded, others are missing; when all parts have "
            "finished, rerun each for its scores"
        )
    else:
        say(f"part {index}/{parts} done; when all are, `evaluate merge {out} --parts {parts}`")


def _embed(record: dict[str, Any]) -> None:
    click.echo(
        f"{printable(record['store'])}: {record['rows']:,} faces, {record['computed']:,} new; "
        f"{record['without_face']:,} rows without a face"
    )


def _verification(record: dict[str, Any]) -> None:
    from faceguide.evaluate.verification import describe

    click.echo(describe(record))


def _identification(record: dict[str, Any]) -> None:
    click.echo(
        f"{record['gallery']:,} gallery images, {record['probes']:,} probes, "
        f"{record['stranger_probes']:,} of them not enrolled"
    )
    _rates(record)


def _ijb(record: dict[str, Any]) -> None:
    pairs = record["verification"]
    click.echo(f"1:1  {pairs['pairs']:,} pairs of templates; {record['rule']}")
    if pairs["refused"]:
        click.echo(f"no ROC: {pairs['refused']}")
    for far, tar in pairs["tar"].items():
        click.echo(f"TAR@{far}   {'–' if tar is None else f'{100 * tar:.2f} %'}")
    for name, found in record["identification"].items():
        click.echo(f"1:N  gallery {name}")
        _rates(found)


_TEXTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "embed": _embed,
    "verification": _verification,
    "identification": _identification,
    "ijb": _ijb,
}


def _rates(record: dict[str, Any]) -> None:
    """Rank and open-set rates, a line each."""
    for kind, label in (("rank", "rank {}"), ("tpir", "TPIR@FPIR {}")):
        for key, value in record[kind].items():
            text = f"{100 * value:.2f} %" if value is not None else "–"
            why = record["refused"].get(f"{kind} {key}")
            click.echo(f"{label.format(key):16}{text}{f'  ({why})' if why else ''}")


def _tell(record: dict[str, Any], out: Path, allow_failures: bool, what: str) -> None:
    """Warn of shared identities, of doubts, and of entries without a score."""
    from faceguide.evaluate.verification import DOUBTFUL

    shared = record.get("shared_identities")
    if shared and shared["count"]:
        say(
            f"Warning: {shared['count']} identities of this test are in the training set of these "
            f"weights, e.g. {', '.join(shared['names'][:3])}"
        )
    fusion = record.get("fusion") or {}
    for line in Doubts.of(fusion.get("doubts", {})).lines():
        say(f"Warning: of the pairs that the fusion was fitted on, {line}")
    fitted = fusion.get("shared_identities")
    if fitted and fitted["count"]:
        say(
            f"Warning: the fusion was fitted on {fitted['count']} identities of this test, e.g. "
            f"{', '.join(fitted['names'][:3])}; its figures are too good"
        )
    seen = (record.get("calibration") or {}).get("shared_identities")
    if seen and seen["count"]:
        say(
            f"Warning: the calibration was fitted on {seen['count']} identities of this test, e.g. "
            f"{', '.join(seen['names'][:3])}; its figures are too good"
        )
    doubts = Doubts.of(record["doubts"])
    doubts.say(but=OF_WEIGHTS)
    if doubts and (out / DOUBTFUL).exists():
        say(f"{out / DOUBTFUL} names what is doubtful")
    reasons = []
    count = record["left_out"]["count"]
    if count:
        reasons.append(
            f"{count} of {record['listed']} {what} left out; {out / 'left_out.csv'} names them"
        )
    reasons += _serious(record)
    finish(reasons, allow_failures)


def finish(reasons: list[str], allow_failures: bool) -> None:
    """Say what was left out or is grave; the last one fails the command unless that is allowed.

    Raises:
        SomeFailed: with that reason.
    """
    for text in reasons[: None if allow_failures else -1]:
        say(text)
    if reasons and not allow_failures:
        raise SomeFailed(reasons[-1])


def _serious(record: dict[str, Any]) -> list[str]:
    """Doubts that are no reason to stop, and too grave for an exit code of 0."""
    counts = record["doubts"]
    pairs = record.get("verification", record).get("pairs", 0)
    found = []
    if is_contradicted(counts, pairs):
        found.append(f"More than 1 % of the {pairs:,} pairs contradict what is known of them")
    if counts.get("not_enrolled"):
        found.append("No probe's identity is enrolled")
    return found
