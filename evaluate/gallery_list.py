"""The lists of an identification: CSV files of images, with identities if need be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from faceguide.cache.pairs.list_text import SEPARATORS, lines, read_text, records
from faceguide.core.errors import ListError

# A first line that is no header: a path, a file name or a number.
_IMAGE = re.compile(r".*[/\\].*|.*\.\w{3,4}|\d+")


@dataclass(frozen=True)
class Entry:
    """One line of a list.

    Attributes:
        number: its place, from 0.
        identity: who it shows; None where the list has no such column.
    """

    number: int
    key: str
    identity: str | None


def read(path: Path) -> list[Entry]:
    """Read a list: columns `key` and perhaps `identity` under a header, or in this order.

    Raises:
        ListError: when the file is in another form.
    """
    text = read_text(path)
    listed = lines(text)
    if not listed:
        raise ListError(f"{path}: expected a list of images, found an empty file")
    for separator in SEPARATORS:
        table = list(records(path, listed[0][1], separator))
        header = [cell.lower() for cell in table[0][1]] if table else []
        if "key" in header:
            return _entries(path, text, separator, header, has_header=True)
    start = listed[0][1]
    separator = max(SEPARATORS, key=start.count)
    (_, cells), *_ = records(path, start, separator)
    if len(cells) > 2 or not _IMAGE.fullmatch(cells[0]):
        raise ListError(f"{path}: expected a header with key and perhaps identity")
    return _entries(path, text, separator, ["key", "identity"][: len(cells)], has_header=False)


def _entries(
    path: Path, text: str, separator: str, header: list[str], *, has_header: bool
) -> list[Entry]:
    for name in ("key", "identity"):
        if header.count(name) > 1:
            raise ListError(f"{path}: two columns are called {name}; remove one")
    entries: list[Entry] = []
    for place, (line, cells) in enumerate(records(path, text, separator)):
        if has_header and not place:
            continue
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) != len(header):
            raise ListError(
                f"{path}: line {line}: expected {len(header)} cells, found {len(cells)}"
            )
        row = dict(zip(header, cells, strict=True))
        entries.append(Entry(len(entries), row["key"], row.get("identity")))
    return entries
