"""From a list of pairs to rows of a cache, and from rows to the identities behind them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.name_rows import Matches, find_rows, match_names
from faceguide.cache.pairs.pair_lists import PairList
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import STATUSES

__all__ = ["LeftOut", "PairRows", "clusters", "find_rows", "resolve"]


@dataclass(frozen=True)
class LeftOut:
    """A pair that cannot be scored, and why."""

    number: int  # its place in the list, from 0
    first: str
    second: str
    reason: str


@dataclass(frozen=True)
class PairRows:
    """The pairs of a list that can be scored.

    Attributes:
        number: (N,) int64, place of each in the list.
        probe: (N,) int64 rows of the cache.
        reference: (N,) int64 rows of the cache.
        same: (N,) bool.
        fold: (N,) int64 or None.
        matches: how the names of the list were matched.
    """

    number: NDArray[np.int64]
    probe: NDArray[np.int64]
    reference: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64] | None
    listed: int
    left_out: list[LeftOut]
    matches: Matches = field(default_factory=lambda: Matches({}, [], []))

    def __len__(self) -> int:
        return len(self.number)


def resolve(cache: FaceCache, pairs: PairList) -> PairRows:
    """Match the pairs with rows that can be used; the others are kept with their reason."""
    matches = match_names(cache, dict.fromkeys([*pairs.first, *pairs.second]))
    rows = matches.rows
    known = np.array(sorted({row for row in rows.values() if isinstance(row, int)}), np.int64)
    status = cache.read(known, ["status"])["status"] if len(known) else np.empty(0, np.uint8)
    coded = zip(known.tolist(), status.tolist(), strict=True)
    failed = {row: STATUSES[code] for row, code in coded if code}
    usable: list[tuple[int, int, int]] = []
    left_out = []
    for number, names in enumerate(zip(pairs.first, pairs.second, strict=True)):
        reasons = []
        found: list[int] = []
        for name in dict.fromkeys(names):
            row = rows[name]
            if isinstance(row, str):
                reasons.append(f"{name}: {row}")
            elif row in failed:
                reasons.append(f"{name}: {failed[row]}")
            else:
                found.append(row)
        if reasons:
            left_out.append(LeftOut(number, *names, "; ".join(reasons)))
        else:
            usable.append((number, found[0], found[-1]))
    table = np.array(usable, np.int64).reshape(-1, 3)
    numbers = table[:, 0]
    return PairRows(
        numbers,
        table[:, 1],
        table[:, 2],
        pairs.same[numbers],
        None if pairs.fold is None else pairs.fold[numbers],
        len(pairs),
        left_out,
        matches,
    )


def clusters(
    cache: FaceCache,
    probe: NDArray[np.int64],
    reference: NDArray[np.int64],
    same: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], str]:
    """The identity on either side of each pair, numbered from 0 without gaps.

    The cache's labels name them. Where they do not (a `.bin`, a flat folder), images that genuine
    pairs connect are one identity, and an image that none connects is an identity by itself.

    Args:
        probe: (N,) rows.
        reference: (N,) rows.
        same: (N,) bool.

    Returns:
        (N, 2) int64, and where they come from: "labels" or "genuine pairs".
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, places = np.unique(np.stack([probe, reference]), return_inverse=True)
    places = places.reshape(2, -1)  # (2, N)
    labels = cache.read(rows, ["label"])["label"]
    if len(rows) and (labels >= 0).all():
        _, identities = np.unique(labels, return_inverse=True)
        return identities[places].T.copy(), "labels"
    links = places[:, same]
    # Rows of one label belong together also where no pair says so.
    order = np.argsort(labels, kind="stable")
    alike = (labels[order][1:] == labels[order][:-1]) & (labels[order][1:] >= 0)
    links = np.concatenate([links, np.stack([order[:-1][alike], order[1:][alike]])], axis=1)
    graph = coo_array((np.ones(links.shape[1], bool), (links[0], links[1])), (len(rows),) * 2)
    _, identities = connected_components(graph, directed=False)
    return identities[places].T.astype(np.int64), "genuine pairs"
