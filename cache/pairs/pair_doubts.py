"""What a list of pairs says against the labels and the pixels of a cache, and against itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.equal_images import pictures
from faceguide.cache.pairs.pair_lists import PairList
from faceguide.cache.pairs.pair_rows import PairRows, clusters
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.doubts import Doubts

CONTRADICTIONS = ("contradict_labels", "contradict_list")
MOST_NOISE = 0.01  # share of pairs that data sets get wrong by themselves
_INVERTED = 0.9  # a list with more contradictions has 0 and 1 exchanged


@dataclass(frozen=True)
class PairDoubts:
    """What looks wrong about the pairs of a list.

    Attributes:
        doubts: the counts; a kind of pairs counts pairs, a kind of names names.
        of_pairs: kind → places in `PairRows` of the pairs that it counts, in increasing order.
        first: (N,) bool, whether no earlier pair compares the same two rows.
    """

    doubts: Doubts
    of_pairs: dict[str, NDArray[np.int64]]
    first: NDArray[np.bool_]


def is_contradicted(counts: dict[str, int], pairs: int) -> bool:
    """Whether more than 1 % of so many pairs contradict labels or other pairs."""
    return sum(counts.get(kind, 0) for kind in CONTRADICTIONS) > MOST_NOISE * pairs


def pair_doubts(cache: FaceCache, pairs: PairList, rows: PairRows) -> PairDoubts:
    """Check a list whose names are matched with rows."""
    low, high = np.minimum(rows.probe, rows.reference), np.maximum(rows.probe, rows.reference)
    _, firsts = np.unique(low * len(cache) + high, return_index=True)
    first = np.zeros(len(rows), bool)
    first[firsts] = True
    used, places = np.unique(np.stack([rows.probe, rows.reference]), return_inverse=True)
    label = cache.read(used, ["label"])["label"][places.reshape(2, -1)]
    picture = pictures(cache, used)[places.reshape(2, -1)]
    labelled = np.asarray((label >= 0).all(0))
    truth = label[0] == label[1]
    contradicts = labelled & (truth != rows.same)
    apart = rows.probe != rows.reference
    found = {
        "contradict_labels": contradicts,
        "contradict_list": ~labelled & ~rows.same & _connected(cache, rows),
        "self_pairs": ~apart,
        "equal_images": apart & (picture[0] == picture[1]),
        "repeated_pairs": ~first & _is_repetitive(rows, first),
    }
    of_pairs = {kind: np.flatnonzero(where) for kind, where in found.items() if where.any()}
    doubts = Doubts()
    for kind, where in of_pairs.items():
        number = int(rows.number[where[0]])
        names = f"{pairs.first[number]}, {pairs.second[number]}"
        doubts.add(kind, f"pair {number}, {names}", len(where))
    count = int(contradicts.sum())
    if count > _INVERTED * max(int(labelled.sum()), 1):
        doubts.add("inverted_labels", count=count)
    elif count > 1 and _is_shifted(pairs, rows, truth, labelled, count):
        doubts.add("shifted_labels", count=count)
    doubts.update(rows.matches.doubts())
    doubts.update(pairs.doubts)
    return PairDoubts(doubts, of_pairs, first)


def _is_repetitive(rows: PairRows, first: NDArray[np.bool_]) -> bool:
    """Whether pairs are repeated that a list of pairs drawn at random would not repeat."""
    if (~first & rows.same).any() or np.count_nonzero(~first) > MOST_NOISE * len(rows):
        return True
    images = len(np.unique([rows.probe, rows.reference]))
    impostors = np.count_nonzero(~rows.same)
    expected = impostors**2 / max(images * (images - 1), 1)
    return bool(np.count_nonzero(~first) > 3 * expected)


def _connected(cache: FaceCache, rows: PairRows) -> NDArray[np.bool_]:
    """(N,) whether genuine pairs and labels make one identity of the two rows."""
    if not len(rows):
        return np.zeros(0, bool)
    identity, source = clusters(cache, rows.probe, rows.reference, rows.same)
    if source == "labels":
        return np.zeros(len(rows), bool)
    return np.asarray(identity[:, 0] == identity[:, 1])


def _is_shifted(
    pairs: PairList,
    rows: PairRows,
    truth: NDArray[np.bool_],
    labelled: NDArray[np.bool_],
    count: int,
) -> bool:
    """Whether the labels of the neighbouring lines explain nine of ten contradictions."""
    for by in (-1, 1):
        place = rows.number + by
        inside = labelled & (place >= 0) & (place < len(pairs))
        if np.count_nonzero(pairs.same[place[inside]] != truth[inside]) <= count // 10:
            return True
    return False
