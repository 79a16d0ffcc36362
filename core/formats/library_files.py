"""Files that a library such as torch writes: with the system's errors, and a digest at the end.

Readers of such a format stop before the digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from faceguide.core.files import file_sha256, reading

T = TypeVar("T")

_MARK = b"\nfaceguide sha256 "
_TRAILER_BYTES = len(_MARK) + 64 + 1


class _Remembering:
    """A file open for writing that keeps the first error of the system.

    The library that writes may make it an error of its own, and another one while it cleans up:
    from then on what it writes goes nowhere.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._try(lambda: self._file.seek(offset, whence), 0)  # it writes what is buffered

    def tell(self) -> int:
        return self._try(self._file.tell, 0)

    def write(self, data: Any) -> int:
        return self._try(lambda: self._file.write(data), memoryview(data).nbytes)

    def flush(self) -> None:
        self._try(self._file.flush, None)

    def _try(self, action: Callable[[], T], otherwise: T) -> T:
        if self.error is not None:
            return otherwise
        try:
            return action()
        except OSError as error:
            self.error = error
            raise


@contextmanager
def open_for_library(path: Path) -> Iterator[Any]:
    """A new file for a library to write into.

    Raises:
        OSError: when the system refuses a write, also where the library makes it an error of its
            own.
    """
    with path.open("wb") as file:
        remembering = _Remembering(file)
        try:
            yield remembering
        except Exception:
            if remembering.error is None:
                raise
        if remembering.error is not None:
            raise remembering.error


def append_digest(path: Path) -> None:
    """Put the sha256 of a file's bytes behind them; for formats whose readers stop before it."""
    found = file_sha256(path)
    with path.open("ab") as file:
        file.write(_MARK + found.encode() + b"\n")


def digest_intact(path: Path) -> bool | None:
    """Whether a file's bytes are those before `append_digest`; None without a digest."""
    with reading(path), path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - _TRAILER_BYTES
        if size < 0:
            return None
        file.seek(size)
        trailer = file.read()
        if not trailer.startswith(_MARK):
            return None
        file.seek(0)
        found, left = hashlib.sha256(), size
        while left:
            part = file.read(min(left, 1 << 20))
            if not part:
                return False
            found.update(part)
            left -= len(part)
    return trailer == _MARK + found.hexdigest().encode() + b"\n"
