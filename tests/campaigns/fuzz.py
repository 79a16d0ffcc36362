"""Mutated inputs into every parser: a result or a FaceguideError, and nothing else.

A child process feeds them, so that a crash is counted and not suffered. In it an alarm ends what
hangs, addresses are limited, and an audit hook sees every file that is opened for writing outside
the parser's folder and every program that is started.
"""

from __future__ import annotations

import functools
import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from tests.campaigns.counts import Campaign, Counts
from tests.campaigns.mutations import mutated
from tests.campaigns.parsers import PARSERS, Parser
from tests.conftest import REPOSITORY

CORPUS = REPOSITORY / "tests" / "data" / "fuzz"
SECONDS = 10  # for one input
MEMORY = 3 << 30  # bytes of addresses beyond those of the start
RESIDENT = 1 << 30  # bytes in memory beyond those of the start
SHOWN = 20  # failures kept per parser


class Hang(BaseException):
    """An input took longer than SECONDS."""


class _Watch:
    """What the process did that a parser must not do."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder.resolve())
        self.seen: list[str] = []
        self.on = False
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork",
                     "socket.connect"):  # fmt: skip
            self.seen.append(f"{event} {arguments[:1]}")
        elif event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & 0o3 and not self._inside(path):
                self.seen.append(f"writes {path!r}")
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink", "os.rmdir",
                       "os.truncate"):  # fmt: skip
            outside = [path for path in arguments[:2] if isinstance(path, str | bytes)]
            if not all(map(self._inside, outside)):
                self.seen.append(f"{event} {arguments[:2]}")

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int):
            return True
        return str(Path(str(path)).resolve()).startswith((self.folder, "/dev/null"))


def feed(
    parser: Parser, inputs: Sequence[bytes], folder: Path, watch: _Watch, progress: Path, first: int
) -> Counter[str]:
    """Give the inputs to one parser; prints failures as they come, which a crash cannot undo.

    Returns:
        How many ended how.
    """
    outcome: Counter[str] = Counter()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, data in enumerate(inputs, first):
        progress.write_text(f"{number}")
        watch.seen.clear()
        watch.on = True
        fault, ended = "", "failed"
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            ended = parser.parse(folder, data)
        except Hang:
            fault = f"took over {SECONDS} s"
        except MemoryError:
            fault = "wanted too much memory"
        except Exception as error:
            trace = error.__traceback__
            while trace and trace.tb_next:
                trace = trace.tb_next
            where = (
                f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
            )
            fault = f"{type(error).__name__}: {str(error)[:150]!r} at {where}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            watch.on = False
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if (peak - before) << 10 > RESIDENT:
            fault = fault or f"{(peak - before) >> 10} MiB in memory"
        before = max(before, peak)
        if watch.seen:
            fault = fault or "; ".join(watch.seen)
        outcome["failed" if fault else ended] += 1
        if fault and outcome["failed"] <= SHOWN:
            line = f"{parser.name}: input {number}: {fault}"
            print(json.dumps([parser.name, None, line]), flush=True)
            keep = folder.parent / "failed" / folder_name(parser.name)
            keep.mkdir(parents=True, exist_ok=True)
            (keep / str(number)).write_bytes(data)
    return outcome


def folder_name(name: str) -> str:
    """Where a parser's inputs lie."""
    return re.sub("[ /]", "-", name)


def inputs_of(parser: Parser, count: int, seed: int, folder: Path) -> list[bytes]:
    """The corpus of a parser, then `count` fresh inputs.

    The same for the same seed, except for the addresses that torch writes into old checkpoints.
    """
    seeds = parser.seeds(folder)
    kept = sorted((CORPUS / folder_name(parser.name)).glob("*"))
    rng = random.Random(f"{seed} {parser.name}")
    return [
        *(path.read_bytes() for path in kept),
        *seeds,
        *(mutated(rng, seeds, parser.mutators) for _ in range(count)),
    ]


def _child(names: Sequence[str], count: int, seed: int, folder: Path, first: int) -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    cv2.setLogLevel(0)
    signal.signal(signal.SIGALRM, _hang)
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = _Watch(folder)
    for name in names:
        parser = PARSERS[name]
        place = folder / folder_name(name)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        every = inputs_of(parser, count, seed, place)
        progress = folder / "progress"
        (folder / "now").write_text(name)
        outcome = feed(parser, every[first:], place, watch, progress, first)
        print(json.dumps([name, outcome, ""]), flush=True)
        first = 0


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang


def campaign(count: int, seed: int, folder: Path, names: Sequence[str] = ()) -> Counts:
    """Give every parser its corpus and `count` fresh inputs."""
    left = list(names or PARSERS)
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in left}
    failures: list[str] = []
    crashes, first = 0, 0
    while left:
        words = [sys.executable, "-m", "tests.campaigns.fuzz", str(count), str(seed), str(folder)]
        child = subprocess.run(
            [*words, str(first), *left], cwd=REPOSITORY, capture_output=True, text=True,
            errors="replace", timeout=3600 + SECONDS * count,
        )  # fmt: skip
        for line in child.stdout.splitlines():
            name, outcome, failure = json.loads(line)
            if outcome is None:
                failures.append(failure)
                continue
            outcomes[name] += Counter(outcome)
            left.remove(name)
            first = 0
        if not left:
            break
        name, number = left[0], int((folder / "progress").read_text())
        if (folder / "now").read_text() != name or number < first:
            raise RuntimeError(f"fuzzing {name} did not begin: {child.stderr[-2000:]}")
        crashes += 1
        # How the inputs before the crash ended died with the child; its failures are known.
        failed = sum(
            f"{name}: input {place}: " in "\n".join(failures) for place in range(first, number)
        )
        outcomes[name]["before a crash"] += number - first - failed
        outcomes[name]["failed"] += failed + 1
        failures.append(f"{name}: input {number}: process ended with {child.returncode}")
        first = number + 1
    details = {name: sum(outcome.values()) for name, outcome in outcomes.items()}
    failed = sum(outcome["failed"] for outcome in outcomes.values())
    injected = sum(details.values())
    return Counts(
        injected=injected,
        survived=injected - failed,
        crashes=failed,
        details=details,
        failures=tuple(failures),
    )


CAMPAIGNS = {
    f"fuzz: {name}": Campaign(functools.partial(campaign, names=[name]), 10_000) for name in PARSERS
}


if __name__ == "__main__":
    counts, seeds, where, begin, *chosen = sys.argv[1:]
    _child(chosen, int(counts), int(seeds), Path(where), int(begin))
