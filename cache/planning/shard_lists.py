"""The lists of the shards: every line of a listing goes to its place, in bounded memory.

Twice the rows are divided among units of work, which any number of processes may do. First by the
listing: a stretch of it is read, and its lines are appended to the bins that their shards belong
to. Then by the shards: a bin, a few hundred thousand lines, is sorted and cut into their lists.
"""

from __future__ import annotations

import functools
import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.permutation import permute
from faceguide.cache.plan import SOURCES, list_path
from faceguide.cache.planning.spooled_listing import Spool
from faceguide.core.files import write_bytes

Tick = Callable[[], object]
# Runs work(number, tick) for each number below `units`, in any order and in any processes.
Spread = Callable[[Callable[[int, Tick], None], int], None]

IN_MEMORY = 1 << 19  # lines that a process holds
_STRETCHES = 64  # of a long listing; each has a file in every bin
_SAMPLE_KEY, _PLACE_KEY = 1, 2
_BINS, _DIGESTS = "bins", "sha256"
_DIGITS = 15  # of the row number that leads a line until it is sorted


def in_turn(work: Callable[[int, Tick], None], units: int) -> None:
    """All units in this process."""
    for number in range(units):
        work(number, lambda: None)


def places(index: NDArray[np.int64], rows: int, seed: int) -> NDArray[np.int64]:
    """Row numbers in the cache of the sources listed at these positions, (N,) both."""
    return permute(index, rows, (seed, _PLACE_KEY))


@dataclass(frozen=True)
class ShardLists:
    """What becomes of a listing.

    Attributes:
        staging: the folder of the lists.
        rows: that are planned; fewer than the listing has are a uniform sample of it.
        seed: key of the permutations.
        shard_rows: rows of every shard but the last.
        in_memory: lines that a process holds.
    """

    staging: Path
    spool: Spool
    rows: int
    seed: int
    shard_rows: int
    in_memory: int = field(default_factory=lambda: IN_MEMORY)

    @functools.cached_property
    def stretches(self) -> list[tuple[int, int]]:
        """First chunk, and planned rows before it, of each stretch and of the listing's end."""
        chunks = len(self.spool.offsets) - 1
        count = min(max(1, self.spool.rows // self.in_memory), _STRETCHES)
        firsts = np.linspace(0, chunks, count + 1).astype(int).tolist()
        before = np.minimum(np.arange(chunks + 1) * self.spool.chunk, self.spool.rows)
        if self.rows < self.spool.rows:
            before = np.cumsum([0, *(len(self._planned(chunk)) for chunk in range(chunks))])
        return [(first, int(before[first])) for first in firsts]

    @property
    def shards(self) -> int:
        return -(-self.rows // self.shard_rows)

    @property
    def bin_rows(self) -> int:
        """Rows of every bin but the last: whole shards."""
        return self.shard_rows * max(1, self.in_memory // self.shard_rows)

    def write(self, spread: Spread) -> None:
        """Make `sources/`, with every list on the disk."""
        (self.staging / SOURCES).mkdir()
        bins = -(-self.rows // self.bin_rows)
        for number in range(bins):
            (self.staging / _BINS / str(number)).mkdir(parents=True)
        spread(self._scatter, len(self.stretches) - 1)
        spread(self._gather, bins)

    def digests(self) -> Iterator[bytes]:
        """Of each list that was made: its sha256."""
        for number in range(-(-self.rows // self.bin_rows)):
            yield (self.staging / _BINS / str(number) / _DIGESTS).read_bytes()

    def _planned(self, chunk: int) -> NDArray[np.int64]:
        """Which lines of a chunk are planned: those whose permuted number is below `rows`."""
        start = chunk * self.spool.chunk
        index = np.arange(start, min(start + self.spool.chunk, self.spool.rows))
        if self.rows < self.spool.rows:
            index = permute(index, self.spool.rows, (self.seed, _SAMPLE_KEY))
        return np.flatnonzero(index < self.rows)

    def _scatter(self, number: int, tick: Tick) -> None:
        """Append the lines of a stretch to the bins of their shards."""
        (first, planned), (last, _) = self.stretches[number : number + 2]
        held: dict[int, list[str]] = {}
        count = 0
        for chunk, lines in enumerate(self.spool.chunks(first, last), first):
            kept = self._planned(chunk)
            row = places(planned + np.arange(len(kept)), self.rows, self.seed)
            planned += len(kept)
            for target, place, line in zip(
                (row // self.bin_rows).tolist(), row.tolist(), kept.tolist(), strict=True
            ):
                held.setdefault(target, []).append(f"{place:0{_DIGITS}d}{lines[line]}\n")
            count += len(kept)
            if count >= self.in_memory or chunk + 1 == last:
                for target, some in held.items():
                    path = self.staging / _BINS / str(target) / str(number)
                    with path.open("a", encoding="ascii") as file:
                        file.writelines(some)
                held, count = {}, 0
        tick()

    def _gather(self, number: int, tick: Tick) -> None:
        """Write the lists of a bin's shards, in the order of slots."""
        lines: list[str] = []
        folder = self.staging / _BINS / str(number)
        digests = b""
        for path in list(folder.iterdir()):
            with path.open(encoding="ascii") as file:
                lines += file
            path.unlink()
        lines.sort()
        start = number * self.bin_rows
        for first in range(start, min(start + self.bin_rows, self.rows), self.shard_rows):
            ends = [f"{row:0{_DIGITS}d}" for row in (first, first + self.shard_rows)]
            low, high = (bisect_left(lines, end) for end in ends)
            text = "".join([line[_DIGITS:] for line in lines[low:high]]).encode("ascii")
            write_bytes(list_path(self.staging, first // self.shard_rows), text)
            digests += hashlib.sha256(text).digest()
        (folder / _DIGESTS).write_bytes(digests)
        tick()
