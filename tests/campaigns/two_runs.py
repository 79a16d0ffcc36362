"""Two runs at once on one directory, and a writer that is stopped while another finishes.

Runs of `prep` and `evaluate` share the work; of two trainings the later one is refused. Either
way the directory ends as one undisturbed run leaves it.
"""

from __future__ import annotations

import functools
import random
import signal
import time
from pathlib import Path

from tests.campaigns.counts import Campaign, Counts
from tests.campaigns.kills import wait_for_files
from tests.campaigns.stages import STAGES, Outcome, Undisturbed, last_line

FULL = {
    "prep landmarks": 10,
    "prep landmarks, 2 processes": 4,
    "prep masks": 10,
    "prep guidance": 10,
    "train cal": 6,
    "train oaml": 4,
    "train oaml, two caches": 4,
    "cache copy": 10,
    "evaluate verification": 8,
    "evaluate attribution": 4,
}
REFUSAL = "another run is at work here"


def campaign(name: str, count: int, seed: int, folder: Path) -> Counts:
    """Run a stage twice at once `count` times, stopping one in half; `Campaign.run`."""
    one = Undisturbed.measure(name)
    rng = random.Random(f"{seed} {name}")
    lost = doubled = survived = stopped = crashes = 0
    failures = []
    for number in range(count):
        stop = number % 2 == 1
        one.begin()
        how, faults = _stopped(one, rng) if stop else _together(one, rng)
        stopped += stop
        outcome: Outcome = one.compare()
        faults += [outcome.fault] if outcome.fault else []
        crashes += any("Traceback" in fault or "ended with None" in fault for fault in faults)
        lost, doubled = lost + outcome.lost, doubled + outcome.doubled
        survived += not faults
        if faults:
            failures.append(f"{how}: {'; '.join(faults)}")
    return Counts(
        count,
        survived,
        rows_lost=lost,
        rows_doubled=doubled,
        crashes=crashes,
        details={"with a writer that was stopped": stopped},
        failures=tuple(failures),
    )


def _together(one: Undisturbed, rng: random.Random) -> tuple[str, list[str]]:
    """Both at once, the second a little later; parts that overlap where a command has parts."""
    delay = rng.uniform(0, one.seconds / 2)
    parts = (["--part", "0/2"], ["--part", "1/2"], []) if one.stage.parts else ([], [])
    running = []
    for place, words in enumerate(parts):
        running.append(one.start(words, log=one.world.folder / f"log-{place}"))
        time.sleep(delay / len(parts))
    ended = [(each.finish(), each.said) for each in running]
    faults = [
        f"a run ended with {status}: {_told(said)}"
        for status, said in ended
        if status != 0 and not _refused(status, said)
    ]
    if all(status != 0 for status, _ in ended):
        faults.append("no run got through")
    return f"{len(parts)} runs within {delay:.2f} s", faults


def _stopped(one: Undisturbed, rng: random.Random) -> tuple[str, list[str]]:
    """SIGSTOP while a file is being written, a second run to its end, then SIGCONT."""
    wanted = rng.randrange(1, 12)
    first = one.start(log=one.world.folder / "log-first")
    wait_for_files(one.world.work, wanted, first)
    first.send(signal.SIGSTOP)
    second = one.start(log=one.world.folder / "log-second")
    faults = []
    status = second.finish()
    if status == 0:
        between = one.compare()
        faults += [f"while one was stopped, {between.fault}"] if between.fault else []
    elif not _refused(status, second.said):
        faults.append(f"the second ended with {status}: {_told(second.said)}")
    first.send(signal.SIGCONT)
    status = first.finish()
    if status != 0 and not _refused(status, first.said):
        faults.append(f"the one that was stopped ended with {status}: {_told(first.said)}")
    return f"stopped at temporary file {wanted}", faults


def _refused(status: int | None, said: str) -> bool:
    return status == 1 and REFUSAL in said and "Traceback" not in said


def _told(said: str) -> str:
    return ("Traceback … " if "Traceback" in said else "") + last_line(said)


CAMPAIGNS = {
    f"two runs: {name}": Campaign(functools.partial(campaign, name), full)
    for name, full in FULL.items()
}
assert FULL.keys() == STAGES.keys()
