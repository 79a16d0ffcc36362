"""A volume, or one of its shards, that is gone at a random moment of a command that reads it."""

from __future__ import annotations

import random

from tests.campaigns.counts import Campaign, Counts
from tests.campaigns.refused import Tally
from tests.campaigns.stages import Undisturbed

STAGE = "train oaml, two caches"


def campaign(count: int, seed: int, folder: object) -> Counts:
    """Move a volume or a shard away `count` times, and back once the command has ended."""
    one = Undisturbed.measure(STAGE)
    rng, tally = random.Random(seed), Tally(one)
    refused = 0
    for number in range(count):
        volume = rng.choice(one.world.volumes)
        gone = volume if number % 2 else rng.choice(sorted(volume.glob("*-0*.h5")))
        away = one.world.folder / f"away-{gone.name}"
        moment = one.seconds * rng.random() ** 2  # more while shards are being opened
        one.begin()
        running = one.start()
        with running.ended() as ended:
            ended(moment)
        gone.rename(away)
        try:
            status = running.finish()
        finally:
            away.rename(gone)
        said = one.world.log.read_text("utf-8", "replace")
        refused += status != 0
        # What was mapped before stays readable: then the run ends as if nothing had been.
        tally.judge(
            f"{gone.name} gone after {moment:.3f} s", status, said, where=volume.name, reading=True
        )
    return tally.counts(refused=refused)


CAMPAIGNS = {f"vanishing: {STAGE}": Campaign(campaign, 40)}
