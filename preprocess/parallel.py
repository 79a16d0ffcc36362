"""Run units of work over processes, with a progress bar, and stop cleanly on a signal.

A unit is a pure function of the plan and a number that writes one shard atomically. Nothing is
shared between units but a file that grows by a byte per item, for the progress bar.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError
from tqdm import tqdm

from faceguide.cache.planning.shard_lists import Spread, Tick, in_turn
from faceguide.core.commands.console import Interrupted
from faceguide.core.errors import FaceguideError

Result = TypeVar("Result")

_SCHEDULER_PATIENCE = 30  # seconds until a scheduler counts as absent
_WORKER_PATIENCE = 600  # seconds for the first worker: clusters start them on demand


def usable_cores() -> int:
    """Processors that this process may use, which on a cluster is fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
        jobs: processes; 1 works in this one.
        total: items in all units, finished ones included.
        unit: what an item is called in the progress bar.
        done: items that were finished before.

    Raises:
        Interrupted: on SIGTERM, SIGUSR1 or Ctrl-C; running units are given up.
        FaceguideError: when a worker died.
    """
    with (
        tempfile.NamedTemporaryFile(prefix="faceguide-") as counted,
        tqdm(total=total, initial=done, unit=unit, smoothing=0.1, disable=None) as bar,
        _following(lambda: done + Path(counted.name).stat().st_size, bar),
    ):
        if jobs == 1 or len(units) <= 1:
            for number in units:
                yield _unit(work, number, counted.name)
            return
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
            parallel = joblib.Parallel(
                n_jobs=min(jobs, len(units)), return_as="generator_unordered", batch_size=1
            )
            results = parallel(
                joblib.delayed(_unit)(work, number, counted.name) for number in units
            )
            try:
                yield from results
            except Interrupted:
                _kill_workers()
                raise
            except TerminatedWorkerError:
                raise FaceguideError(
                    "a worker process was killed, most often for lack of memory; finished shards "
                    "are kept: rerun with fewer --jobs"
                ) from None


def over_processes(jobs: int, what: str) -> Spread:
    """Runs work(number, tick) for each number below `units`, in up to `jobs` processes.

    Args:
        what: is done, for the progress bar.
    """

    def spread(work: Callable[[int, Tick], None], units: int) -> None:
        if units == 1:  # nothing to show
            in_turn(work, units)
            return
        for _ in run(work, range(units), jobs=min(jobs, units), total=units, unit=f" {what}"):
            pass

    return spread


def run_dask(
    work: Callable[[int, Tick], Result], units: Sequence[int], scheduler: str
) -> list[Result]:
    """Results of `work(number, tick)` for each unit, from the workers of a Dask scheduler.

    A unit whose worker dies is rerun on another; units are pure, so the result is the same.

    Args:
        work: picklable; its paths must lead to the same files on every worker.
        scheduler: its address, such as tcp://host:8786.

    Raises:
        Interrupted: on SIGTERM, SIGUSR1 or Ctrl-C; units that wait are given up.
        FaceguideError: when no scheduler or worker is there, or a unit killed several workers.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise FaceguideError("--dask needs Dask: pip install 'faceguide[dask]'") from None
    _reach(scheduler)
    client = Client(scheduler, timeout=_SCHEDULER_PATIENCE, set_as_default=False)
    with (
        client,
        tqdm(total=len(units), unit=" shards", disable=None) as bar,
        joblib.parallel_config(
            backend="dask", client=client, wait_for_workers_timeout=_WORKER_PATIENCE
        ),
    ):
        parallel = joblib.Parallel(batch_size=1)
        with _following(lambda: int(parallel.n_completed_tasks), bar):
            try:
                found = parallel(joblib.delayed(_remote_unit)(work, number) for number in units)
            except KilledWorker as error:
                raise FaceguideError(
                    f"several Dask workers died over the same shard ({error}); finished shards "
                    "are kept: rerun with more memory per worker"
                ) from None
            except TimeoutError:
                raise FaceguideError(
                    f"--dask {scheduler}: no worker came within {_WORKER_PATIENCE} s; "
                    "start `dask worker` on other machines"
                ) from None
    return list(found)


def _reach(scheduler: str) -> None:
    """Knock before Dask does: its client tries for a minute and then complains on many lines."""
    match = re.fullmatch(r"(?:\w+://)?\[?([^\[\]/]+?)\]?:(\d{1,5})", scheduler)
    try:
        if match is None:
            raise ValueError("expected an address such as tcp://host:8786")
        with socket.create_connection((match[1], int(match[2])), _SCHEDULER_PATIENCE):
            pass
    except (OSError, ValueError, OverflowError) as error:
        raise FaceguideError(
            f"--dask {scheduler}: no scheduler answers there ({error}); start `dask scheduler` "
            "and give the address that it prints"
        ) from None


def _remote_unit(work: Callable[[int, Tick], Result], number: int) -> Result:
    return work(number, lambda: None)


def _unit(work: Callable[[int, Tick], Result], number: int, counted: str) -> Result:
    with Path(counted).open("ab", buffering=0) as file:
        return work(number, lambda: file.write(b"."))


def _kill_workers() -> None:
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=False, kill_workers=True)


@contextlib.contextmanager
def _following(count: Callable[[], int], bar: Any) -> Iterator[None]:
    """Keep the bar at `count()` until the end."""
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(0.5):
            bar.update(count() - bar.n)

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
            bar.update(count() - bar.n)
