"""stdout and stderr that may be full, closed or of another encoding, as a batch system's log is."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

STDOUT = "standard output"


@contextlib.contextmanager
def watched_streams() -> Iterator[None]:
    """Within the block errors of stdout name it, and those of stderr are dropped.

    An unreadable message is no reason to stop a training run; a lost result is. Characters that the
    encoding lacks are escaped.

    Raises:
        OSError: whose filename is `STDOUT`, from the first write or flush of stdout that fails;
            what is written there afterwards goes nowhere, also when the interpreter ends.
        BrokenPipeError: when the reader of stdout has gone.
    """
    _fill_closed_descriptors()
    with contextlib.ExitStack() as stack:
        if sys.stdout is not None:
            out: Any = _Watched(sys.stdout, _named)
            stack.enter_context(contextlib.redirect_stdout(out))
        if sys.stderr is not None:
            news: Any = _Watched(sys.stderr, lambda error: None)
            stack.enter_context(contextlib.redirect_stderr(news))
        yield


def _named(error: OSError) -> None:
    raise type(error)(error.errno, error.strerror, STDOUT) from None


def _fill_closed_descriptors() -> None:
    """A command begun with `2>&-` must not get 2 for a file of its own: libraries write there."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


class _Watched:
    """A text stream that calls a function when the system refuses what it writes."""

    def __init__(self, stream: TextIO, failed: Callable[[OSError], None]) -> None:
        self._stream, self._failed = stream, failed
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def write(self, text: str) -> int:
        if text == "":  # click tries a stream out with it, and forgets what it finds
            return 0
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """What is still in the buffer would be refused once more, at the latest on exit."""
        with contextlib.suppress(OSError), Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), self._stream.fileno())
        self._failed(error)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # click writes past this object where it finds one
            raise AttributeError(name)
        return getattr(self._stream, name)
