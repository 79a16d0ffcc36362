"""A store that answers late, with half a file, with another file or not at all, at random."""

from __future__ import annotations

import random

from tests.campaigns.counts import Campaign, Counts
from tests.campaigns.refused import Tally
from tests.campaigns.stages import Undisturbed

STAGE = "cache copy"
KINDS = ("fail", "cut", "other")
_FEW, _MANY = 1, 100  # requests: those that are tried again, and more than are


def campaign(count: int, seed: int, folder: object) -> Counts:
    """Let a file's next requests go wrong, `count` times."""
    one = Undisturbed.measure(STAGE)
    store, rng, tally = one.world.store, random.Random(seed), Tally(one, partial=True)
    store.asked.clear()
    one.begin()
    if one.start().finish() != 0:
        raise RuntimeError(one.world.log.read_text("utf-8", "replace"))
    names = sorted(set(store.asked))
    for _ in range(count):
        kind = rng.choice(KINDS)
        # Small JSON files, such as those of doubts, have no digest in the manifest.
        name = rng.choice([name for name in names if kind != "other" or name.endswith(".h5")])
        times = rng.choice((_FEW, _MANY))
        one.begin()
        getattr(store, kind)[name] = times
        status = one.start().finish()
        said = one.world.log.read_text("utf-8", "replace")
        for faults in (store.fail, store.cut, store.other):
            faults.clear()
        what = f"{kind} {times} requests of {name}"
        # What is retried ends well; a file that never comes is refused by name.
        tally.judge(what, status, said, where="", reading=times == _FEW)
    return tally.counts()


CAMPAIGNS = {f"bad downloads: {STAGE}": Campaign(campaign, 60)}
