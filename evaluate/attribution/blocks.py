"""The files of a run: blocks of probes, each written whole by whoever gets to it.

A block is some probes with all their pairs, a pure function of the list and a number. Its files
are `table-NNNNN.h5`, the responses that all methods share, and one `maps-METHOD-NNNNN.h5` per
method; a file that is there is not made again, so a run resumes, parts add up, and a method that
is added later costs its maps alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.files import digest, replacing
from faceguide.evaluate.attribution.errors import AttributionError
from faceguide.evaluate.pair_rows import PairRows

FOLDER = "blocks"


@dataclass(frozen=True)
class Plan:
    """Who is compared with whom, cut into blocks of probes.

    Attributes:
        probe: (N,) rows of the cache, sorted; N pairs.
        reference: (N,) rows.
        same: (N,) bool.
        number: (N,) place in the list, the pair's own number.
        block: (N,) block of each pair.
        key: digest of all this and of what else changes a table.
    """

    probe: NDArray[np.int64]
    reference: NDArray[np.int64]
    same: NDArray[np.bool_]
    number: NDArray[np.int64]
    block: NDArray[np.int64]
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
        rows: the pairs.
        settings: what a table depends on besides.
        per_block: probes per block.
        limit: draw so many pairs first, keyed by the seed; None = all.
        seed: of the draw.
    """
    chosen = np.arange(len(rows))
    if limit is not None and limit < len(rows):
        chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:limit])
    order = chosen[np.lexsort((rows.number[chosen], rows.probe[chosen]))]
    probe, number = rows.probe[order], rows.number[order]
    _, place = np.unique(probe, return_inverse=True)
    parts = (probe, rows.reference[order], rows.same[order], number)
    key = digest([dict(settings), [part.tolist() for part in parts], per_block])
    return Plan(*parts, place // per_block, key)


def table_path(out: Path, block: int) -> Path:
    """Where the responses of a block are."""
    return out / FOLDER / f"table-{block:05d}.h5"


def maps_path(out: Path, method: str, block: int) -> Path:
    """Where the maps of a method are."""
    return out / FOLDER / f"maps-{re.sub(r'[^A-Za-z0-9_-]', '.', method)}-{block:05d}.h5"


def write_arrays(path: Path, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a block's file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["key"] = key
        for name, values in arrays.items():
            file.create_dataset(name, data=values)


def read_arrays(path: Path, key: str) -> dict[str, NDArray[Any]] | None:
    """The arrays of a block's file; None when there is none of this key.

    A file of another key belongs to other settings and counts as absent: it is replaced.

    Raises:
        AttributionError: when the file cannot be read.
    """
    if not path.exists():
        return None
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("key") != key:
                return None
            return {name: file[name][()] for name in file}
    except OSError as error:
        raise AttributionError(
            f"{path}: not readable as HDF5 ({error}); remove the file and run the command again"
        ) from None


def gather(out: Path, plan: Plan, name: str, key: str) -> dict[str, NDArray[Any]]:
    """Arrays of all blocks of "table" or a method, joined in the order of the plan.

    Raises:
        AttributionError: naming the first block that is missing, and how many are.
    """
    paths = [
        table_path(out, block) if name == "table" else maps_path(out, name, block)
        for block in range(plan.blocks)
    ]
    parts = [read_arrays(path, key) for path in paths]
    missing = [path.name for path, part in zip(paths, parts, strict=True) if part is None]
    if missing:
        raise AttributionError(
            f"{out}: {len(missing)} of {len(paths)} blocks of {name} are missing, e.g. "
            f"{missing[0]}; run the parts that make them, then `evaluate merge` again"
        )
    found = [part for part in parts if part is not None]
    return {field: np.concatenate([part[field] for part in found]) for field in found[0]}
