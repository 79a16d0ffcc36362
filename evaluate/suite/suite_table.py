"""The suite's results as one table, with published figures next to it, and the list of sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faceguide.core.commands.console import printable
from faceguide.core.commands.doubts import OF_WEIGHTS, Doubts
from faceguide.core.files import write_bytes
from faceguide.evaluate.report.tables import Table, between, percent, to_csv, to_latex, to_text
from faceguide.evaluate.suite.published import published_of
from faceguide.preprocess.public_sets.find_sets import Inventory
from faceguide.preprocess.public_sets.found_set import named

# Columns in their order; those that no row fills are left out.
_SHOWN = (
    *("accuracy", "AUC", "EER", "TAR@1e-2", "TAR@1e-3", "TAR@1e-4", "TAR@1e-5", "TAR@1e-6"),
    *("rank 1", "rank 5", "rank 20"),
)
MARK = "*"  # of figures that are not those of the whole published list


def results(record: dict[str, Any]) -> Table:
    """Header and rows, all texts: a protocol a row, figures in per cent with their intervals."""
    rows = record["rows"]
    shown = [name for name in _SHOWN if any(row["figures"].get(name) is not None for row in rows)]
    table = []
    for row in rows:
        mark = "" if row["complete"] else MARK
        cells = [f"{row['set']}{mark}", row["protocol"]]
        cells += ["–" if row[count] is None else str(row[count]) for count in ("listed", "used")]
        for name in shown:
            value, interval = row["figures"].get(name), row["intervals"].get(name)
            cells.append(
                f"{percent(value)} {between(interval)}".strip() if value is not None else ""
            )
        table.append(list(map(printable, cells)))
    return ["set", "protocol", "listed", "used", *shown], table


def footnotes(record: dict[str, Any]) -> list[str]:
    """Why rows are marked, what is doubtful about them, and what was found and cannot be run."""
    lines = []
    for row in record["rows"]:
        name = ", ".join(filter(None, (row["set"], row["protocol"])))
        if row["error"]:
            lines.append(f"{name}: failed: {row['error']}")
            continue
        if row["left_out"]["count"]:
            reasons = ", ".join(f"{n} {why}" for why, n in row["left_out"]["reasons"].items())
            lines.append(
                f"{MARK} {name}: incomplete, {row['left_out']['count']} of {row['listed']} left "
                f"out ({reasons}); {row['run']}/left_out.csv names them"
            )
        shared = row["shared_identities"]
        if shared and shared["count"]:
            lines.append(
                f"{name}: {shared['count']} of its identities are in the training set of these "
                f"weights, e.g. {', '.join(shared['names'][:3])}"
            )
        kinds = {kind: n for kind, n in row["doubts"].items() if kind not in OF_WEIGHTS}
        lines += [f"{name}: {line}" for line in Doubts.of(kinds).lines()]
    notes = {(row["set"], note): None for row in record["rows"] for note in row["notes"]}
    lines += [f"{MARK} {name}: not the published figure: {note}" for name, note in notes]
    return [printable(line) for line in (*lines, *record["doubtful"])]


def comparison(record: dict[str, Any]) -> Table:
    """Published figures of the sets that were run, and those of this run, in per cent."""
    here = {row["benchmark"]: row for row in reversed(record["rows"]) if not row["error"]}
    table = []
    for one in published_of(set(here)):
        row = here[one.benchmark]
        value = row["figures"].get(one.figure)
        own = "–" if value is None else percent(value) + ("" if row["complete"] else MARK)
        table.append([one.benchmark, one.figure, one.network, f"{one.value:.2f}", own, one.source])
    return ["set", "figure", "network", "published", "here", "source"], table


def write_tables(record: dict[str, Any], out: Path) -> str:
    """Write suite.csv, suite.tex and published.csv; the same as text for a terminal."""
    table, others = results(record), comparison(record)
    write_bytes(out / "suite.csv", to_csv(table).encode("utf-8", "surrogateescape"))
    caption = f"Matcher {record['matcher']}; per cent, 95 % intervals over identities."
    if any(not row["complete"] for row in record["rows"]):
        caption += f" {MARK} not the whole published list."
    write_bytes(out / "suite.tex", to_latex(table, caption).encode("utf-8"))
    write_bytes(out / "published.csv", to_csv(others).encode("utf-8"))
    parts = [to_text(table), *(["\n".join(footnotes(record))] if footnotes(record) else [])]
    if others[1]:
        parts.append("Published figures of other networks:\n" + to_text(others))
    return "\n\n".join(parts)


def rehearsal(inventory: Inventory) -> dict[str, Any]:
    """What would be run: each set with its protocols and the images that are absent."""
    sets = []
    for name, found in named(inventory.found):
        protocols = []
        for protocol in found.protocols:
            if protocol in found.pairs:
                listed = found.pairs[protocol]
                names = set(listed.first) | set(listed.second)
                count = {"pairs": len(listed)}
            elif protocol in found.searches:
                lists = found.searches[protocol]
                names = {image for image, _ in lists.gallery + lists.probes}
                count = {"gallery": len(lists.gallery), "probes": len(lists.probes)}
            else:
                names, count = set(), {}
            absent = sorted(names - set(found.images)) if found.form == "images" else []
            about = {"absent_images": len(absent), "first_absent": absent[:3]}
            protocols.append({"protocol": protocol, **count, **about})
        sets.append(
            {
                "set": name,
                "place": str(found.place),
                "images": len(found.images),
                "protocols": protocols,
                "notes": list(found.notes),
            }
        )
    return {"sets": sets, "doubtful": [str(one) for one in inventory.doubtful]}


def rehearsal_text(found: dict[str, Any]) -> str:
    """`rehearsal` as lines."""
    lines = []
    for one in found["sets"]:
        lines.append(
            f"{one['set']}  {one['place']}" + f"  {one['images']:,} images" * bool(one["images"])
        )
        for protocol in one["protocols"]:
            counts = ", ".join(
                f"{protocol[what]:,} {what}"
                for what in ("pairs", "gallery", "probes")
                if what in protocol
            )
            if protocol["absent_images"]:
                counts += f", {protocol['absent_images']:,} images absent: "
                counts += ", ".join(protocol["first_absent"])
            lines.append(f"  {protocol['protocol'] or 'its protocol'}: {counts}")
        lines += [f"  {note}" for note in one["notes"]]
    return "\n".join(map(printable, [*lines, *found["doubtful"]]))
