"""1:1 verification: scores of a list of pairs, and every figure that is read off them."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.pair_doubts import PairDoubts
from faceguide.cache.pairs.pair_lists import PairList
from faceguide.cache.pairs.pair_rows import LeftOut, PairRows
from faceguide.core.commands.console import printable
from faceguide.core.errors import EvaluationError
from faceguide.core.files import replacing, write_bytes
from faceguide.core.formats.container import read_arrays, write_arrays
from faceguide.evaluate.metrics.bootstrap import verification_intervals
from faceguide.evaluate.metrics.folds import (
    FoldAccuracy,
    assign_folds,
    exact_accuracy,
    published_accuracy,
)
from faceguide.evaluate.metrics.roc import Ranking, far_name, measure, rank, tar_cells, threshold_at

RECORD = "verification.json"
SCORES = "scores.safetensors"
FOR_NUMPY = "scores.npz"  # the same arrays for `numpy.load`; nothing here reads it
# Place in the list, two rows, the kind, the score, whether it is decided rightly, two identities.
COLUMNS = ("number", "probe", "reference", "same", "score", "correct", "people")
LEFT_OUT = "left_out.csv"
DOUBTFUL = "doubtful.csv"
# No network orders faces so by chance: below this AUC over so many pairs of each kind, `same` is
# to be doubted.
_BACKWARDS, _LEAST_BACKWARDS = 0.2, 20


def summarise(
    scores: NDArray[np.floating],
    same: NDArray[np.bool_],
    fold: NDArray[np.int64] | None,
    people: NDArray[np.int64],
    *,
    cosine: bool,
    replicates: int,
    seed: int,
    first: NDArray[np.bool_] | None = None,
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    """Every figure of a list of scored pairs.

    Args:
        scores: (N,) finite, higher = more alike.
        same: (N,) bool.
        fold: (N,) or None: folds are cut as published.
        people: (N, 2) the identity on either side, numbered from 0 without gaps.
        cosine: whether the scores are cosines, to which the published grid applies.
        replicates: of the bootstrap; 0 = no intervals.
        first: (N,) whether no earlier pair compares the same two faces; None = all.

    Returns:
        The record, JSON values, and (N,) right decisions: at the thresholds of the folds, or at
        the equal error rate where there are no folds.
    """
    ranking = rank(scores, same)
    measures = measure(ranking)
    cells = tar_cells(ranking, first=first)
    accuracy, correct = _accuracy(ranking, scores, same, fold, measures.eer_point, cosine)
    thresholds: list[dict[str, Any]] = [
        {"at": "equal error rate", "threshold": threshold_at(ranking, measures.eer_point)}
    ]
    thresholds += [
        {"at": f"FAR {far_name(cell.far)}", "threshold": cell.threshold}
        for cell in cells
        if cell.threshold is not None
    ]
    record: dict[str, Any] = {
        "pairs": len(scores),
        "genuine": len(ranking.genuine),
        "impostors": len(ranking.impostor),
        "accuracy": accuracy,
        "auc": measures.auc,
        "eer": measures.eer,
        "tar": {far_name(cell.far): cell.tar for cell in cells},
        "tar_cells": [asdict(cell) for cell in cells],
        "thresholds": thresholds,
        "people": int(people.max()) + 1,
    }
    if replicates:
        found = verification_intervals(ranking, people, correct, replicates, seed)
        for cell in cells:
            if cell.tar is None:
                found[f"tar {far_name(cell.far)}"] = None
        record["intervals"] = {"level": 0.95, "replicates": replicates, "seed": seed, **found}
    return record, correct


def is_backwards(record: Mapping[str, Any]) -> bool:
    """Whether pairs of two identities score so much higher that `same` looks exchanged."""
    few = min(record["genuine"], record["impostors"]) < _LEAST_BACKWARDS
    return not few and bool(record["auc"] < _BACKWARDS)


def _accuracy(
    ranking: Ranking,
    scores: NDArray[np.floating],
    same: NDArray[np.bool_],
    fold: NDArray[np.int64] | None,
    eer_point: int,
    cosine: bool,
) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    try:
        given = fold is not None
        folds, how = (fold, "given") if fold is not None else assign_folds(same)
        exact = exact_accuracy(scores, same, folds)
    except EvaluationError as error:
        correct = (np.asarray(scores) >= threshold_at(ranking, eer_point)) == same
        return {"mean": None, "std": None, "refused": str(error)}, correct
    record = {
        **_fold_record(exact),
        "folds": len(exact.fold),
        "folds_are": "given in the list" if given else how,
        "published_grid": (
            _fold_record(published_accuracy(scores, same, folds)) if cosine else None
        ),
    }
    return record, exact.correct


def _fold_record(found: FoldAccuracy) -> dict[str, Any]:
    return {
        "mean": found.mean,
        "std": found.std,
        "by_fold": found.accuracy.tolist(),
        "thresholds": found.threshold.tolist(),
    }


def save_scores(out: Path, listed: str, **columns: NDArray[Any]) -> None:
    """Write every scored pair to `scores.safetensors`, for figures, comparisons and other readers.

    Args:
        listed: digest of the list of pairs, so that runs over other lists are distinguished.
        columns: those of `COLUMNS`, one entry a pair.
    """
    arrays: dict[str, Any] = {name: columns[name] for name in COLUMNS}
    write_arrays(out / SCORES, arrays, {"listed": listed})
    stream = io.BytesIO()  # in memory first: zipfile cannot be stopped when a disk is full
    np.savez(stream, **arrays)
    write_bytes(out / FOR_NUMPY, stream.getvalue())


def load_scores(run: Path) -> dict[str, NDArray[Any]]:
    """What `save_scores` wrote.

    Raises:
        EvaluationError: when the run has none.
        CacheError: when the file is damaged.
    """
    try:
        found = read_arrays(run / SCORES, "rerun the evaluation", COLUMNS)
    except FileNotFoundError:
        raise EvaluationError(
            f"{run}: no {SCORES}; expected a run of `evaluate verification`"
        ) from None
    return {"listed": np.array(found.about.get("listed", "")), **found.arrays}


def write_left_out(out: Path, left_out: list[LeftOut]) -> dict[str, Any]:
    """Name every pair without a score in `left_out.csv`; returns their number by reason."""
    _write_pairs(out / LEFT_OUT, left_out)
    reasons = Counter(
        reason.rpartition(": ")[2] for pair in left_out for reason in pair.reason.split("; ")[:1]
    )
    return {"count": len(left_out), "reasons": dict(reasons)}


def write_doubtful(out: Path, pairs: PairList, rows: PairRows, found: PairDoubts) -> None:
    """Name every pair that is scored although something looks wrong in `doubtful.csv`."""
    doubtful = []
    for kind, places in found.of_pairs.items():
        for number in rows.number[places].tolist():
            doubtful.append(LeftOut(number, pairs.first[number], pairs.second[number], kind))
    doubtful.sort(key=lambda pair: pair.number)
    for name in rows.matches.doubtful:
        doubtful.append(LeftOut(-1, name, "", "loose_names"))
    _write_pairs(out / DOUBTFUL, doubtful)


def _write_pairs(path: Path, pairs: list[LeftOut]) -> None:
    """Number, names and reason of each pair; no file where there is none."""
    if not pairs:
        path.unlink(missing_ok=True)
        return
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["number", "a", "b", "reason"])
        for pair in pairs:
            writer.writerow([pair.number, *map(printable, (pair.first, pair.second, pair.reason))])


def describe(record: dict[str, Any]) -> str:
    """The figures as lines of text."""
    accuracy = record["accuracy"]
    intervals = record.get("intervals", {})

    def between(name: str) -> str:
        found = intervals.get(name)
        return f"  [{100 * found[0]:.2f}, {100 * found[1]:.2f}]" if found else ""

    lines = [
        f"{record['pairs']:,} pairs: {record['genuine']:,} of one identity, "
        f"{record['impostors']:,} of two; {record['people']:,} identities"
    ]
    if accuracy["mean"] is None:
        lines.append(f"accuracy   –  ({accuracy['refused']})")
    else:
        lines.append(
            f"accuracy   {100 * accuracy['mean']:.2f} ± {100 * accuracy['std']:.2f} % over "
            f"{accuracy['folds']} folds{between('accuracy')}"
        )
    lines.append(f"AUC        {100 * record['auc']:.3f} %{between('auc')}")
    lines.append(f"EER        {100 * record['eer']:.2f} %{between('eer')}")
    for cell in record["tar_cells"]:
        name = far_name(cell["far"])
        if cell["tar"] is None:
            lines.append(f"TAR@{name}   –  ({cell['refused']})")
        else:
            lines.append(
                f"TAR@{name}   {100 * cell['tar']:.2f} %{between(f'tar {name}')}"
                f"  ({cell['false_accepts']:,} of {cell['impostors']:,} impostors, "
                f"threshold {cell['threshold']:.4f})"
            )
    for kind, found in record.get("by_impostors", {}).items():
        lines += ["", f"impostors: {kind}", describe(found)]
    return "\n".join(lines)
