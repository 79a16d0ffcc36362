"""Run units of work over processes, with a progress bar, and stop cleanly on a signal.

A unit is a pure function of the plan and a number that writes one shard atomically. Nothing is
shared between units but a file of counters for the progress bar.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import joblib
import numpy as np
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from faceguide.cache.console import Interrupted
from faceguide.cache.errors import FaceguideError

Result = TypeVar("Result")
Tick = Callable[[], None]


def usable_cores() -> int:
    """Processors that this process may use, which on a cluster is fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_part(text: str) -> tuple[int, int]:
    """``"i/N"`` → (i, N), i counted from 0.

    Raises:
        FaceguideError: for anything else.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise FaceguideError(f"--part {text}: expected i/N with i from 0 to N−1, for example 0/4")
    return int(match[1]), int(match[2])


def run(
    work: Callable[[int, Tick], Result],
    units: Sequence[int],
    *,
    jobs: int,
    total: int,
    unit: str,
    done: int = 0,
) -> Iterator[Result]:
    """Results of `work(number, tick)` for each unit, as they finish.

    Args:
        work: picklable; calls `tick()` after each item, for the progress bar.
        units: their numbers.
        jobs: processes; 1 works in this one.
        total: items in all units, finished ones included.
        unit: what an item is called in the progress bar.
        done: items that were finished before.

    Raises:
        Interrupted: on SIGTERM, SIGUSR1 or Ctrl-C; running units are given up.
        FaceguideError: when a worker died.
    """
    with (
        _counters(len(units)) as path,
        tqdm(total=total, initial=done, unit=unit, smoothing=0.1, disable=None) as bar,
        _watching(path, bar, done),
    ):
        calls = [(number, path, slot) for slot, number in enumerate(units)]
        if jobs == 1 or len(units) <= 1:
            for call in calls:
                yield _unit(work, *call)
            return
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
            parallel = joblib.Parallel(
                n_jobs=min(jobs, len(units)), return_as="generator_unordered", batch_size=1
            )
            results = parallel(joblib.delayed(_unit)(work, *call) for call in calls)
            try:
                yield from results
            except Interrupted:
                _kill_workers()
                raise
            except TerminatedWorkerError:
                raise FaceguideError(
                    "a worker process was killed, most often for lack of memory; finished shards "
                    "are kept: run again, with fewer --jobs"
                ) from None


def _unit(work: Callable[[int, Tick], Result], number: int, path: Path, slot: int) -> Result:
    counters = np.memmap(path, np.int64, "r+")

    def tick() -> None:
        counters[slot] += 1

    return work(number, tick)


def _kill_workers() -> None:
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=False, kill_workers=True)


@contextlib.contextmanager
def _counters(slots: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="faceguide-") as folder:
        path = Path(folder) / "progress"
        np.zeros(max(1, slots), np.int64).tofile(path)
        yield path


@contextlib.contextmanager
def _watching(path: Path, bar: Any, done: int) -> Iterator[None]:
    """Move the bar along with the counters until the end."""
    counters = np.memmap(path, np.int64, "r")
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(0.5):
            bar.update(done + int(counters.sum()) - bar.n)

    thread = threading.Thread(target=follow, daemon=True)
    if not bar.disable:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.is_alive():
            thread.join()
        if not bar.disable:
            bar.update(done + int(counters.sum()) - bar.n)
