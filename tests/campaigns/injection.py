"""Make one system call of a command fail, through strace, and read back which one it was.

A command starts stopped, strace takes hold of it and its children, and then it runs. The log names
the file of every call, so that a fault counts only when it met a file of the work folder.
"""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.forkserver import Running

# Calls that change something in a folder.
WRITING = (
    *("write", "pwrite64", "writev", "fsync", "fdatasync", "ftruncate", "fallocate"),
    *("rename", "renameat", "renameat2", "link", "linkat", "mkdir", "mkdirat", "openat"),
)
READING = ("read", "pread64", "openat", "mmap")
_CALL = re.compile(r"^(?P<thread>\d+) +(?P<name>\w+)\((?P<arguments>.*)$")


@dataclass(frozen=True)
class Call:
    """A system call on a file of interest.

    Attributes:
        name: of the call.
        number: which of the calls of this name of the main thread it is, from 1.
        text: the line of the log.
    """

    name: str
    number: int
    text: str


@functools.cache
def unavailable() -> str:
    """Why nothing can be injected here; "" when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return f"strace may not trace here: {tried.stderr.strip()}" if tried.returncode else ""


class Traced:
    """A command under strace.

    Args:
        running: started stopped.
        log: where the calls are written.
        calls: names of the calls to follow.
        inject: what strace shall inject, or "".
    """

    def __init__(
        self, running: Running, log: Path, calls: tuple[str, ...], inject: str = ""
    ) -> None:
        self.running, self._log = running, log
        log.unlink(missing_ok=True)
        _until(lambda: _state(running.pid) == "T")
        words = ["strace", "-f", "-y", "-s", "0", "-o", str(log), "-e", f"trace={','.join(calls)}"]
        words += ["-e", "signal=none", *(["-e", f"inject={inject}"] if inject else [])]
        self._strace = subprocess.Popen(
            [*words, "-p", str(running.pid)], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        _until(lambda: _tracer(running.pid) != 0 or self._strace.poll() is not None)

    def finish(self) -> int | None:
        """Let it run to its end; its exit status, None when it hung."""
        self.running.send(18, group=False)  # SIGCONT
        status = self.running.finish()
        self._strace.wait(30)
        return status

    def calls(self, folder: Path) -> list[Call]:
        """The main thread's calls on files in the folder, in order."""
        counts: Counter[str] = Counter()
        found = []
        for line in self._log.read_text("utf-8", "replace").splitlines():
            match = _CALL.match(line)
            if match and int(match["thread"]) == self.running.pid and "resumed>" not in line:
                counts[match["name"]] += 1
                if str(folder) in match["arguments"]:
                    found.append(Call(match["name"], counts[match["name"]], line))
        return found

    def injected(self) -> list[str]:
        """The lines of the calls that were made to fail."""
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return [line for line in lines if line.endswith("(INJECTED)")]


def _until(condition: object, seconds: float = 30.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("a process did not stop, or strace did not take hold of it")
        time.sleep(0.002)


def _status(pid: int, field: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return line.split()[1]
    return ""


def _state(pid: int) -> str:
    return _status(pid, "State").upper()


def _tracer(pid: int) -> int:
    return int(_status(pid, "TracerPid"))
