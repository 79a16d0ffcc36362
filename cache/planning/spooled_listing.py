"""The listing of a plan in one file, chunk by chunk, until the number of its rows is known.

A chunk has a line for the keys, one for the labels, one for the places in a packed source, and one
for each meta column: JSON arrays that are taken apart without being parsed, since tabs divide their
texts, which hold none once they are quoted. Listing is what one process must do, so it does little.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from faceguide.cache.plan import IDENTITIES

UNKNOWN = -1
CHUNK = 1 << 13  # rows
_NUMBERS = 2  # columns: labels and places
_SPOOL = "listing"
_dumps = json.JSONEncoder(separators=("\t", ":")).encode


class Row(NamedTuple):  # a tuple: there may be a billion, and it is made three times as fast
    """One source image on its way into the cache."""

    key: str  # unique; path relative to the source root
    identity: str = ""  # "" when unknown
    at: int = UNKNOWN  # where inside a packed source (.rec byte offset, .bin number)
    meta: tuple[str, ...] = ()  # values of the plan's meta columns


@dataclass(frozen=True)
class Spool:
    """A listing in its order.

    Attributes:
        path: the file.
        rows: of the whole listing.
        chunk: rows of every chunk but the last.
        offsets: of each chunk in the file, and the file's end.
        identities: how many there are.
    """

    path: Path
    rows: int
    chunk: int
    offsets: tuple[int, ...]
    identities: int

    def chunks(self, first: int, last: int) -> Iterator[list[str]]:
        """The lines of the sources' lists, without line ends, of chunks `first` to `last` − 1."""
        with self.path.open("rb") as file:
            file.seek(self.offsets[first])
            for number in range(first, last):
                size = self.offsets[number + 1] - self.offsets[number]
                key, *others = file.read(size).decode("ascii").split("\n")
                columns = [key[1:-1].split("\t")]
                for place, column in enumerate(others):
                    columns.append(column[1:-1].split(", " if place < _NUMBERS else "\t"))
                yield [f"[{', '.join(row)}]" for row in zip(*columns, strict=True)]


def spool_listing(staging: Path, rows: Iterable[Row], progress: Callable[[int], None]) -> Spool:
    """Write the listing with labels, by first appearance, and the names of the identities.

    Args:
        staging: an empty folder.
        progress: called with the number of rows listed since the last call.
    """
    labels: dict[str, int] = {}
    count, offsets, left = 0, [0], iter(rows)
    path = staging / _SPOOL
    with path.open("wb") as file, (staging / IDENTITIES).open("wb") as identities:
        while True:
            keys: list[str] = []
            known: list[int] = []
            places: list[int] = []
            metas: list[tuple[str, ...]] = []
            for key, identity, at, meta in itertools.islice(left, CHUNK):
                keys.append(key)
                known.append(labels.setdefault(identity, len(labels)) if identity else UNKNOWN)
                places.append(at)
                if meta:
                    metas.append(meta)
            if not keys:
                break
            columns = (repr(known), repr(places), *map(_dumps, zip(*metas, strict=True)))
            text = "\n".join([_dumps(keys), *columns])
            offsets.append(offsets[-1] + file.write(text.encode("ascii")))
            count += len(keys)
            progress(len(keys))
        for name in labels:
            escaped = name.replace("\\", "\\\\").replace("\n", "\\n")
            identities.write(os.fsencode(escaped) + b"\n")
        identities.flush()
        os.fsync(identities.fileno())
    return Spool(path, count, CHUNK, tuple(offsets), len(labels))
