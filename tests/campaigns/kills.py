"""SIGKILL at random moments of every long command; run again, it must end at the same bytes.

Half of the kills come at a moment drawn from the length of the undisturbed run, half as soon as a
drawn number of temporary files has been seen: between the write of a file and its rename.
"""

from __future__ import annotations

import functools
import os
import random
import signal
from pathlib import Path

from tests.campaigns.counts import Campaign, Counts
from tests.campaigns.forkserver import Running
from tests.campaigns.stages import STAGES, Undisturbed

from faceguide.core.files import TEMPORARY

# More where a trial costs less.
FULL = {
    "prep landmarks": 44,
    "prep landmarks, 2 processes": 10,
    "prep masks": 46,
    "prep guidance": 46,
    "train cal": 16,
    "train oaml": 14,
    "train oaml, two caches": 8,
    "cache copy": 24,
    "evaluate verification": 20,
    "evaluate attribution": 10,
}
_TRIES = 20  # a command that has ended before the kill is begun again


def campaign(name: str, count: int, seed: int, folder: Path) -> Counts:
    """Kill a stage `count` times; `Campaign.run` of each stage."""
    one = Undisturbed.measure(name)
    rng = random.Random(f"{seed} {name}")
    lost = doubled = crashes = survived = by_file = 0
    failures = []
    for number in range(count):
        at_file = number % 2 == 1
        how, alone = _kill(one, rng, at_file)
        by_file += at_file
        outcome = one.resume()
        alone.send(signal.SIGKILL)  # workers that outlived the first process
        lost, doubled = lost + outcome.lost, doubled + outcome.doubled
        crashes += outcome.crashed
        survived += not outcome.fault
        if outcome.fault:
            failures.append(f"kill {number} ({how}): {outcome.fault}")
    return Counts(
        count,
        survived,
        rows_lost=lost,
        rows_doubled=doubled,
        crashes=crashes,
        details={"while a file was written": by_file},
        failures=tuple(failures),
    )


def _kill(one: Undisturbed, rng: random.Random, at_file: bool) -> tuple[str, Running]:
    """Begin anew and kill; how it was done, and the process that is dead.

    Raises:
        RuntimeError: when the command always ended before.
    """
    longest, most = one.seconds, 40
    for _ in range(_TRIES):
        one.begin()
        running = one.start()
        # A batch system kills the group; somebody's `kill -9` the first process, whose workers
        # find out by themselves.
        group = rng.random() < 0.5
        if at_file:
            wanted = rng.randrange(most)
            how = f"at temporary file {wanted}"
            wait_for_files(one.world.work, wanted + 1, running)
        else:
            moment = rng.uniform(0, longest)
            how = f"after {moment:.3f} s"
            with running.ended() as ended:
                ended(moment)
        running.send(signal.SIGKILL, group=group)
        if running.finish() == -signal.SIGKILL:
            return how + (" with its group" if group else ""), running
        longest, most = longest * 0.8, max(most * 2 // 3, 1)
    raise RuntimeError(f"{one.words} always ended before it could be killed")


def wait_for_files(folder: Path, count: int, running: Running) -> None:
    """Until so many temporary files have come, or the command has ended."""
    seen: set[str] = set()
    with running.ended() as ended:
        while len(seen) < count and not ended(0.0005):
            # Unlike rglob, walk does not mind folders that vanish while it looks.
            for _, folders, files in os.walk(folder):
                names = (*folders, *files)
                seen.update(n for n in names if n.startswith(".") and n.endswith(TEMPORARY))


CAMPAIGNS = {
    f"kill: {name}": Campaign(functools.partial(campaign, name), full)
    for name, full in FULL.items()
}
assert FULL.keys() == STAGES.keys()
