"""A source without the images that a cache holds already, by their content."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import piece_digests
from faceguide.preprocess.sources.source_row import ReadError, Source, SourceRow, source_digest


class NewImages(Source):
    """The rows of a source whose files are not in a cache; each file is read to tell.

    An image with a key of the cache and other content is kept, and counted among the doubts; so is
    one that the cache has under another identity, which is left out.
    """

    def __init__(self, source: Source, cache: FaceCache) -> None:
        self.path, self.kind, self.columns = source.path, source.kind, source.columns
        self._source, self._cache = source, cache
        self.doubts = source.doubts

    def rows(self) -> Iterator[SourceRow]:
        first, second, labels, keys = self._held
        identities = self._cache.identities
        for row in self._source.rows():
            self.doubts = self._source.doubts  # it began new ones
            try:
                code = source_digest(self._source.read(row.key, row.at)).view("<u8")
            except ReadError:
                yield row  # prep says why, where it counts
                continue
            start, end = (int(np.searchsorted(first, code[0], side)) for side in ("left", "right"))
            same = start + np.flatnonzero(second[start:end] == code[1])
            if not len(same):
                key = piece_digests([os.fsencode(row.key)])[0]
                place = int(np.searchsorted(keys, key))
                if place < len(keys) and keys[place] == key:
                    self.doubts.add("changed_images", repr(row.key))
                yield row
                continue
            self.doubts.add("held_already", repr(row.key))
            names = {identities[label] for label in labels[same].tolist() if label >= 0}
            if names and row.identity and row.identity not in names:
                self.doubts.add("two_identities", f"{row.key!r}, there of {min(names)!r}")
        self.doubts = self._source.doubts

    def read(self, row_key: str, at: int) -> bytes | NDArray[np.uint8]:
        return self._source.read(row_key, at)

    def problems(self) -> list[str]:
        return self._source.problems()

    @functools.cached_property
    def _held(
        self,
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64]]:
        """Both halves of the digests of the files, sorted, with labels; digests of the keys."""
        codes, labels, keys = [], [], []
        for _, rows in self._cache.blocks():
            values = self._cache.read(rows, ["source", "label"])
            read = values["source"].any(axis=1)  # zeros: the file could not be read
            codes.append(values["source"][read].view("<u8"))
            labels.append(values["label"][read])
            keys.append(piece_digests([os.fsencode(k) for k in self._cache.texts("key", rows)]))
        every, label = np.concatenate(codes), np.concatenate(labels)
        order = np.argsort(every[:, 0], kind="stable")
        return every[order, 0], every[order, 1], label[order], np.sort(np.concatenate(keys))
