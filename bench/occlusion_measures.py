"""Tests of covered faces, and what is measured on them: AUC, TAR, rank-1, visibility."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from occlusion_faces import Faces

from faceguide.evaluate.metrics.bootstrap import draw_counts, interval
from faceguide.evaluate.metrics.roc import measure, rank
from faceguide.train.models.matchers.visible_embedding import VisibleEmbedding

FARS = (1e-2, 1e-3)
MEASURES = ("auc", "tar_1e-2", "tar_1e-3", "rank1")

Score = Callable[[Faces, Faces], NDArray[np.float32]]


@dataclass
class Test:
    """A matrix of pairs; an image is not compared with itself."""

    name: str
    probe: Faces
    gallery: Faces
    triangle: bool = False

    def pairs(self) -> NDArray[np.bool_]:
        if self.triangle:
            return np.triu(np.ones((len(self.probe.name),) * 2, bool), 1)
        # Covered and clean versions of one photograph are one image.
        return np.array([[a != b for b in self.gallery.name] for a in self.probe.name])


def maps_only(faces: Faces) -> Faces:
    return Faces(faces.maps, torch.ones_like(faces.visibility), faces.person, faces.name)


def visible_score(matcher: VisibleEmbedding) -> Score:
    def score(probe: Faces, gallery: Faces) -> NDArray[np.float32]:
        with torch.inference_mode():
            return matcher(probe.maps, gallery.maps, probe.visibility, gallery.visibility).numpy()

    return score


def measured(test: Test, scores: NDArray[np.float32], replicates: int) -> dict[str, Any]:
    """AUC, TAR and rank-1, and the same of every replicate of the identities."""
    pairs = test.pairs()
    same = test.probe.person[:, None] == test.gallery.person[None]
    people, where = np.unique(
        np.concatenate([test.probe.person, test.gallery.person]), return_inverse=True
    )
    of_probe, of_gallery = where[: len(test.probe.person)], where[len(test.probe.person) :]
    first = np.broadcast_to(of_probe[:, None], same.shape)[pairs]
    second = np.broadcast_to(of_gallery[None], same.shape)[pairs]
    ranking = rank(scores[pairs], same[pairs])
    found = measure(ranking, FARS)
    # Rank 1 over all other faces, for probes that have somebody to find.
    allowed = pairs | pairs.T if test.triangle else pairs
    hits = np.where(allowed, scores if not test.triangle else np.triu(scores, 1)
                    + np.triu(scores, 1).T, -np.inf)  # fmt: skip
    answers = np.flatnonzero((same & allowed).any(1))
    right = same[answers, hits[answers].argmax(1)]
    genuine, impostor = ranking.genuine, ranking.impostor
    drawn = np.full((replicates, 2 + len(FARS)), np.nan)
    for number in range(replicates):
        counts = draw_counts(len(people), 0, number)
        one = measure(
            ranking,
            FARS,
            counts[first[genuine]],
            counts[first[impostor]] * counts[second[impostor]],
        )
        weight = counts[of_probe[answers]]
        found_share = (weight * right).sum() / max(weight.sum(), 1)
        drawn[number] = (one.auc, *one.tar, found_share)
    return {
        "auc": found.auc,
        "tar_1e-2": float(found.tar[0]),
        "tar_1e-3": float(found.tar[1]),
        "rank1": float(right.mean()),
        "genuine": len(genuine),
        "impostor": len(impostor),
        "drawn": drawn,
    }


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Differences of two matchers on one test, with 95 % intervals of the paired replicates."""
    found: dict[str, Any] = {}
    for place, name in enumerate(MEASURES):
        bounds = interval(one["drawn"][:, place] - other["drawn"][:, place])
        low, high = bounds if bounds else (None, None)
        found[name] = {"difference": one[name] - other[name], "low": low, "high": high}
    return {
        "auc": found["auc"]["difference"],
        "low": found["auc"]["low"],
        "high": found["auc"]["high"],
        **{name: found[name] for name in MEASURES[1:]},
    }
