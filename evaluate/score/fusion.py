"""Fusions: matchers added up, after each was brought to one scale.

Scale and weights must not be read off the pairs that are judged. The weights come from the
caller. The scale of each matcher, mean and deviation of its score, comes from an earlier run on
other data (`fusion.json`), or from random pairs of the faces at hand, whose labels are not looked
at; almost all such pairs are of two identities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import EvaluationError
from faceguide.core.files import read_json
from faceguide.evaluate.score.face_reader import FaceReader, score_pairs
from faceguide.evaluate.score.matcher_options import FUSIONS, MATCHERS
from faceguide.evaluate.score.scores import Fused, FusedPart, Matcher

FILE = "fusion.json"
RANDOM_PAIRS = 2000


def measure_scales(
    reader: FaceReader,
    matchers: Mapping[str, Matcher],
    rows: NDArray[np.int64],
    seed: int,
) -> dict[str, dict[str, float]]:
    """Mean and deviation of each matcher's score over random pairs of different rows.

    Args:
        rows: (N,) rows to sample from, at least two different ones.

    Returns:
        name → {"mean", "std"}.

    Raises:
        EvaluationError: when a matcher gives all pairs one score.
    """
    rows = np.unique(rows)
    if len(rows) < 2:
        raise EvaluationError("the scale of a fusion needs at least two faces")
    rng = np.random.default_rng(seed)
    first = rng.integers(0, len(rows), RANDOM_PAIRS)
    second = (first + rng.integers(1, len(rows), RANDOM_PAIRS)) % len(rows)
    scales = {}
    for name, matcher in matchers.items():
        scores = score_pairs(reader, matcher, rows[first], rows[second]).astype(np.float64)
        std = float(scores.std())
        if not std > 0:
            raise EvaluationError(f"{name} gives all random pairs one score; it cannot be fused")
        scales[name] = {"mean": float(scores.mean()), "std": std}
    return scales


def read_scales(path: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """The scales of an earlier run's `fusion.json`.

    Raises:
        CacheError: when the file is missing or was changed.
        EvaluationError: when it lacks a matcher.
    """
    record: dict[str, Any] = read_json(path)
    found = record.get("scales")
    scales = {}
    for name in names:
        entry = found.get(name) if isinstance(found, dict) else None
        if not isinstance(entry, dict) or not {"mean", "std"} <= entry.keys():
            raise EvaluationError(f"{path}: holds no scale of {name}")
        mean, std = entry["mean"], entry["std"]
        if not all(isinstance(part, int | float) and abs(part) < 1e9 for part in (mean, std)):
            raise EvaluationError(f"{path}: the scale of {name} must be two finite numbers")
        if not std > 0:
            raise EvaluationError(f"{path}: the deviation of {name} must be above 0")
        scales[name] = {"mean": float(mean), "std": float(std)}
    return scales


def summary(out: Path) -> dict[str, Any]:
    """What a run's `fusion.json` holds, but for the list of identities of a fit."""
    record: dict[str, Any] = read_json(out / FILE)
    return {name: value for name, value in record.items() if name != "persons"}


def read_fit(path: Path, names: Sequence[str]) -> tuple[dict[str, float], dict[str, Any]]:
    """The weights of an earlier fit's `fusion.json`, and all that it holds.

    Raises:
        CacheError: when the file is missing or was changed.
        EvaluationError: when it is not of these matchers.
    """
    record: dict[str, Any] = read_json(path)
    weights = record.get("weights")
    if not isinstance(weights, dict) or sorted(weights) != sorted(names) or "auc" not in record:
        raise EvaluationError(
            f"{path}: holds no fit of {' and '.join(names)}; a run with --fit-pairs writes one"
        )
    return {name: float(weights[name]) for name in names}, record


def read_fusion(path: Path, matcher: str) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Weights and scales of the matchers in a run's `fusion.json`.

    Args:
        matcher: `fused`, or the fusion by name that it must hold.

    Raises:
        CacheError: when the file is missing or was changed.
        EvaluationError: when it holds no fusion, or another.
    """
    weights = read_json(path).get("weights")
    if not isinstance(weights, dict) or not weights.keys() <= set(MATCHERS[:-1]):
        raise EvaluationError(f"{path}: holds no weights of matchers; give a run's fusion.json")
    # Without visibility data a fusion by name was fitted with qaconv in the place of its first.
    asked, found = (
        {name.removesuffix("+occlusion") for name in names}
        for names in (FUSIONS.get(matcher, weights), weights)
    )
    if asked != found:
        raise EvaluationError(f"{path}: holds the fusion of {', '.join(weights)}, not {matcher}")
    numbers = {name: float(weight) for name, weight in sorted(weights.items())}
    return numbers, read_scales(path, list(numbers))


def fuse(
    matchers: Mapping[str, Matcher],
    weights: Mapping[str, float],
    scales: Mapping[str, Mapping[str, float]],
) -> Fused:
    return Fused(
        tuple(
            FusedPart(matcher, weights[name], scales[name]["mean"], scales[name]["std"])
            for name, matcher in matchers.items()
        )
    )
