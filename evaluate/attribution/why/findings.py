"""What the tests of dependence found, as sentences and tables."""

from __future__ import annotations

from typing import Any

from faceguide.core.commands.console import printable
from faceguide.evaluate.report.tables import Table

SIGNIFICANT = 0.05  # of the corrected p
_SENTENCES = 5
_MORE = {
    "uniform": "more maps are uniform",
    "skill": "skill is higher",
    "told_apart": "tells apart better",
    "told": "tells more faces apart",
}
_SHOWN = 0.05  # of the p before the correction: rows of the table


def spelt(name: str) -> str:
    """A covariate or an outcome in words."""
    return name.replace("_", " ")


def findings(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The dependences that hold after the correction, the surest first."""
    held = [one for one in records if one["p_bh"] is not None and one["p_bh"] < SIGNIFICANT]
    return sorted(held, key=lambda one: float(one["p"]))


def _effect(one: dict[str, Any]) -> str:
    low, high = one["interval"] or (one["effect"],) * 2
    return f"{one['effect']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _medians(one: dict[str, Any]) -> str:
    return " / ".join(f"{value:.3g}" for value in one["medians"])


def sentences(records: list[dict[str, Any]]) -> list[str]:
    """The findings in words, the surest first; or that there are none."""
    tested = sum(one["p"] is not None for one in records)
    if not tested:
        return ["Which pairs, and why: nothing could be tested; results.json says why"]
    held, lines = findings(records), []
    for one in held[:_SENTENCES]:
        larger = one["effect"] > 0
        where = f"where {spelt(one['covariate'])} is {'larger' if larger else 'smaller'}"
        if one["covariate"] == "label":
            where = f"in {'genuine' if larger else 'impostor'} pairs"
        text = f"{printable(one['method'])}: {_MORE[one['outcome']]} {where}: ρ {_effect(one)}"
        if one["covariate"] != "label" and len(one["medians"]) == 2:
            no, yes = one["medians"]
            text += f", median {yes:.3g} against {no:.3g}"
        lines.append(text)
    if not held:
        lines.append(
            f"Which pairs, and why: none of {tested} tested dependences on pose, light, occlusion, "
            "quality, score and label holds after the correction"
        )
    elif len(held) > _SENTENCES:
        lines.append(f"{len(held) - _SENTENCES} further dependences hold, of {tested} tested")
    return lines


def dependence_table(records: list[dict[str, Any]]) -> Table:
    """The tests with p < 0.05 before the correction, the surest first."""
    header = [
        *("method", "outcome", "covariate", "n", "ρ [95 %]", "p", "p (Benjamini–Hochberg)"),
        "median, outcome low or no / high or yes",
    ]
    shown = [one for one in records if one["p"] is not None and one["p"] < _SHOWN]
    rows = [
        [
            *(one["method"], spelt(one["outcome"]), spelt(one["covariate"]), str(one["n"])),
            *(_effect(one), f"{one['p']:.2g}", f"{one['p_bh']:.2g}", _medians(one)),
        ]
        for one in sorted(shown, key=lambda one: float(one["p"]))
    ]
    return header, rows


def untested_table(records: list[dict[str, Any]]) -> Table:
    """What could not be tested, and why: a row per outcome and reason."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    every = list(dict.fromkeys(one["covariate"] for one in records))
    for one in records:
        if one["p"] is None:
            groups.setdefault((one["outcome"], one["reason"]), []).append(one)
    rows = []
    for (outcome, reason), some in groups.items():
        methods, covariates = (
            list(dict.fromkeys(one[key] for one in some)) for key in ("method", "covariate")
        )
        named = ", ".join(map(spelt, covariates))
        if 2 * len(covariates) > len(every):
            rest = [spelt(name) for name in every if name not in covariates]
            named = f"all but {', '.join(rest)}" if rest else "all"
        rows.append([spelt(outcome), reason, ", ".join(methods), named])
    return ["outcome", "why not", "methods", "covariates"], rows
