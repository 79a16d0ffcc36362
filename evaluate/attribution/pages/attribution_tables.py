"""The results as tables: for a terminal, for LaTeX, for the report."""

from __future__ import annotations

from typing import Any

from faceguide.evaluate.attribution.protocol.separation import sentence
from faceguide.evaluate.attribution.why.findings import sentences
from faceguide.evaluate.report.tables import Table, measured, percent, to_latex, to_text

INTERVALS = "over identities"
READING = (
    "Skill: how well a map predicts what each cell does to the score of its own pair, beyond what "
    "all pairs have in common; 0 for a map that is the same for all. Unsigned: the same of "
    "magnitudes; `angle` does it without a reference. Ceiling: one half of the infills about the "
    "other. FR, the falsification rate, counts against a map: 0 is best, 100 worst. In some "
    "earlier work a rate of this name was best at 100; do not compare the two."
)


def ordered(record: dict[str, Any]) -> list[str]:
    """Methods by signed skill, then those that claim a magnitude by theirs, controls last."""

    def key(name: str) -> tuple[bool, bool, float]:
        found = record["methods"][name]
        kind = "skill" if found["signed"] else "unsigned_skill"
        values = [found[f"{kind}_genuine"] or 0.0, found[f"{kind}_impostor"] or 0.0]
        return found["control"], not found["signed"], -sum(values)

    return sorted(record["methods"], key=key)


def _skill(found: dict[str, Any], name: str) -> str:
    value, ends = found[name], found.get(f"{name}_interval")
    if value is None:
        return "–"
    return f"{value:.2f}" + (f" [{ends[0]:.2f}, {ends[1]:.2f}]" if ends else "")


def method_table(record: dict[str, Any], *, plain: bool = False) -> Table:
    """A row per method in the order of `ordered`; skill from −1 to 1, the others per cent.

    Args:
        plain: words instead of arrows for the direction, for LaTeX.
    """
    up, down = ("(high)", "(low)") if plain else ("↑", "↓")
    header = [
        *("method", "kind", f"skill, genuine {up}", f"skill, impostor {up}"),
        *(f"unsigned, genuine {up}", f"unsigned, impostor {up}", f"reference contrast {up}"),
        *("n", "tested", f"uniform {down}", f"mean FR {down}", f"mean FR, embedding {down}"),
        f"completeness error {down}",
    ]
    rows = []
    for name in ordered(record):
        found = record["methods"][name]
        error = found["completeness_error"]
        kind = "control" if found["control"] else "" if found["signed"] else "magnitude"
        rows.append(
            [
                *(name, kind, _skill(found, "skill_genuine"), _skill(found, "skill_impostor")),
                _skill(found, "unsigned_skill_genuine"),
                _skill(found, "unsigned_skill_impostor"),
                _skill(found, "reference_contrast"),
                str(found["n"]),
                str(found["n_tested"]),
                percent(found["uniform_share"], 1),
                measured(found["mean_fr"], found["mean_fr_interval"]),
                percent(found["mean_fr_embedding"], 1),
                "–" if error is None else f"{error['median']:.1e}",
            ]
        )
    ends = record["ceiling"]
    shown = [
        "–" if ends[name] is None else f"{ends[name]:.2f}"
        for name in ("signed_genuine", "signed_impostor", "unsigned_genuine", "unsigned_impostor")
    ]
    return header, [*rows, ["ceiling", "other infills", *shown, *[""] * 7]]


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
        f"↑ higher is better, ↓ lower is better. {READING} Mean FR: 50 is chance.",
        *sentences(record["why"]),
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
