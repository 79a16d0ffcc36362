"""The results as tables: for a terminal, for LaTeX, for the report."""

from __future__ import annotations

from typing import Any

from faceguide.evaluate.attribution.protocol.separation import sentence
from faceguide.evaluate.report.tables import Table, percent, to_latex, to_text

INTERVALS = "over identities, Wilson's where all maps pass or none"
READING = (
    "FR, the falsification rate, counts against a map: 0 is best, 100 worst. In some earlier work "
    "a rate of this name was best at 100; do not compare the two."
)


def _between(found: list[float] | None) -> str:
    return f" [{percent(found[0], 1)}, {percent(found[1], 1)}]" if found else ""


def pass_interval(found: dict[str, Any]) -> list[float] | None:
    """95 % interval of a method's pass rate: over identities, else Wilson's.

    Where every map passes, or none, all resamples of identities are alike and claim no uncertainty;
    Wilson's interval of the count then says what so many pairs can show.
    """
    over_persons: list[float] | None = found["pass_rate_cluster_interval"]
    counted: list[float] | None = found["pass_rate_interval"]
    return over_persons if over_persons and over_persons[0] < over_persons[1] else counted


def method_table(record: dict[str, Any], *, plain: bool = False) -> Table:
    """A row per method, best pass rate first, controls last; percentages.

    Args:
        plain: words instead of arrows for the direction, for LaTeX.
    """
    up, down = ("(high)", "(low)") if plain else ("↑", "↓")
    header = [
        "method",
        "kind",
        f"pass rate {up}",
        "n",
        "tested",
        f"uniform {down}",
        f"verdict FR {down}",
        f"mean FR {down}",
        f"mean FR, embedding {down}",
        f"completeness error {down}",
    ]
    methods = record["methods"]
    order = sorted(
        methods, key=lambda name: (methods[name]["control"], -methods[name]["pass_rate"])
    )
    rows = []
    for name in order:
        found = methods[name]
        error = found["completeness_error"]
        rows.append(
            [
                name,
                "control" if found["control"] else "",
                percent(found["pass_rate"], 1) + _between(pass_interval(found)),
                str(found["n"]),
                str(found["n_tested"]),
                percent(found["uniform_share"], 1),
                percent(found["verdict_fr"], 1),
                percent(found["mean_fr"], 1) + _between(found["mean_fr_interval"]),
                percent(found["mean_fr_embedding"], 1),
                "–" if error is None else f"{error['median']:.1e}",
            ]
        )
    return header, rows


def method_text(record: dict[str, Any]) -> str:
    """The table and its reading, for a terminal."""
    pairs = record["pairs"]
    unfit = sentence(record["network"])
    lines = [
        *([unfit, ""] if unfit else []),
        to_text(method_table(record)),
        "",
        f"{pairs['n']:,} pairs ({pairs['genuine']:,} of one identity), {pairs['persons']:,} "
        f"identities; protocol {record['protocol']}, response: {record['response']}. "
        f"Per cent; brackets: 95 % "
        f"{INTERVALS}.",
        f"↑ higher is better, ↓ lower is better. {READING} Mean FR: 50 is chance. Uniform and "
        "failed maps count as not passed.",
    ]
    warned = [
        f"Warning: {name}: {found['threshold']['warning']}"
        for name, found in record["methods"].items()
        if found.get("threshold", {}).get("warning")
    ]
    return "\n".join([*lines, *warned])


def method_latex(record: dict[str, Any]) -> str:
    """The table for LaTeX with booktabs."""
    pairs = record["pairs"]
    caption = (
        f"Attribution methods on {pairs['n']} pairs, protocol {record['protocol']}, per cent; "
        f"brackets: 95 % {INTERVALS}. Mean FR: 50 is chance."
    )
    return to_latex(method_table(record, plain=True), caption)


def difference_text(found: dict[str, Any]) -> str:
    """What `evaluate diff` prints."""
    lines = ["the runs agree" if found["agree"] else "the runs differ"]
    lines.append(
        f"{found['pairs']} pairs in both, {found['only_first_pairs']} only in the first, "
        f"{found['only_second_pairs']} only in the second"
    )
    lines += [f"setting {name}: {a} → {b}" for name, (a, b) in found["settings"].items()]
    for which in ("first", "second"):
        if found[f"only_{which}"]:
            lines.append(f"methods only in the {which}: {', '.join(found[f'only_{which}'])}")
    for name, figures in found["figures"].items():
        lines += [f"{name}: {figure} {a} → {b}" for figure, (a, b) in figures.items()]
    for name, verdicts in found["verdicts"].items():
        lines.append(f"{name}: {verdicts['count']} pairs with another verdict, e.g.")
        lines += [f"  {a} – {b}: {was} → {now}" for a, b, was, now in verdicts["examples"][:3]]
    return "\n".join(lines)
