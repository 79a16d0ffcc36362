"""bench/guidance.py: do the features of single heads, or asymmetry, tell look-alikes apart?

Each head of CAL pools features of its own: a part. A pair has a cosine for each part, and one for
the asymmetry of each part, which is the part less that of the mirrored image. A logistic
regression of these cosines, fitted on genuine pairs and look-alikes among the identities that were
learnt, weighs them; it is compared with the cosine of all features on identities that were not.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from guidance_faces import Split
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from faceguide.cache.reader import FaceCache
from faceguide.evaluate.lookalikes import lookalikes
from faceguide.evaluate.metrics.bootstrap import RocStatistic, interval, replicate
from faceguide.evaluate.metrics.roc import measure, rank

WEIGHINGS = ("parts", "asymmetry", "parts_asymmetry")
_EACH = 10  # pairs of one identity or couple, at most


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows of a cache.

    Attributes:
        first, second: (P,) rows.
        same: (P,) bool, one identity.
        labels: (P, 2) identities.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class PartPairs:
    """Genuine pairs and look-alikes, to fit a weighting and to test it."""

    fitted: Pairs
    tested: Pairs

    @classmethod
    def of(cls, cache: FaceCache, split: Split, embedding: Tensor) -> PartPairs:
        """Look-alikes of the learnt identities are found by their off-the-shelf embedding.

        Args:
            embedding: (rows, E) of every row.
        """
        labels = cache.read(np.arange(len(cache)), ["label"])["label"]
        learnt = split.train
        unit = nn.functional.normalize(embedding[learnt], dim=1).numpy()
        of = {label: learnt[labels[learnt] == label] for label in np.unique(labels[learnt])}
        rng = np.random.default_rng(0)

        def some(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
            return [pairs[place] for place in rng.permutation(len(pairs))[:_EACH]]

        chosen = [
            pair for rows in of.values() for pair in some(list(itertools.combinations(rows, 2)))
        ]
        for one, other in lookalikes(unit, labels[learnt], 1).couples:
            chosen += some(list(itertools.product(of[one], of[other])))
        fitted = np.array(chosen)
        compared = split.same | split.lookalike
        first, second = np.triu_indices(len(split.test), 1)
        tested = np.stack([split.test[first[compared]], split.test[second[compared]]], 1)
        return cls(_pairs(fitted, labels), _pairs(tested, labels))


def _pairs(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Pairs:
    both = labels[rows].astype(np.int64)
    return Pairs(rows[:, 0], rows[:, 1], both[:, 0] == both[:, 1], both)


def gains(pairs: PartPairs, features: Tensor) -> dict[str, float]:
    """AUC of each weighting on look-alikes less that of the cosine of all features.

    Args:
        features: (rows, 2, M, C) of every image and of its mirror image, by part.

    Returns:
        `gain_NAME`, `gain_NAME_low` and `gain_NAME_high`, the 95 % interval by identities.
    """
    fit, test = _cosines(pairs.fitted, features), _cosines(pairs.tested, features)
    heads = features.shape[2]
    columns = {
        "parts": np.arange(1, 1 + heads),
        "asymmetry": np.r_[0, 1 + heads : 1 + 2 * heads],
        "parts_asymmetry": np.arange(1, 1 + 2 * heads),
    }
    same = pairs.tested.same
    _, clusters = np.unique(pairs.tested.labels, return_inverse=True)
    clusters = clusters.reshape(-1, 2)
    people, right = int(clusters.max()) + 1, np.ones(len(same), bool)
    before = RocStatistic(rank(test[:, 0], same), clusters, right)
    found = {"auc_whole": measure(rank(test[:, 0], same)).auc}
    for name in WEIGHINGS:
        weighting = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        weighting.fit(fit[:, columns[name]], pairs.fitted.same)
        ranking = rank(weighting.decision_function(test[:, columns[name]]), same)
        after = RocStatistic(ranking, clusters, right)
        drawn = replicate(
            lambda counts, after=after: after(counts)[:1] - before(counts)[:1], people
        )
        low, high = interval(drawn) or (np.nan, np.nan)
        found |= {
            f"gain_{name}": measure(ranking).auc - found["auc_whole"],
            f"gain_{name}_low": low,
            f"gain_{name}_high": high,
        }
    return found


def _cosines(pairs: Pairs, features: Tensor) -> NDArray[np.float64]:
    """(P, 1 + 2·M): of all features, of each part, of each part's asymmetry."""
    parts = nn.functional.normalize(features.float(), dim=3)
    unlike = nn.functional.normalize(parts[:, 0] - parts[:, 1], dim=2)
    whole = nn.functional.normalize(features[:, 0].flatten(1).float(), dim=1)[:, None]
    first, second = torch.from_numpy(pairs.first), torch.from_numpy(pairs.second)
    found = [(one[first] * one[second]).sum(2).numpy() for one in (whole, parts[:, 0], unlike)]
    return np.concatenate(found, 1).astype(np.float64)
