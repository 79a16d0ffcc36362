"""What every source of images has: rows, their errors, and what a listing found."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.schema import SOURCE_BYTES
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import FaceguideError, ReasonedError


class SourceError(FaceguideError):
    """A source that cannot be listed, or a row of it that cannot be read."""


class ReadError(ReasonedError, SourceError):
    """One row that cannot be read.

    The reasons: "missing", "outside" (it would leave the source's folder), "unreadable" (no
    permission, no regular file, a fault of the disk), "too_large", "damaged" (its record).
    """


@dataclass(frozen=True)
class SourceRow:
    """One image of a source.

    Attributes:
        key: path relative to the source's root with "/" between folders, or the number of the
            record; bytes that are not UTF-8 are kept as surrogates, as os.fsdecode does.
        identity: name of the identity, "" when unknown.
        at: byte offset in a .rec, image number in a .bin, −1 for files.
    """

    key: str
    identity: str
    meta: dict[str, str]
    at: int = -1


class Source:
    """Where images come from; every kind of source lists its rows and reads one at a time.

    Keys are unique in folders; a manifest or an index may repeat one, and finding that needs
    all keys, so planning the rows does it. `problems()` and `doubts` are complete once
    `rows()` was exhausted.
    """

    kind = ""
    columns: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._begin()

    def _begin(self) -> None:
        """Forget what an earlier listing found."""
        self.doubts = Doubts()
        self._found: dict[str, tuple[int, str]] = {}

    def _note(self, what: str, example: str) -> None:
        """Count what was met while listing, with the first example of its kind."""
        count, first = self._found.get(what, (0, example))
        self._found[what] = count + 1, first

    def rows(self) -> Iterator[SourceRow]:
        raise NotImplementedError

    def read(self, row_key: str, at: int) -> bytes | NDArray[np.uint8]:
        raise NotImplementedError

    def problems(self) -> list[str]:
        """One line for each kind of what was met, however often it was."""
        return [f"{what}: {n} (the first: {first})" for what, (n, first) in self._found.items()]


def source_digest(data: bytes | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first 16 bytes of the sha256 of an image as it lies in its source, (16,).

    sha256, because `sha256sum` finds the file again and nobody can make two files that share it;
    it takes 1 % of the time that finding the face takes.
    """
    return np.frombuffer(hashlib.sha256(bytes(data)).digest()[:SOURCE_BYTES], np.uint8)
