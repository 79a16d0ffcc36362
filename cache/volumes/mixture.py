"""Weighted mixing of volumes: how often each comes, computed and never stored.

An epoch has as many places as there are rows. Each volume gets its share of them, and fills them
with its rows in one shuffled round after another, which run on over epochs: a small volume with a
large share repeats, evenly; a large one with a small share is seen in full after some epochs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from faceguide.cache.permutation import permute
from faceguide.cache.reader import FaceCache
from faceguide.cache.volumes.shard_rows import Rows
from faceguide.core.errors import CacheError

_KEY = 3  # apart from the shuffle of the places


@dataclass(frozen=True, eq=False)
class Mixture:
    """Which rows of which volumes fill the places of an epoch.

    Attributes:
        parts: (N,) rows of the union, by volume.
        counts: places of each volume in an epoch.
    """

    parts: tuple[Rows, ...]
    counts: tuple[int, ...]

    def rows(self, place: Rows, seed: int, epoch: int) -> Rows:
        """The rows at some places, (N,), of 0 … sum of the counts − 1."""
        ends = np.cumsum(self.counts)
        out = np.empty_like(place)
        for number, (part, count) in enumerate(zip(self.parts, self.counts, strict=True)):
            here = np.flatnonzero((place >= ends[number] - count) & (place < ends[number]))
            turn = epoch * count + place[here] - (ends[number] - count)
            rounds, inside = np.divmod(turn, max(1, len(part)))
            for one in np.unique(rounds).tolist():
                now = rounds == one
                order = permute(inside[now], len(part), (seed, _KEY, number, one))
                out[here[now]] = part[order]
        return out


def mixture_of(cache: FaceCache, rows: Rows, weights: Mapping[str, float]) -> Mixture | None:
    """The mixture of the volumes' rows by weights.

    Args:
        rows: (N,) rows that may come.
        weights: name of each volume → its weight, 0 or above; only their ratios count.

    Returns:
        None without weights.

    Raises:
        CacheError: when a volume has no weight, or one with a weight has no rows.
    """
    if not weights:
        return None
    if len(cache.names) == 1 or weights.keys() != set(cache.names):
        raise CacheError(
            f"{cache.directory}: weights are for several caches, one each: "
            f"{', '.join(cache.names)}; found {', '.join(weights)}"
        )
    values = np.array([weights[name] for name in cache.names], np.float64)
    if not (np.isfinite(values) & (values >= 0)).all() or not values.sum():
        raise CacheError(f"{cache.directory}: weights are 0 or above and not all 0")
    owners = np.searchsorted(cache.starts, rows, side="right") - 1
    parts = tuple(rows[owners == number] for number in range(len(values)))
    for name, part, value in zip(cache.names, parts, values.tolist(), strict=True):
        if value and not len(part):
            raise CacheError(f"{cache.directory}: no row of {name} passes the filters; weigh it 0")
    exact = values / values.sum() * len(rows)
    counts = [math.floor(share) for share in exact]
    left = np.argsort(np.floor(exact) - exact, kind="stable")[: len(rows) - sum(counts)]
    for number in left.tolist():
        counts[number] += 1
    return Mixture(parts, tuple(counts))
