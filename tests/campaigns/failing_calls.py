"""ENOSPC and EIO from one system call after the other, injected by strace.

An undisturbed run under strace lists the calls that touch the folder of the command. Calls that do
the same for another shard or step count once; each of the others is made to fail in turn, and a
trial counts only when strace's log shows that the call it hit was on a file of that folder.
"""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path

from tests.campaigns.counts import Campaign, Counts, UnavailableError
from tests.campaigns.injection import READING, WRITING, Call, Traced, unavailable
from tests.campaigns.refused import Tally
from tests.campaigns.stages import Undisturbed

# More where a trial costs less; a stage whose calls are fewer has each fail once.
WRITES = {
    "prep landmarks": 100,
    "prep masks": 60,
    "prep guidance": 60,
    "train cal": 16,
    "train oaml": 16,
    "train oaml, two caches": 8,
    "cache copy": 60,
    "evaluate verification": 60,
    "evaluate attribution": 14,
}
READS = {"prep masks": 20, "prep guidance": 20, "train cal": 10, "train oaml, two caches": 8,
         "evaluate verification": 20}  # fmt: skip


def campaign(reading: bool, name: str, count: int, seed: int, folder: Path) -> Counts:
    """Let up to `count` calls of a stage fail, one per run; `Campaign.run` of each stage."""
    if unavailable():
        raise UnavailableError(unavailable())
    one = Undisturbed.measure(name)
    sites = _sites(one, reading)
    rng = random.Random(f"{seed} {name}")
    chosen = sites if len(sites) <= count else sorted(rng.sample(range(len(sites)), count))
    chosen = [sites[place] if isinstance(place, int) else place for place in chosen]
    tally, missed = Tally(one), 0
    for number, call in enumerate(chosen):
        full = not reading and "sync" not in call.name and number % 2 == 0
        error = "ENOSPC" if full else "EIO"
        one.begin()
        traced = Traced(
            one.start(stopped=True),
            one.world.folder / "calls",
            (call.name,),
            f"{call.name}:error={error}:when={call.number}",
        )
        status = traced.finish()
        hit = traced.injected()
        if not hit or not all(_concerns(one, line, reading) for line in hit):
            missed += 1
            continue
        what = re.sub(r"[0-9a-f]{32}", "*", hit[0].split(" = ")[0].partition(" ")[2])
        where = str(one.world.folder)
        tally.judge(f"{error} of {what}", status, traced.running.said, where=where, reading=reading)
    return tally.counts(calls=len(sites), missed=missed)


def _sites(one: Undisturbed, reading: bool) -> list[Call]:
    """The calls of an undisturbed run, those that repeat left out."""
    one.begin()
    log = one.world.folder / "calls"
    traced = Traced(one.start(stopped=True), log, READING if reading else WRITING)
    status = traced.finish()
    if status != 0:
        raise RuntimeError(f"{one.words}, only watched, ended with {status}")
    seen: dict[str, int] = {}
    sites = {}
    for call in traced.calls(one.world.folder):
        # What failed undisturbed, as the making of a folder that is there, may fail otherwise too.
        if not _concerns(one, call.text, reading) or " = -1 " in call.text:
            continue
        path = re.search(re.escape(str(one.world.folder)) + r"[^\s\">,]*", call.text)
        assert path is not None
        seen[call.name + path[0]] = seen.get(call.name + path[0], 0) + 1
        kind = re.sub(r"[0-9a-f]{32}|-\d{5}\b|/\d{5}\b", "#", path[0])
        sites.setdefault((call.name, kind, seen[call.name + path[0]]), call)
    return list(sites.values())


def _concerns(one: Undisturbed, line: str, reading: bool) -> bool:
    """Whether a call is of the kind and on a file that the campaign is about."""
    created = "O_CREAT" in line
    if not reading:
        return str(one.world.work) in line and ("openat(" not in line or created)
    inside = any(str(place) in line for place in (one.world.work, one.world.cache))
    # A folder that cannot be listed, and a picture that cannot be read, are other matters.
    return inside and not created and re.search(r"\.(h5|json|jsonl|txt|pt)\b", line) is not None


CAMPAIGNS = {
    f"refused writes: {name}": Campaign(functools.partial(campaign, False, name), full)
    for name, full in WRITES.items()
} | {
    f"refused reads: {name}": Campaign(functools.partial(campaign, True, name), full)
    for name, full in READS.items()
}
