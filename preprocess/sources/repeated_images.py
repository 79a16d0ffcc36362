"""Images that a set holds more than once: under two identities, or repeated under one.

A finished cache shows it without another look at the source: equal images gave equal crops, whose
digests stand in the rows.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import STATUS_CODE, columns, digested
from faceguide.core.commands.doubts import Doubts
from faceguide.preprocess.sources.source_row import Source

_CHUNK = 1 << 16  # rows read at a time
_HELD = 1 << 26  # rows whose digests are held at a time, of those that a cache has


def repeated_rows(cache: FaceCache) -> Doubts:
    """Doubts about the labelled faces of a cache: `two_identities` and `repeated_images`.

    Images in which no face was found are in no row that counts, and are not compared.
    """
    doubts = Doubts()

    def keys(rows: NDArray[np.int64]) -> list[str]:
        return cache.texts("key", rows)

    passes = -(-len(cache) // _HELD)
    for number in range(passes):
        rows, labels, codes = _labelled(cache, number, passes)
        for group in _equal(codes):
            _count(doubts, rows[group], labels[group], keys)
    return doubts


class SeenImages:
    """The images of a source as they are decoded one by one; 16 bytes are held of each."""

    def __init__(self) -> None:
        self._codes, self._labels = array("Q"), array("q")

    def add(self, pixels: bytes, label: int) -> None:
        """An image by its `pixel_digest`; label −1: none."""
        self._codes.append(int.from_bytes(pixels, "little"))
        self._labels.append(label)

    def doubts(self, source: Source) -> Doubts:
        """`two_identities` and `repeated_images`; relists the source to name an example."""
        doubts = Doubts()
        labels = np.frombuffer(self._labels, np.int64)
        known = np.flatnonzero(labels >= 0)

        def keys(numbers: NDArray[np.int64]) -> list[str]:
            wanted = set(numbers.tolist())
            return [row.key for number, row in enumerate(source.rows()) if number in wanted]

        for group in _equal(np.frombuffer(self._codes, np.uint64)[known]):
            _count(doubts, known[group], labels[known[group]], keys)
        return doubts


def pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    """Eight bytes that only equal pictures share."""
    data = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=8)
    data.update(pixels.tobytes())
    return data.digest()


def _labelled(
    cache: FaceCache, number: int, passes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Rows, labels and digests of the crops, of one of `passes` shares of them."""
    place = digested(columns("faces", cache.recipe)).index(("image",))
    parts = []
    for start in range(0, len(cache), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(cache)))
        values = cache.read(rows, ["label", "status", "digest"])
        codes = values["digest"][:, place]
        good = (values["status"] == STATUS_CODE["ok"]) & (values["label"] >= 0)
        good &= codes % np.uint64(passes) == number
        parts.append((rows[good], values["label"][good], codes[good]))
    rows, labels, codes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return rows, labels, codes


def _equal(codes: NDArray[np.unsignedinteger]) -> Iterator[NDArray[np.int64]]:
    """The places of equal codes, group by group, in order; single ones are left out."""
    order = np.argsort(codes, kind="stable")
    ends = np.flatnonzero(np.diff(codes[order])) + 1
    starts, ends = np.append(0, ends), np.append(ends, len(order))
    for group in np.flatnonzero(ends - starts > 1):
        yield order[starts[group] : ends[group]]


def _count(
    doubts: Doubts,
    numbers: NDArray[np.int64],
    labels: NDArray[np.int64],
    keys: Callable[[NDArray[np.int64]], list[str]],
) -> None:
    """Count one group of equal images, given by number and label; the first of a kind is named."""
    distinct, first, counts = np.unique(labels, return_index=True, return_counts=True)
    found: list[tuple[str, int, NDArray[np.int64]]] = []
    if len(distinct) > 1:
        found.append(("two_identities", 1, numbers[np.sort(first)[:2]]))
    if again := len(labels) - len(distinct):
        same = numbers[labels == distinct[np.argmax(counts)]][:2]
        found.append(("repeated_images", again, same))
    for kind, count, some in found:
        named = kind in doubts.counts()
        doubts.add(kind, "" if named else " and ".join(map(repr, keys(some))), count)
