"""A disk that is full after so many bytes: each command on small file systems of many sizes."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.campaigns.counts import Campaign, Counts, UnavailableError
from tests.campaigns.refused import Tally
from tests.campaigns.stages import Undisturbed, clear

FULL = {
    "prep landmarks": 16,
    "prep masks": 12,
    "prep guidance": 12,
    "train cal": 6,
    "train oaml": 6,
    "cache copy": 10,
    "evaluate verification": 10,
    "evaluate attribution": 4,
}
_ROOM = 1 << 30
_PAGE = 4096
_TRIES = 5  # per fault: a size may turn out to be enough, and then bounds the next


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system in memory on the folder, of 1 GiB until `resize`.

    Raises:
        UnavailableError: where it cannot be mounted, which only root may.
    """
    folder.mkdir(exist_ok=True)
    clear(folder)
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", folder], check=False
        ).returncode
    )
    if not mounted:
        raise UnavailableError("this system does not let us mount a tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def resize(folder: Path, size: int) -> None:
    """Give the file system another size in bytes, no less than what it holds."""
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


def campaign(name: str, count: int, seed: int, folder: Path) -> Counts:
    """Fill the disk at `count` sizes; `Campaign.run` of each stage."""
    one = Undisturbed.measure(name)
    rng = random.Random(f"{seed} {name}")
    tally, fitted = Tally(one), 0
    with small_disk(one.world.work):
        one.begin()
        least = _used(one.world.work)
        if one.start().finish() != 0:
            raise RuntimeError(f"{one.words} does not run on this file system")
        most = _used(one.world.work)
        if most - least < 16 * _PAGE:  # it replaces files: their copies need room for a while
            most = least + 64 * _PAGE
        for _ in range(count * _TRIES):
            if tally.injected == count:
                break
            one.begin()
            size = rng.randrange(least + _PAGE, most, _PAGE)
            resize(one.world.work, size)
            running = one.start()
            status = running.finish()
            resize(one.world.work, _ROOM)
            if status == 0:
                fitted, most = fitted + 1, max(size, least + 2 * _PAGE)
                continue
            where = str(one.world.work)
            tally.judge(f"a disk of {size} bytes", status, running.said, where=where)
    return tally.counts(fitted=fitted)


def _used(folder: Path) -> int:
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


CAMPAIGNS = {
    f"full disk: {name}": Campaign(functools.partial(campaign, name), full)
    for name, full in FULL.items()
}
