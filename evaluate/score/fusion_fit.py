"""Fusions by name: scale and weight of two matchers, fitted only on training pairs.

`qaconv+cosine` and `qaconv+visible-embedding` add two scores, each brought to mean 0 and
deviation 1 over the training pairs; the share of the first is the one of 0, 0.05, …, 1 with the
largest AUC on those pairs. Pairs of the tested identities would make it look better than it is,
so such identities are looked for and named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.pair_doubts import pair_doubts
from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.pairs.pair_rows import PairRows, resolve
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import EvaluationError
from faceguide.evaluate.metrics.roc import measure, rank

SHARES = np.linspace(0.0, 1.0, 21)


@dataclass(frozen=True)
class Fit:
    """A fitted fusion.

    Attributes:
        scales: part → {"mean", "std"} of its score over the training pairs.
        weights: part → share of its scaled score, together 1.
        auc: of the fusion on the training pairs.
        alone: part → its AUC there.
    """

    scales: dict[str, dict[str, float]]
    weights: dict[str, float]
    auc: float
    alone: dict[str, float]

    def score(self, scores: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
        """The fused score from those of the parts, arrays of one shape."""
        return sum(
            self.weights[name] * (np.asarray(scores[name], np.float64) - scale["mean"])
            / scale["std"]
            for name, scale in self.scales.items()
        )  # type: ignore[return-value]  # fmt: skip


def fit(scores: Mapping[str, NDArray[np.floating]], same: NDArray[np.bool_]) -> Fit:
    """Scales and shares of two matchers.

    Args:
        scores: name → (N,) of the training pairs, two of them.
        same: (N,) bool, pairs of one identity.

    Raises:
        EvaluationError: without pairs of both kinds, or when a matcher gives all one score.
    """
    if not same.any() or same.all():
        raise EvaluationError("a fusion is fitted on pairs of one identity and pairs of two")
    (first, one), (second, two) = (
        (name, np.asarray(values, np.float64)) for name, values in scores.items()
    )
    scales = {}
    for name, values in ((first, one), (second, two)):
        if not values.std() > 0:
            raise EvaluationError(f"{name} gives all training pairs one score; it cannot be fused")
        scales[name] = {"mean": float(values.mean()), "std": float(values.std())}
    one, two = ((v - v.mean()) / v.std() for v in (one, two))
    aucs = np.array([measure(rank(w * one + (1 - w) * two, same)).auc for w in SHARES])
    # Few pairs are separated perfectly by many shares: the middle one is the safest.
    best = np.flatnonzero(aucs == aucs.max())
    chosen = int(best[len(best) // 2])
    share = float(SHARES[chosen])
    return Fit(
        scales,
        {first: share, second: 1.0 - share},
        float(aucs[chosen]),
        {first: float(aucs[-1]), second: float(aucs[0])},
    )


def read_fit_pairs(path: Path, split: str | None, cache: FaceCache) -> tuple[PairRows, Doubts]:
    """The training pairs of a list as rows of their cache, and what looks wrong about the list.

    Raises:
        EvaluationError: when none of them is in the cache.
        ListError: when the file is no list of pairs.
    """
    pairs = read_pairs(path, split)
    found = resolve(cache, pairs)
    if not len(found):
        raise EvaluationError(
            f"{path}: none of its {found.listed} training pairs has both images in "
            f"{cache.directory}; the first: {found.left_out[0].reason}"
        )
    return found, pair_doubts(cache, pairs, found).doubts


def record(
    fitted: Fit, path: Path, cache: FaceCache, pairs: PairRows, doubts: Doubts
) -> dict[str, Any]:
    """What fusion.json keeps of a fit: itself, its pairs and their identities."""
    return {
        **asdict(fitted),
        "fit_pairs": str(path.resolve()),
        "fit_cache": str(cache.directory.resolve()),
        "pairs": len(pairs),
        "genuine": int(pairs.same.sum()),
        "left_out": len(pairs.left_out),
        "doubts": doubts.counts(),
        "persons": sorted(persons_of(cache, np.union1d(pairs.probe, pairs.reference))),
    }


def shared(kept: Mapping[str, Any], cache: FaceCache, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Identities, or else images, that a fit shares with the rows of a test, by name.

    Args:
        rows: (N,) rows that are tested.
    """
    found = sorted(set(kept["persons"]) & persons_of(cache, np.unique(rows)))
    return {"count": len(found), "names": found[:100]}


def persons_of(cache: FaceCache, rows: NDArray[np.int64]) -> set[str]:
    """Names of the identities of these rows; of rows without one their keys."""
    labels = cache.read(rows, ["label"])["label"]
    people = cache.identities
    named = {people[label] for label in np.unique(labels).tolist() if label >= 0}
    return named | set(cache.texts("key", rows[labels < 0].tolist()))
