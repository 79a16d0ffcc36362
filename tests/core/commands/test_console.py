"""Signals end a command as interrupted, whatever a library makes of them; errors are one line."""

from __future__ import annotations

import errno
import os
import signal

import click
import pytest
from click.testing import CliRunner

from faceguide.core.commands.console import FAILED, Group, Interrupted, interruptible, undisturbed


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


@pytest.mark.parametrize(
    ("number", "remedy"), [(errno.ENOSPC, "the disk is full; free"), (errno.EIO, "check the disk")]
)
def test_an_error_of_the_system_that_names_a_file_is_one_line(number: int, remedy: str) -> None:
    @click.group(cls=Group)
    def main() -> None:
        pass

    @main.command()
    def work() -> None:
        raise OSError(number, os.strerror(number), "some/file")

    result = CliRunner().invoke(main, ["work"])
    assert result.exit_code == FAILED
    assert result.stderr.startswith("Error: some/file: ")
    assert remedy in result.stderr
    assert result.stderr.count("\n") == 1
