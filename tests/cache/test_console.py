"""Signals: whatever a library makes of them, they end a command as interrupted."""

from __future__ import annotations

import os
import signal

import pytest

from faceguide.cache.console import Interrupted, interruptible, undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_that_a_library_swallows_still_interrupts(number: int) -> None:
    """MediaPipe's modules, while they load, turn any exception into an ImportError."""
    before = signal.getsignal(number)

    def load() -> None:
        try:
            os.kill(os.getpid(), number)
            signal.pause()
        except BaseException as error:
            raise ImportError("initialization failed") from error

    with pytest.raises(Interrupted), interruptible():
        load()
    assert signal.getsignal(number) == before


def test_an_error_without_a_signal_is_itself() -> None:
    with pytest.raises(ImportError, match=r"^missing$"), interruptible():
        raise ImportError("missing")


def test_a_signal_waits_for_the_end_of_an_undisturbed_block() -> None:
    reached = []
    with pytest.raises(Interrupted), interruptible():  # noqa: PT012
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("the end of the block")
        reached.append("behind it")
    assert reached == ["the end of the block"]
