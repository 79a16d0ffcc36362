"""What bench/guidance.py prints: Markdown tables of its runs, and which targets they meet."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from guidance_parts import WEIGHINGS
from guidance_surround import FIGURES

from faceguide.cache.schema import REGIONS

ATTENTION = {
    "inside": "energy_inside",
    **{f"energy {name}": f"energy_{name}" for name in REGIONS},
    **{f"lift {name}": f"lift_{name}" for name in REGIONS},
    "energy oval": "energy_oval",
    "entropy": "attention_entropy",
    "head cosine": "head_cosine",
}
VERIFICATION = {
    "AUC": "auc",
    "TAR at FAR 1e-3": "tar",
    "AUC lookalikes": "auc_lookalikes",
    "accuracy lookalikes": "accuracy_lookalikes",
    "AUC fused": "auc_fused",
}
SURROUND = {name.replace("_", " "): name for name in FIGURES}
PARTS = {
    "AUC lookalikes, all features": "auc_whole",
    **{f"gain of {name.replace('_', ' and ')}": f"gain_{name}" for name in WEIGHINGS},
}
DIGITS = {"auc": 4, "auc_fused": 4, "far_shared": 4, **{f"lift_{name}": 1 for name in REGIONS}}

Runs = dict[str, dict[str, float]]  # seed → name → value


@dataclass(frozen=True)
class Target:
    """A bound that a method is meant to reach in the mean over seeds.

    Attributes:
        method: of the bench.
        name: of the measured value.
        least: the bound.
        gain: it bounds the seed-paired difference to plain, not the value.
        ambitious: beyond what a prototype reached.
    """

    method: str
    name: str
    least: float
    gain: bool = False
    ambitious: bool = False


# Set before the runs; the two forms of method 2 answer to the same ones.
TARGETS = (
    Target("loss 0.3", "energy_inside", 0.04, gain=True),
    Target("loss 0.3", "auc", -0.002, gain=True),
    *(
        target
        for method in ("regions 1", "regions-log 0.1")
        for target in (
            Target(method, "energy_inside", 0.08, gain=True),
            Target(method, "lift_eyes", 4.0),
            Target(method, "lift_nose", 10.0),
            Target(method, "lift_mouth", 6.0),
            Target(method, "auc", -0.002, gain=True),
            Target(method, "lift_eyes", 8.0, ambitious=True),
        )
    ),
    Target("counterfactual", "auc", -0.003, gain=True),
    Target("prior 0.3", "auc", -0.003, gain=True),
    Target("contrastive 0.1", "auc", -0.003, gain=True),
)


def differences(runs: Runs, plain: Runs) -> Runs:
    """Run minus the plain run of the same seed, for the seeds that both have."""
    return {
        seed: {name: value - plain[seed].get(name, math.nan) for name, value in run.items()}
        for seed, run in runs.items()
        if seed in plain
    }


def values(runs: Runs, name: str) -> list[float]:
    """One measured value over seeds; a run that diverged counts as NaN."""
    return [run.get(name, math.nan) for run in runs.values()]


def cell(numbers: list[float], digits: int, sign: str = "") -> str:
    """Mean ± standard deviation over seeds, unless one of them has diverged."""
    if any(map(math.isnan, numbers)):
        return "diverged"
    mean = format(statistics.mean(numbers), f"{sign}.{digits}f").replace("-", "−")
    return f"{mean} ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else mean


def above(runs: Runs, name: str) -> str:
    """How many of the intervals lie above 0 and below it; one interval is shown itself."""
    ends = [
        (run[f"{name}_low"], run[f"{name}_high"]) for run in runs.values() if f"{name}_low" in run
    ]
    if len(ends) == 1:
        return " [{:+.3f}, {:+.3f}]".format(*ends[0]).replace("-", "−")
    if not ends:
        return ""
    over, under = sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)
    return f", {over} above 0, {under} below"


def surround(record: dict[str, Any]) -> dict[str, Any]:
    """The surround test as numbers: means over seeds, and the differences to plain of each seed."""
    plain = record["runs"].get("plain", {})
    return {
        method: {
            "seeds": len(runs),
            **{name: statistics.mean(values(runs, name)) for name in FIGURES},
            "paired": {
                name: dict(zip(paired, values(paired, name), strict=True)) for name in FIGURES
            },
        }
        for method, runs in record["runs"].items()
        for paired in (differences(runs, plain),)
    }


def table(record: dict[str, Any], columns: dict[str, str], paired: bool = True) -> str:
    """Markdown: a row per method, and below it its seed-paired difference to plain.

    A value with an interval has it behind it; of several seeds the number of intervals above 0.
    """
    lines = ["| | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]

    def add(name: str, runs: Runs, sign: str = "") -> None:
        cells = [
            cell(values(runs, key), DIGITS.get(key, 3), sign) + above(runs, key)
            for key in columns.values()
        ]
        lines.append(f"| {name} | {len(runs)} | " + " | ".join(cells) + " |")

    shelf = record["off_the_shelf"]
    if shelf.keys() & set(columns.values()):
        cells = [
            f"{shelf[key]:.{DIGITS.get(key, 3)}f}" + above({"": shelf}, key)
            if key in shelf
            else "–"
            for key in columns.values()
        ]
        lines.append("| off the shelf, 128-d | – | " + " | ".join(cells) + " |")
    plain = record["runs"].get("plain", {})
    for method, runs in record["runs"].items():
        add(method, runs)
        against = differences(runs, plain)
        if paired and method != "plain" and against:
            add("− plain, paired", against, "+")
    return "\n".join(lines)


def targets(record: dict[str, Any]) -> str:
    """Markdown: whether the mean reaches each bound, and in how many seeds."""
    lines = []
    plain = record["runs"].get("plain", {})
    titles = {key: title for title, key in {**ATTENTION, **VERIFICATION}.items()}
    for target in TARGETS:
        runs = record["runs"].get(target.method, {})
        found = values(differences(runs, plain) if target.gain else runs, target.name)
        if not found:
            continue
        digits, sign = DIGITS.get(target.name, 3), "+" if target.gain else ""
        held = statistics.mean(found) >= target.least
        bound = format(target.least, f"{sign}.{digits}f").replace("-", "−")
        lines.append(
            f"* {'held' if held else 'MISSED'}: {target.method}, {titles[target.name]} "
            f"{cell(found, digits, sign)}{' against plain' if target.gain else ''}, wanted ≥ "
            f"{bound}{' (ambitious)' if target.ambitious else ''}; "
            f"{sum(one >= target.least for one in found)} of {len(found)} seeds"
        )
    return "\n".join(lines)
