"""The listing of a plan in one file, chunk by chunk, until the number of its rows is known.

A chunk has a line for the keys, one for the labels, one for the places in a packed source, and one
for each meta column: JSON texts that are taken apart without being parsed, since tabs divide them,
and none holds a tab once it is quoted. Listing is what one process must do, so it does little.
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
_AT_ONCE = 1 << 9  # rows: fewer than make the garbage collector look for more room
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
                columns = file.read(size).decode("ascii").split("\n")
                parts = [
                    c.split(separator) for c, separator in zip(columns, _separators(), strict=False)
                ]
                yield [f"[{', '.join(row)}]" for row in zip(*parts, strict=True)]


def _separators() -> Iterator[str]:
    """Of keys, labels, places and each meta column."""
    return itertools.chain(("\t", ", ", ", "), itertools.repeat("\t"))


def _pieces(rows: Iterator[Row], labels: dict[str, int]) -> Iterator[tuple[int, list[str]]]:
    """Number of rows and the text of each column of a few rows at a time; labels grow."""
    while some := list(itertools.islice(rows, _AT_ONCE)):
        keys, names, places, metas = zip(*some, strict=True)
        for name in dict.fromkeys(names):
            labels.setdefault(name, len(labels) - 1)
        numbers = repr([labels[name] for name in names]), repr(list(places))
        texts = [_dumps(keys), *numbers, *map(_dumps, zip(*metas, strict=True))]
        yield len(some), [text[1:-1] for text in texts]


def spool_listing(staging: Path, rows: Iterable[Row], progress: Callable[[int], None]) -> Spool:
    """Write the listing with labels, by first appearance, and the names of the identities.

    Args:
        staging: an empty folder.
        progress: called with the number of rows listed since the last call.
    """
    labels = {"": UNKNOWN}
    count, offsets, left = 0, [0], iter(rows)
    path = staging / _SPOOL
    with path.open("wb") as file, (staging / IDENTITIES).open("wb") as identities:
        while pieces := list(_pieces(itertools.islice(left, CHUNK), labels)):
            columns = zip(*(piece for _, piece in pieces), strict=True)
            parts = zip(columns, _separators(), strict=False)
            text = "\n".join(separator.join(column) for column, separator in parts)
            offsets.append(offsets[-1] + file.write(text.encode("ascii")))
            listed = sum(rows for rows, _ in pieces)
            count += listed
            progress(listed)
        del labels[""]
        for name in labels:
            escaped = name.replace("\\", "\\\\").replace("\n", "\\n")
            identities.write(os.fsencode(escaped) + b"\n")
        identities.flush()
        os.fsync(identities.fileno())
    return Spool(path, count, CHUNK, tuple(offsets), len(labels))
