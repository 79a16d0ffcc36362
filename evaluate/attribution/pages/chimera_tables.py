"""The results of chimeras as sentences and tables: for a terminal, for LaTeX, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from faceguide.evaluate.attribution.protocol.separation import sentence
from faceguide.evaluate.attribution.why.findings import sentences
from faceguide.evaluate.report.tables import Table, measured, percent, to_latex, to_text

SAME = 0.05  # of Holm's p: methods above it are not told apart
READING = (
    "Each face is composed of two identities, and is explained against a photograph of either. "
    "Tells apart: how well the difference of the two maps separates the part from the rest. "
    "Each by itself: the same of each map without the other. 50 is chance, exactly for a map that "
    "does not look at the reference. Excess: over `pixels`, which compares patches without a "
    "network. Faces: share of them above 50."
)
GAMES_READING = (
    "Games with the same faces, 50 is chance. small: parts of 2×2 cells, regions: eyes, nose or "
    "mouth by landmarks, both as in the column tells apart. deletion: how far replacing what maps "
    "give to the other identity brings the score back, 100 as far as the truth does."
)


def ordered(record: dict[str, Any]) -> list[str]:
    """Methods by how well they tell apart, then those that claim no direction, then controls."""

    def key(name: str) -> tuple[bool, bool, float]:
        found = record["methods"][name]
        return found["control"], not found["signed"], -(found["told_apart"] or 0.0)

    return sorted(record["methods"], key=key)


def groups(record: dict[str, Any]) -> dict[str, list[str]]:
    """Kind → methods: "best", "above", "not above", "magnitude".

    Best are the first in the ranking and those that no test tells from it.
    """
    ranking, methods = record["ranking"], record["methods"]
    tied = {
        test["first"] if test["second"] == ranking[0] else test["second"]
        for test in record["tests"]["pairwise"]
        if ranking and ranking[0] in (test["first"], test["second"]) and test["p_holm"] >= SAME
    }
    best = [name for name in ranking if name == ranking[0] or name in tied]
    competing = [name for name in ordered(record) if not methods[name]["control"]]
    return {
        "best": best,
        "above": [name for name in ranking if name not in best],
        "not above": [n for n in competing if methods[n]["signed"] and n not in ranking],
        "magnitude": [name for name in competing if not methods[name]["signed"]],
    }


def conclusions(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What to trust: (kind of `groups`, sentence), for a reader of ten seconds."""
    found = groups(record)
    lines = []
    if not record["ranking"]:
        lines.append(("not above", _why_not_ranked(record)))
    for kind, text in (
        ("best", "Trust most"),
        ("above", "Better than comparing patches"),
        ("not above", "No better than comparing patches without a network"),
        ("magnitude", "Claim no direction, so they are not tested here"),
    ):
        # Where nothing is ranked, nothing is said of single methods.
        if found[kind] and (record["ranking"] or kind == "magnitude"):
            lines.append((kind, f"{text}: {_listed(record, found[kind])}"))
    return lines


def _listed(record: dict[str, Any], names: Sequence[str]) -> str:
    shown = []
    for name in names:
        told = record["methods"][name]["told_apart"]
        shown.append(name if told is None else f"{name} ({percent(told, 0)})")
    return ", ".join(shown)


def _why_not_ranked(record: dict[str, Any]) -> str:
    n, least = record["chimeras"]["n"], record["chimeras"]["least_for_a_ranking"]
    if record["network"]["separates"] is False:
        return "No ranking: the network does not separate the identities"
    if n < least:
        return f"No ranking: {n} chimeras are too few, {least} are needed"
    if not record["settings"]["replicates"]:
        return "No ranking without intervals: --bootstrap is 0"
    return "No method does better than comparing patches without a network"


def chimera_table(record: dict[str, Any], *, plain: bool = False) -> Table:
    """A row per method, in the order of `ordered`; percentages.

    Args:
        plain: words instead of arrows for the direction, for LaTeX.
    """
    up, down = ("(high)", "(low)") if plain else ("↑", "↓")
    header = [
        *("rank", "method", "kind", f"tells apart {up}", f"each by itself {up}", f"faces {up}"),
        *(f"blind {down}", f"uniform {down}", f"failed {down}", f"excess {up}"),
    ]
    rows = []
    for name in ordered(record):
        found = record["methods"][name]
        kind = "control" if found["control"] else "" if found["signed"] else "magnitude"
        excess = found["excess"]
        rows.append(
            [
                str(found["rank"] or ""),
                name,
                kind,
                measured(found["told_apart"], found["told_apart_interval"]),
                measured(found["single"], found["single_interval"]),
                percent(found["told_share"], 0),
                percent(found["blind_share"], 0),
                percent(found["uniform_share"], 0),
                percent(found["error_share"], 0),
                "–" if excess is None else f"{100 * excess:+.1f}" + _signed(found),
            ]
        )
    return header, rows


def _signed(found: dict[str, Any]) -> str:
    ends = found["excess_interval"]
    return f" [{100 * ends[0]:+.1f}, {100 * ends[1]:+.1f}]" if ends else ""


def game_table(record: dict[str, Any]) -> Table | None:
    """A row per method that claims a direction and a column per game; None without games."""
    games = list(record["settings"]["games"])
    if not games:
        return None
    rows = []
    for name in ordered(record):
        found = record["methods"][name]["games"]
        if found is not None:
            cells = (found.get(game, {"score": None, "interval": None}) for game in games)
            rows.append([name, *(measured(c["score"], c["interval"]) for c in cells)])
    return ["method", *(f"{game} ↑" for game in games)], rows


def network_line(record: dict[str, Any]) -> str:
    """How well the network knows the identities."""
    network = record["network"]
    auc, exchange = network["auc_interval"], network["exchange_interval"]
    return (
        f"The network: AUC {network['auc']:.3f} [{auc[0]:.3f}, {auc[1]:.3f}]; exchanging a part "
        f"moves scores by {network['exchange']:.2f} [{exchange[0]:.2f}, {exchange[1]:.2f}] "
        f"deviations of impostor scores, in {percent(network['exchange_seen'], 0)} % of the "
        "chimeras to the right side"
    )


def separated_line(record: dict[str, Any]) -> str:
    """How many pairs of methods are told apart, and how stable the order is."""
    tests = record["tests"]["pairwise"]
    if not tests:
        return ""
    told = sum(test["p_holm"] < SAME for test in tests)
    text = f"{told} of {len(tests)} pairs of methods differ (Wilcoxon, Holm)"
    if (half := record["tests"]["split_half"]) is not None:
        text += (
            f"; order in random halves of the chimeras: Spearman {half['median']:.2f}, "
            f"{half['low']:.2f} or more in 95 % of them"
        )
    return text


def chimera_text(record: dict[str, Any]) -> str:
    """Conclusions, table and reading, for a terminal."""
    unfit = sentence(record["network"])
    chimeras = record["chimeras"]
    return "\n".join(
        [
            *([unfit, ""] if unfit else []),
            *(text for _, text in conclusions(record)),
            "",
            to_text(chimera_table(record)),
            "",
            *([to_text(games), "", GAMES_READING, ""] if (games := game_table(record)) else []),
            f"{chimeras['n']:,} chimeras, {2 * chimeras['n']:,} of {chimeras['identities']:,} "
            "identities, each used once. Per cent; brackets: 95 % over identities.",
            READING,
            network_line(record),
            *([text] if (text := separated_line(record)) else []),
            *sentences(record["why"]),
        ]
    )


def chimera_latex(record: dict[str, Any]) -> str:
    """The table for LaTeX with booktabs."""
    caption = (
        f"Attribution methods on {record['chimeras']['n']} faces composed of two identities, per "
        "cent; brackets: 95 % over identities. 50 is chance."
    )
    return to_latex(chimera_table(record, plain=True), caption)
