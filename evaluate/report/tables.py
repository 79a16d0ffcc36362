"""One record, three tables: CSV, LaTeX, and the JSON that they were made of."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from faceguide.core.commands.console import printable
from faceguide.core.files import write_bytes

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}
_SPECIAL = re.compile("|".join(map(re.escape, _LATEX)))
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

Table = tuple[list[str], list[list[str]]]


def percent(value: float | None, digits: int = 2) -> str:
    """A share as a percentage, or a dash where there is no figure."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def between(found: list[float] | None, digits: int = 2) -> str:
    """An interval of a share in per cent, or nothing where there is none."""
    return f"[{percent(found[0], digits)}, {percent(found[1], digits)}]" if found else ""


def measured(value: float | None, ends: list[float] | None, digits: int = 1) -> str:
    """A share with its interval, as far as there are any, in per cent."""
    return f"{percent(value, digits)} {between(ends, digits)}".rstrip()


def verification_table(comparison: dict[str, Any]) -> Table:
    """Header and rows, all texts: a run per row, accuracy to TAR in per cent.

    A TAR that every run refuses has no column; `refused_note` names it.
    """
    fars = _fars(comparison, refused=False)
    header = ["run", "matcher", "pairs", "accuracy", "sd", "AUC", "EER"]
    header += [f"TAR@{far}" for far in fars]
    rows = []
    for run in comparison["runs"]:
        record = run["record"]
        accuracy = record["accuracy"]
        rows.append(
            [
                printable(run["name"]),
                str(record.get("matcher", "")),
                str(record["pairs"]),
                percent(accuracy["mean"]),
                percent(accuracy["std"]),
                percent(record["auc"], 3),
                percent(record["eer"]),
                *(percent(record["tar"][far]) for far in fars),
            ]
        )
    return header, rows


def _fars(comparison: dict[str, Any], *, refused: bool) -> list[str]:
    """False accept rates, lowest first, whose TAR every run refuses, or the others."""
    tars = [run["record"]["tar"] for run in comparison["runs"]]
    fars = sorted(tars[0], key=float)
    return [far for far in fars if refused == all(tar[far] is None for tar in tars)]


def refused_note(comparison: dict[str, Any]) -> str:
    """Which columns `verification_table` leaves out, and why; nothing when none."""
    fars = _fars(comparison, refused=True)
    if not fars:
        return ""
    return f"No {', '.join(f'TAR@{far}' for far in fars)}: too few impostor pairs for them."


def test_table(comparison: dict[str, Any]) -> Table:
    """Header and rows of the paired tests: differences in per cent with 95 % intervals."""
    header = ["first", "second", "only first right", "only second right", "p", "p (Holm)"]
    header += ["Δ accuracy", "Δ AUC"]
    rows = []
    for test in comparison["tests"]:
        figures = [test["figures"][figure] for figure in ("accuracy", "auc")]
        rows.append(
            [
                printable(test["first"]),
                printable(test["second"]),
                str(test["only_first_right"]),
                str(test["only_second_right"]),
                f"{test['p']:.3g}",
                f"{test['p_holm']:.3g}",
                *(f"{percent(f['difference'])} {between(f['interval'])}".strip() for f in figures),
            ]
        )
    return header, rows


def save_table(table: Table, caption: str, out: Path, stem: str) -> None:
    """Write `stem.csv` and `stem.tex`."""
    write_bytes(out / f"{stem}.csv", to_csv(table).encode("utf-8", "surrogateescape"))
    write_bytes(out / f"{stem}.tex", to_latex(table, caption).encode("utf-8"))


def to_csv(table: Table) -> str:
    """The table as CSV; a name that a spreadsheet would take for a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table[0])
    for row in table[1]:
        writer.writerow([_harmless(cell) for cell in row])
    return out.getvalue()


def _harmless(cell: str) -> str:
    if cell.startswith(_FORMULA) and not re.fullmatch(r"-?[\d.]+( \[.*\])?", cell):
        return "'" + cell
    return cell


def to_latex(table: Table, caption: str) -> str:
    """The table for LaTeX with the package booktabs."""
    header, rows = table
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(caption)}}}",
        rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}",
        r"\toprule",
        " & ".join(map(latex, header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(latex, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def latex(text: str) -> str:
    """Text with LaTeX's own characters escaped."""
    escaped = _SPECIAL.sub(lambda match: _LATEX[match[0]], text)
    return escaped.replace("–", "--").replace("Δ", r"$\Delta$")


def to_text(table: Table) -> str:
    """The table in columns, for a terminal."""
    header, rows = table
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
