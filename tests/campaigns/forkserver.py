"""Run faceguide's commands as processes that start at once, so that thousands can be disturbed.

Importing torch and MediaPipe takes seconds. A server imports everything once, while it has one
thread; each command is a fork of it that leads a process group of its own, calls the command with
its words as the console script does, and ends as the interpreter would.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# What the commands import when they begin, and what that imports when it begins.
MODULES = (
    *("captum.attr", "cv2", "matplotlib.pyplot", "mediapipe", "scipy.stats", "torch"),
    *(f"faceguide.{name}.cli" for name in ("preprocess", "cache", "train", "evaluate")),
    *("faceguide.train.cal.cal_run", "faceguide.train.oaml.oaml_run", "faceguide.evaluate.runs"),
    "faceguide.evaluate.attribution.run",
)
HANG = 1800.0  # seconds after which a command counts as hung; none takes ten, on an idle machine


@dataclass(frozen=True)
class Running:
    """A command at work.

    Attributes:
        server: whose child it is.
        pid: of its first process, which leads the group.
        log: file of its stdout and stderr.
    """

    server: ForkServer
    pid: int
    log: Path

    @contextlib.contextmanager
    def ended(self) -> Iterator[Callable[[float], bool]]:
        """A function that waits so many seconds at most and says whether the process has ended."""
        descriptor = os.pidfd_open(self.pid)  # it is there until it is reaped
        try:
            yield lambda seconds: bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)

    def wait(self, seconds: float = HANG) -> int | None:
        """Its exit status, −N after signal N; None when it still runs after so long."""
        with self.ended() as ended:
            over = ended(seconds)
        return self.server.reap(self.pid) if over else None

    def send(self, number: int, *, group: bool = True) -> None:
        """A signal to the whole group, or to the first process alone."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def finish(self) -> int | None:
        """Wait for its end; after `HANG` seconds it is killed and None says so."""
        status = self.wait()
        if status is None:
            self.send(signal.SIGKILL)
            self.wait()
        return status

    @property
    def said(self) -> str:
        """What it has written so far."""
        return self.log.read_text("utf-8", "replace")


class ForkServer:
    """The server's process, from the side of the one who asks."""

    def __init__(self) -> None:
        environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaigns.forkserver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def start(self, words: list[str], log: Path, *, stopped: bool = False) -> Running:
        """Start `faceguide WORDS`; its group is stopped before the first step if wished."""
        answer = self._ask({"do": "start", "words": words, "log": str(log), "stopped": stopped})
        return Running(self, answer, log)

    def run(self, words: list[str], log: Path) -> tuple[int | None, str]:
        """Run a command to its end: exit status and what it wrote."""
        running = self.start(words, log)
        return running.finish(), running.said

    def reap(self, pid: int) -> int:
        """The exit status of a child that has ended."""
        return self._ask({"do": "reap", "pid": pid})

    def _ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the fork server has ended")
        return int(json.loads(answer))


def _serve() -> dict[str, Any] | None:
    """Answer until the input ends (None), or return a request inside the child that is to do it."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # whatever a library prints must not look like an answer
    for line in sys.stdin.buffer:
        request: dict[str, Any] = json.loads(line)
        if request["do"] == "reap":
            _, status = os.waitpid(request["pid"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            threads = list(Path("/proc/self/task").iterdir())
            assert len(threads) == 1, "a fork would lose threads"
            answer = os.fork()
            if answer == 0:
                answers.close()
                return request
        answers.write(json.dumps(answer).encode() + b"\n")
    return None


def _become(request: dict[str, Any]) -> None:
    """Set the child up as a shell would, then call the command."""
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)
    sys.argv = ["faceguide", *request["words"]]
    if request["stopped"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    from faceguide.__main__ import main

    status = 1
    try:
        main(prog_name="faceguide")
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else 1
    except BaseException:
        traceback.print_exc()
    # All of the interpreter's end but the freeing of a thousand modules.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    for module in MODULES:
        importlib.import_module(module)
    gc.freeze()  # a child's collections would copy every page of it
    wanted = _serve()
    if wanted is not None:
        _become(wanted)
