"""Do two runs agree, and where not?"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from faceguide.core.errors import AttributionError
from faceguide.core.files import read_json
from faceguide.evaluate.attribution.results import PAIRS, RESULTS

FIGURES = ("told_apart", "single", "pass_rate", "verdict_fr", "mean_fr", "uniform_share")


def _pairs(run: Path) -> dict[tuple[str, ...], dict[str, str]]:
    path = run / PAIRS
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {
                (row["probe"], row["reference"], row["method"], row.get("part", "")): row
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError) as error:
        raise AttributionError(
            f"{path}: expected the pairs of a finished run of `evaluate attribution` ({error})"
        ) from None


def compare_runs(first: Path, second: Path, tolerance: float = 1e-6) -> dict[str, Any]:
    """Settings, figures and verdicts in which two runs differ.

    Args:
        tolerance: two numbers are the same when they differ by no more.

    Returns:
        `agree`; `settings`: name → [first, second]; `only_first`, `only_second`: methods;
        `figures`: per method, figures that differ; `pairs`: in both, `only_first_pairs`,
        `only_second_pairs`; `verdicts`: per method, the number of pairs with another verdict and
        the first ten of them.
    """
    records = [read_json(run / RESULTS) for run in (first, second)]
    a, b = records
    settings = {
        name: [a["settings"].get(name), b["settings"].get(name)]
        for name in sorted({*a["settings"], *b["settings"]})
        if a["settings"].get(name) != b["settings"].get(name)
    }
    common = [name for name in a["methods"] if name in b["methods"]]
    figures: dict[str, Any] = {}
    for name in common:
        differing = {}
        for figure in FIGURES:
            values = [record["methods"][name].get(figure) for record in records]
            if None in values:
                same = values[0] is values[1]
            else:
                same = abs(values[0] - values[1]) <= tolerance
            if not same:
                differing[figure] = values
        if differing:
            figures[name] = differing
    pairs = [_pairs(run) for run in (first, second)]
    shared = [key for key in pairs[0] if key in pairs[1]]
    verdicts: dict[str, Any] = {}
    for key in shared:
        was, now = pairs[0][key]["verdict"], pairs[1][key]["verdict"]
        if was != now:
            found = verdicts.setdefault(key[2], {"count": 0, "examples": []})
            found["count"] += 1
            if len(found["examples"]) < 10:
                found["examples"].append([key[0], key[1], was, now])
    faces = [{key[:2] for key in found} for found in pairs]
    only = [
        [name for name in one["methods"] if name not in other["methods"]]
        for one, other in ((a, b), (b, a))
    ]
    differences = bool(figures or verdicts or any(only) or faces[0] != faces[1])
    return {
        "agree": not differences,
        "settings": settings,
        "only_first": only[0],
        "only_second": only[1],
        "figures": figures,
        "pairs": len(faces[0] & faces[1]),
        "only_first_pairs": len(faces[0] - faces[1]),
        "only_second_pairs": len(faces[1] - faces[0]),
        "verdicts": verdicts,
    }
