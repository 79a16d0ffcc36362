"""Several verification runs over one list of pairs, side by side and tested."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import EvaluationError
from faceguide.core.files import read_json
from faceguide.evaluate.metrics import roc
from faceguide.evaluate.metrics.bootstrap import RocStatistic
from faceguide.evaluate.metrics.paired_tests import compare_all
from faceguide.evaluate.verification import RECORD, load_scores

COMPARISON = "comparison.json"
SEED = 0  # of the bootstrap, unless another is given; the report's too


def run_names(runs: list[Path]) -> list[str]:
    """A short name per run: its directory's, or as much of the path as distinguishes them."""
    parts = [run.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise EvaluationError("a run is given more than once")


def compare_runs(runs: list[Path], replicates: int, seed: int) -> dict[str, Any]:
    """Paired tests between all runs.

    Pairs that any run left out are left out of all tests; the figures in the table are those of
    each run's own record.

    Args:
        runs: directories of `evaluate verification`, two or more.

    Returns:
        `runs` (name, path, record), `pairs` tested, `tests` (see `paired_tests.compare_all`).

    Raises:
        EvaluationError: when the runs are not over the same list of pairs.
    """
    names = run_names(runs)
    tables = [load_scores(run) for run in runs]
    records = [read_json(run / RECORD) for run in runs]
    listed = {str(table["listed"]) for table in tables}
    if len(listed) != 1:
        raise EvaluationError(
            f"{', '.join(map(str, runs))}: not over the same list of pairs; a paired test needs "
            "the same one (and the same names in it)"
        )
    common = tables[0]["number"]
    for table in tables[1:]:
        common = np.intersect1d(common, table["number"])
    chosen = [np.searchsorted(table["number"], common) for table in tables]
    same: NDArray[np.bool_] = tables[0]["same"][chosen[0]]
    _, people = np.unique(tables[0]["people"][chosen[0]], return_inverse=True)
    people = people.reshape(-1, 2)
    correct = [table["correct"][place] for table, place in zip(tables, chosen, strict=True)]
    statistics = [
        RocStatistic(roc.rank(table["score"][place], same), people, right)
        for table, place, right in zip(tables, chosen, correct, strict=True)
    ]
    tests = compare_all(names, statistics, correct, int(people.max()) + 1, replicates, seed)
    return {
        "runs": [
            {"name": name, "path": str(run.resolve()), "record": record}
            for name, run, record in zip(names, runs, records, strict=True)
        ],
        "pairs": len(common),
        "replicates": replicates,
        "seed": seed,
        "tests": tests,
    }


def roc_curves(runs: Mapping[str, Path]) -> tuple[dict[str, roc.Curve], float]:
    """Name → curve of each verification run, and one false accept of the shortest list."""
    rankings = {}
    for name, run in runs.items():
        table = load_scores(run)
        rankings[name] = roc.rank(table["score"], table["same"])
    least = min((1.0 / len(found.impostor) for found in rankings.values()), default=1.0)
    return {name: roc.curve(found) for name, found in rankings.items()}, least
