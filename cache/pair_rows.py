"""From the names of a list to rows of a cache, and from rows to the persons behind them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pair_lists import PairList
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import STATUSES

_SUFFIX = re.compile(r"\.(jpe?g|png|bmp|webp|ppm|pgm|tiff?|gif)$", re.IGNORECASE)
_AMBIGUOUS = -2


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
        listed: pairs in the list.
        left_out: the others.
    """

    number: NDArray[np.int64]
    probe: NDArray[np.int64]
    reference: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64] | None
    listed: int
    left_out: list[LeftOut]

    def __len__(self) -> int:
        return len(self.number)


def _tail(parts: int) -> Callable[[str], str]:
    return lambda key: "/".join(_SUFFIX.sub("", key).split("/")[-parts:])


# From strict to loose: a list may lack the suffix, or name the images from another root.
_FORMS: tuple[Callable[[str], str], ...] = (
    lambda key: key,
    lambda key: _SUFFIX.sub("", key),
    _tail(2),
    _tail(1),
)


def find_rows(cache: FaceCache, names: Iterable[str]) -> dict[str, int | str]:
    """The row of each name, or why there is none.

    A name is its row key; failing that, the key without its suffix, then the last two parts of
    the path, then the last part alone. The strictest form that any key has decides; when several
    keys have it, the name is ambiguous.

    Returns:
        Name → row, or "missing" or "ambiguous".
    """
    wanted = {name: name.replace("\\", "/").removeprefix("./").lstrip("/") for name in names}
    exact = cache.find(set(wanted.values()))
    rest = {clean for clean in wanted.values() if clean not in exact}
    hits: list[dict[str, int]] = [dict.fromkeys(map(form, rest), -1) for form in _FORMS]
    if rest:
        for start in range(0, len(cache), cache.plan.shard_rows):
            rows = range(start, min(start + cache.plan.shard_rows, len(cache)))
            for row, key in zip(rows, cache.texts("key", rows), strict=True):
                for form, found in zip(_FORMS, hits, strict=True):
                    name = form(key)
                    if name in found:
                        found[name] = row if found[name] == -1 else _AMBIGUOUS
    out: dict[str, int | str] = {}
    for name, clean in wanted.items():
        row = exact.get(clean, -1)
        for form, found in zip(_FORMS, hits, strict=True):
            if row == -1 and clean in rest:
                row = found[form(clean)]
        out[name] = "missing" if row == -1 else "ambiguous" if row == _AMBIGUOUS else row
    return out


def resolve(cache: FaceCache, pairs: PairList) -> PairRows:
    """Match the pairs with rows that can be used; the others are kept with their reason."""
    rows = find_rows(cache, dict.fromkeys([*pairs.first, *pairs.second]))
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
    )


def clusters(
    cache: FaceCache,
    probe: NDArray[np.int64],
    reference: NDArray[np.int64],
    same: NDArray[np.bool_],
) -> tuple[NDArray[np.int64], str]:
    """The person on either side of each pair, numbered from 0 without gaps.

    The cache's labels name them. Where they do not (a `.bin`, a flat folder), images that genuine
    pairs connect are one person, and an image that none connects is a person by itself.

    Args:
        cache: where the rows lie.
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
        _, people = np.unique(labels, return_inverse=True)
        return people[places].T.copy(), "labels"
    links = places[:, same]
    # Rows of one label belong together also where no pair says so.
    order = np.argsort(labels, kind="stable")
    alike = (labels[order][1:] == labels[order][:-1]) & (labels[order][1:] >= 0)
    links = np.concatenate([links, np.stack([order[:-1][alike], order[1:][alike]])], axis=1)
    graph = coo_array((np.ones(links.shape[1], bool), (links[0], links[1])), (len(rows),) * 2)
    _, people = connected_components(graph, directed=False)
    return people[places].T.astype(np.int64), "genuine pairs"
