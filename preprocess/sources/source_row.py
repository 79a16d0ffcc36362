"""What every source of images deals in: rows, their errors, and the findings of a listing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import FaceguideError

ReadReason = Literal["missing", "outside", "unreadable", "too_large", "damaged"]


class SourceError(FaceguideError):
    """A source that cannot be listed, or a row of it that cannot be read."""


class ReadError(SourceError):
    """One row that cannot be read; `reason` is the kind, the text the details.

    The reasons: "missing", "outside" (it would leave the source's folder), "unreadable" (no
    permission, no regular file, a fault of the disk), "too_large", "damaged" (its record).
    """

    def __init__(self, reason: ReadReason, message: str) -> None:
        super().__init__(reason, message)  # both, so that the error survives pickling
        self.reason: ReadReason = reason
        self.message = message

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class SourceRow:
    """One image of a source.

    Attributes:
        key: path relative to the source's root with "/" between folders, or the number of the
            record; bytes that are not UTF-8 are kept as surrogates, as os.fsdecode does.
        identity: name of the identity, "" when unknown.
        meta: the further columns of a manifest.
        at: byte offset in a .rec, image number in a .bin, −1 for files.
    """

    key: str
    identity: str
    meta: dict[str, str]
    at: int = -1


class Source(Protocol):
    """What every kind of source offers.

    Keys are unique in folders; a manifest or an index may repeat one, and finding that needs
    all keys, so it is left to whoever plans the rows. `problems()` and `doubts` are complete once
    `rows()` was exhausted.
    """

    kind: str
    path: Path
    columns: tuple[str, ...]  # names of the meta columns
    doubts: Doubts

    def rows(self) -> Iterator[SourceRow]: ...

    def read(self, row_key: str, at: int) -> bytes | NDArray[np.uint8]: ...

    def problems(self) -> list[str]: ...


class Findings:
    """What was met while listing a source: how often, and one example of each kind."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str]] = {}

    def add(self, what: str, example: str) -> None:
        count, first = self._seen.get(what, (0, example))
        self._seen[what] = count + 1, first

    def lines(self) -> list[str]:
        """One line a kind, however often it was met."""
        return [f"{what}: {n} (the first: {first})" for what, (n, first) in self._seen.items()]
