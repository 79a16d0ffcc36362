"""The surround test: what a fixed threshold lets in when two identities share hair and background.

With X(f, s) the face of f in the surround of s, two identities:

* *far_shared*: share of the pairs s, X(f, s) that pass the threshold whose false accept rate is
  0.001 on the clean pairs of the same faces;
* *face_over_hair*: share of the images g of f's identity with X(f, s) nearer to g than to s;
* *pull*: mean of the score of s, X(f, s) less that of s, f, in standard deviations of the clean
  impostor scores: how far another face's surround draws one towards it;
* *tar_swapped*, *tar_grey* …: TAR at a FAR of 0.001 of unchanged faces against changed ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import EvaluationError
from faceguide.evaluate.metrics.bootstrap import PairWeights, interval, replicate
from faceguide.evaluate.metrics.roc import (
    LEAST_FALSE_ACCEPTS,
    Ranking,
    measure,
    rank,
    threshold_at,
)
from faceguide.evaluate.surround.looked_at import COVERS, Faces

FAR = 1e-3
Floats = NDArray[np.floating]
Embed = Callable[[str], Floats]  # "clean", "swapped" or one of COVERS → unit embeddings


def surround_scores(
    faces: Faces, embed: Embed, replicates: int, seed: int
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """The figures of the surround test, and the (K,) scores of s, X(f, s).

    Args:
        embed: unit embeddings: (N, E) of the faces as they are, (K, E) of X(f, s), (P, E) of each
            cover of the faces that have mates.
        replicates: resamples of identities behind the intervals; 0 = none. The threshold stays.

    Raises:
        EvaluationError: with fewer impostor pairs than a FAR of 0.001 needs.
    """
    clean, swapped = embed("clean"), embed("swapped")
    labels = faces.labels
    first, second = np.triu_indices(len(clean), 1)
    scores, same = (clean @ clean.T)[first, second], labels[first] == labels[second]
    impostors, needed = int((~same).sum()), round(LEAST_FALSE_ACCEPTS / FAR)
    if impostors < needed:
        raise EvaluationError(
            f"a threshold at a FAR of {FAR:g} needs {needed:,} impostor pairs, these "
            f"{len(clean):,} faces give {impostors:,}: give a cache of more identities"
        )
    ranking = rank(scores, same)
    found = measure(ranking, (FAR,))
    threshold = threshold_at(ranking, int(found.point[0]))

    face, surround = faces.face, faces.surround
    shared = np.einsum("ke,ke->k", swapped, clean[surround])
    unshared = np.einsum("ke,ke->k", clean[face], clean[surround])
    pulls = (shared - unshared) / scores[~same].std()
    # Every X(f, s) with every other image of f's identity.
    mates = labels[face][:, None] == labels[None]
    mates[np.arange(len(face)), face] = False
    number, mate = np.nonzero(mates)
    kept = np.einsum("ke,ke->k", swapped[number], clean[mate])

    hard = np.column_stack([labels[surround], labels[face]])

    def spread(values: Floats, clusters: NDArray[np.int64]) -> list[float] | None:
        weights = PairWeights(clusters)

        def mean(counts: NDArray[np.int32]) -> NDArray[np.float64]:
            weight = weights(counts)
            total = weight.sum()
            return np.array(weight @ values / total if total else np.nan)

        return interval(replicate(mean, int(labels.max()) + 1, replicates, seed))

    accepted = (shared >= threshold).astype(np.float64)
    nearer = (kept > shared[number]).astype(np.float64)
    record: dict[str, Any] = {
        "far": FAR,
        "threshold": threshold,
        "tar_clean": float(found.tar[0]),
        "far_shared": float(accepted.mean()),
        "far_shared_interval": spread(accepted, hard),
        "face_over_hair": float(nearer.mean()),
        "face_over_hair_interval": spread(nearer, hard[number]),
        "pull": float(pulls.mean()),
        "pull_interval": spread(pulls, hard),
        "tar_swapped": _tar(swapped @ clean.T, labels, face, surround),
    }
    for cover in COVERS:
        record[f"tar_{cover}"] = _tar(embed(cover) @ clean.T, labels, faces.mated)
    record |= {
        "n_faces": len(clean),
        "n_identities": int(labels.max()) + 1,
        "n_genuine": int(same.sum()),
        "n_impostor": impostors,
        "n_hard": len(face),
        "n_swapped": len(kept),
        "without_landmarks": faces.without_landmarks,
    }
    return record, shared.astype(np.float64)


def _tar(
    scores: Floats,
    labels: NDArray[np.int64],
    place: NDArray[np.int64],
    surround: NDArray[np.int64] | None = None,
) -> float:
    """TAR at a FAR of 0.001 of changed faces against all unchanged ones but their own.

    Args:
        scores: (K, N) of changed faces against the N.
        place: (K,) whose face each is.
        surround: (K,) whose surround it has; images of that identity are left out.
    """
    same = labels[place][:, None] == labels[None]
    used = np.ones_like(same)
    used[np.arange(len(place)), place] = False
    if surround is not None:
        used &= labels[surround][:, None] != labels[None]
    ranking: Ranking = rank(scores[used], same[used])
    return float(measure(ranking, (FAR,)).tar[0])


def told(record: dict[str, Any]) -> str:
    """The figures as lines."""

    def between(name: str, scale: float, digits: int) -> str:
        ends = record[f"{name}_interval"]
        return "" if ends is None else " [{:.{d}f}, {:.{d}f}]".format(
            *(scale * end for end in ends), d=digits
        )  # fmt: skip

    shared = 100 * record["far_shared"]
    tars = "  ".join(
        f"{name} {100 * record[f'tar_{name}']:.1f} %" for name in ("clean", "swapped", *COVERS)
    )
    return "\n".join(
        (
            f"{record['n_faces']:,} faces of {record['n_identities']:,} identities; threshold "
            f"{record['threshold']:.4f} at FAR {FAR:g} of {record['n_impostor']:,} clean impostors",
            f"shared surround  {shared:.2f} %{between('far_shared', 100, 2)} false accepts at that "
            f"threshold, {record['far_shared'] / FAR:.0f} times as many ({record['n_hard']:,} "
            "pairs)",
            f"face over hair   {100 * record['face_over_hair']:.1f} %"
            f"{between('face_over_hair', 100, 1)} of {record['n_swapped']:,} comparisons",
            f"pull             {record['pull']:.2f}{between('pull', 1, 2)} standard deviations of "
            "impostor scores",
            f"TAR@1e-3         {tars}",
        )
    )
