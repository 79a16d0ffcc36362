"""What every command of every group does alike: exit codes, one-line errors, signals."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from faceguide.core.commands.standard_streams import watched_streams
from faceguide.core.errors import FaceguideError
from faceguide.core.files import remedy

DONE, FAILED, USAGE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 4

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Interrupted(BaseException):
    """A signal asked for the end; what is finished is kept and the command can be repeated."""


class SomeFailed(Exception):
    """The command finished, but some items failed; the text says how many and where to look."""


def printable(text: object) -> str:
    """Text with control characters escaped: file names must not steer a terminal."""
    return _CONTROL.sub(
        lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), str(text)
    )


def echo_json(value: Any) -> None:
    """One JSON object on stdout."""
    click.echo(json.dumps(value, allow_nan=False))


def say(text: object) -> None:
    """One line of news on stderr."""
    click.echo(printable(text), err=True)


def _say_system_error(error: OSError) -> None:
    where = f"{error.filename}: " if error.filename is not None else ""
    say(f"Error: {where}{remedy(error)}")


_HELP = {"help_option_names": ["-h", "--help"]}


class Command(click.Command):
    """A command with `-h`, also where it is read without its group."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": _HELP, **kwargs})


class Group(click.Group):
    """A command group that turns our errors into one line and the promised exit code."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": _HELP, **kwargs})

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a program: also help, and what is left to write at the end, may meet a full disk.

        A reader that goes away (`| head`) ends the command with exit code 1 and without a word.
        """
        with watched_streams():
            try:
                try:
                    return super().main(*args, **kwargs)
                finally:
                    if sys.stdout is not None:
                        sys.stdout.flush()
            except BrokenPipeError:
                sys.exit(FAILED)
            except OSError as error:
                _say_system_error(error)
                sys.exit(FAILED)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; every error that a user can act on ends here."""
        try:
            with interruptible():
                return super().invoke(ctx)
        except FaceguideError as error:
            say(f"Error: {error}")
            ctx.exit(FAILED)
        except BrokenPipeError:
            raise
        except OSError as error:
            _say_system_error(error)
            ctx.exit(FAILED)
        except SomeFailed as error:
            say(error)
            ctx.exit(SOME_FAILED)
        except Interrupted:
            say("Interrupted; what is finished is kept. Rerun the same command to resume.")
            ctx.exit(INTERRUPTED)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, SIGUSR1 and Ctrl-C raise `Interrupted` in the main thread.

    So does any error that the block ends with after such a signal: a library that is being loaded
    turns the exception into one of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals cannot be handled here; the caller's own handling stays
        return

    def stop(number: int, frame: FrameType | None) -> None:
        for signal_number in signals:  # a second signal must not break the clean-up
            signal.signal(signal_number, signal.SIG_IGN)
        asked.append(number)
        if _held:
            _held[-1] = True
        else:
            raise Interrupted

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    asked: list[int] = []
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
        if asked:
            raise Interrupted
    except click.exceptions.Exit:
        raise
    except Exception as error:
        if asked:
            raise Interrupted from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_held: list[bool] = []  # for each block of `undisturbed` that is running: did a signal come?


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Put a signal off to the end of the block.

    For code that drops exceptions, such as a C extension while it is loaded: the command would
    continue as if it had not been asked to stop.

    Raises:
        Interrupted: at the end, when a signal came.
    """
    _held.append(False)
    try:
        yield
    finally:
        came = _held.pop()
    if came:
        raise Interrupted
