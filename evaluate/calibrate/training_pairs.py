"""The pairs that a calibration is fitted on: training identities, as they are and under covers.

Each face is taken as it is and under a few drawn covers, whose visibility is known exactly. The
sides of a pair are faces of different images in random versions, so that the pairs show from
everything to next to nothing in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import EvaluationError
from faceguide.evaluate.score.embed import Beside, beside_of
from faceguide.evaluate.score.quick_forward import (
    batch_size_of,
    in_threads,
    quickened,
    workers_of,
)
from faceguide.train.data.training_rows import require_meta
from faceguide.train.distil.alterations import Alterations
from faceguide.train.models.loading.network import Network
from faceguide.train.training_settings import SHAPES

LEAST = 30  # identities with two faces or more
_MOST = 1000  # faces, those of whole identities
_COVERS = 4  # versions of each face, besides the one without a cover
_FIRST_COVER = 1000  # other drawings than those that `train distil` shows a network
# Share of the faces without a cover, of the first side of a pair and of the second.
_CLEAN = 0.28, 0.6
_ROUNDS, _IMPOSTORS = 3, 40_000  # per round, in which every genuine pair occurs once


@dataclass(frozen=True)
class Pairs:
    """N pairs of M faces.

    Attributes:
        probe, reference: (N,) places among the faces.
        probe_version, reference_version: (N,) 0 = without a cover.
        same: (N,) pairs of one identity.
        person: (N, 2) identity of either side.
    """

    probe: NDArray[np.int64]
    reference: NDArray[np.int64]
    probe_version: NDArray[np.int64]
    reference_version: NDArray[np.int64]
    same: NDArray[np.bool_]
    person: NDArray[np.int64]


def rows_of(
    cache: FaceCache, meta: dict[str, str], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Up to `_MOST` rows of labelled identities, those with several faces first; their labels.

    Raises:
        EvaluationError: with fewer than `LEAST` identities of two faces.
        TrainError: when a value of `meta` is not in the cache.
    """
    require_meta(cache, meta)
    rows = cache.select(labelled=True, meta=meta or None)
    labels = cache.read(rows, ["label"])["label"]
    people, counts = np.unique(labels, return_counts=True)
    several = int((counts > 1).sum())
    if several < LEAST:
        raise EvaluationError(
            f"{cache.directory}: a calibration needs {LEAST} identities with two faces or more, "
            f"found {several}; give a larger training cache"
        )
    order = np.random.default_rng(seed).permutation(len(people))
    order = order[np.argsort(counts[order] < 2, kind="stable")]
    inside = np.cumsum(np.minimum(counts[order], _MOST // LEAST)) <= _MOST
    chosen = []
    for person in people[order[inside]]:
        chosen.append(rows[labels == person][: _MOST // LEAST])
    kept = np.sort(np.concatenate(chosen))
    return kept, labels[np.isin(rows, kept)]


def versions(
    cache: FaceCache, network: Network, rows: NDArray[np.int64], source: str, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Maps and visibility of the faces without a cover, then under each of the drawn ones.

    Args:
        rows: (M,).
        source: of the visibility: "head", or "cache": exact, with the cache's masks.

    Yields:
        (M, C, s, s) float16 and (M, g, g) float32.
    """
    network.check_size(cache.require("image").shape[0], str(cache.directory))
    quick, step = quickened(network), batch_size_of(network)
    masked = {"visibility", "known"} if "visibility" in cache.columns else set()
    columns = sorted({"image", *network.columns, *masked})
    groups = frozenset({"map", "visibility"} if source == "head" else {"map"})
    covers = Alterations(cache, rows, SHAPES, seed)

    def prepared(version: int) -> Iterator[tuple[NDArray[np.uint8], Tensor, Beside]]:
        """Images, visibility and what the network is told besides, a few faces at a time."""
        for start in range(0, len(rows), step):
            places = np.arange(start, min(start + step, len(rows)))
            batch = cache.read(rows[places], columns)
            images, seen = batch["image"], torch.ones(len(places), 7, 7)
            if masked:
                known = torch.from_numpy(batch["known"])[:, None, None]
                seen = torch.from_numpy(batch["visibility"]).float().where(known, 1.0)
            if version:
                images, left = covers.cover(places, _FIRST_COVER + version)
                grid = int(seen.shape[-1])
                seen = seen * nn.functional.adaptive_avg_pool2d(torch.from_numpy(left), grid)
            yield images, seen, beside_of(network, batch)

    def described(
        worker: Network, block: tuple[NDArray[np.uint8], Tensor, Beside]
    ) -> tuple[Tensor, Tensor]:
        images, seen, beside = block
        found = worker.describe(torch.from_numpy(images), groups, **beside)
        if source == "head":
            seen = torch.from_numpy(found["visibility"]).float()
        return torch.from_numpy(found["feature_map"]), seen

    for version in range(1 + _COVERS):
        parts = list(in_threads(described, prepared(version), [quick] * workers_of(network)))
        yield torch.cat([maps for maps, _ in parts]), torch.cat([seen for _, seen in parts])


def pairs_of(person: NDArray[np.int64], seed: int, *, covers: bool) -> Pairs:
    """All genuine pairs and `_IMPOSTORS` others in each of `_ROUNDS`, in random versions.

    Args:
        person: (M,) identity of each face.
        covers: whether faces get any; else there is one round, of more impostors.
    """
    rng = np.random.default_rng([seed, int(covers)])
    rounds = _ROUNDS if covers else 1
    first, second = np.nonzero(np.triu(person[:, None] == person[None], 1))
    flip = rng.random((rounds, len(first))) < 0.5
    other = rng.integers(0, len(person), (2, _ROUNDS * _IMPOSTORS))
    other = other[:, person[other[0]] != person[other[1]]]
    probe = np.concatenate([np.where(flip, first, second).ravel(), other[0]])
    reference = np.concatenate([np.where(flip, second, first).ravel(), other[1]])
    version = np.zeros((2, len(probe)), np.int64)
    if covers:
        for side, clean in enumerate(_CLEAN):
            chances = [clean, *[(1 - clean) / _COVERS] * _COVERS]
            version[side] = rng.choice(1 + _COVERS, len(probe), p=chances)
    people = np.stack([person[probe], person[reference]], 1)
    return Pairs(probe, reference, version[0], version[1], people[:, 0] == people[:, 1], people)
