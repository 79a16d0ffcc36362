"""The files of a run: blocks of probes, each written whole by whichever process gets to it.

A block is some probes with all their pairs, a pure function of the list and a number. Its files
are `table-NNNNN.safetensors`, the responses that all methods share, and one
`maps-METHOD-NNNNN.safetensors` per method; a file that is there is not made again, so a run
resumes, parts add up, and a method that is added later costs only its maps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.pair_rows import PairRows
from faceguide.core.files import digest
from faceguide.core.formats.container import SUFFIX
from faceguide.evaluate.score.block_files import gather, is_there

FOLDER, TABLE = "blocks", "table"


@dataclass(frozen=True)
class Plan:
    """Who is compared with whom, cut into blocks of probes.

    Attributes:
        probe: (N,) rows of the cache, sorted; N pairs.
        reference: (N,) rows.
        same: (N,) bool.
        number: (N,) place in the list, the pair's own number.
        block: (N,) block of each pair.
        per_block: probes of each block.
        key: digest of all this and of what else changes a table.
    """

    probe: NDArray[np.int64]
    reference: NDArray[np.int64]
    same: NDArray[np.bool_]
    number: NDArray[np.int64]
    block: NDArray[np.int64]
    per_block: int
    key: str

    def __len__(self) -> int:
        return len(self.number)

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return int(self.block.max()) + 1

    def pairs_of(self, block: int) -> NDArray[np.int64]:
        """Places in this plan of the pairs of a block; pairs of one probe are neighbours."""
        return np.flatnonzero(self.block == block)


def make_plan(
    rows: PairRows, settings: Mapping[str, Any], per_block: int, limit: int | None, seed: int
) -> Plan:
    """Sort the pairs by probe and cut them into blocks.

    Args:
        settings: what a table depends on besides.
        per_block: probes per block.
        limit: sample this many pairs first, keyed by the seed; None = all.
    """
    chosen = np.arange(len(rows))
    if limit is not None and limit < len(rows):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit])
    order = chosen[np.lexsort((rows.number[chosen], rows.probe[chosen]))]
    probe, number = rows.probe[order], rows.number[order]
    _, place = np.unique(probe, return_inverse=True)
    parts = (probe, rows.reference[order], rows.same[order], number)
    key = digest([dict(settings), [part.tolist() for part in parts], per_block])
    return Plan(*parts, place // per_block, per_block, key)


def block_path(out: Path, name: str, block: int) -> Path:
    """Where a block's responses, `table`, or the maps of a method are."""
    stem = name if name == TABLE else f"maps-{re.sub(r'[^A-Za-z0-9_-]', '.', name)}"
    return out / FOLDER / f"{stem}-{block:05d}{SUFFIX}"


def missing_blocks(out: Path, plan: Plan, names: Sequence[str]) -> list[int]:
    """Blocks that lack a file: their table, or the maps of one of these methods."""
    return [
        block
        for block in range(plan.blocks)
        if not all(is_there(block_path(out, name, block), plan.key) for name in (TABLE, *names))
    ]


def gather_blocks(
    out: Path, plan: Plan, name: str, columns: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    """Arrays of all blocks of `TABLE` or a method, joined in the order of the plan.

    Raises:
        Unfinished: when a block is missing.
    """
    paths = [block_path(out, name, block) for block in range(plan.blocks)]
    return gather(out, name, paths, plan.key, columns)
