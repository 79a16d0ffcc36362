"""How a run ends before its last step: on a signal, or where torch.compile fails."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from faceguide.core.errors import TrainError

_COMPILERS = ("torch._dynamo", "torch._inductor")


@contextlib.contextmanager
def compiler_faults(compiled: bool) -> Iterator[None]:
    """What torch.compile cannot do, in one line; other errors pass."""
    try:
        yield
    except Exception as error:
        if compiled and type(error).__module__.startswith(_COMPILERS):
            what = str(error).strip().partition("\n")[0]
            raise TrainError(
                f"torch.compile failed: {type(error).__name__}: {what}. On a CPU it needs a C++ "
                "compiler such as g++; leave --compile out to train without it"
            ) from error
        raise


@contextlib.contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """SIGTERM, SIGUSR1 and Ctrl-C set the event; the step in hand is finished first."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def stop(number: int, frame: FrameType | None) -> None:
        event.set()

    signals = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
