"""Blocks of results on disk: some pairs or probes each, a pure function of the list and a number.

A block is written whole, once, by whichever process gets to it, so a run
resumes, and the parts of several machines add up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.commands.parts import WHOLE, shards_of
from faceguide.core.errors import Unfinished
from faceguide.core.files import digest
from faceguide.core.formats.container import SUFFIX, read_about, read_arrays, write_arrays

FOLDER = "scores"
_REMEDY = "remove the file and rerun the command"


def write_block(path: Path, key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, arrays, {"key": key})


def read_block(path: Path, key: str) -> dict[str, NDArray[Any]] | None:
    """The arrays of a block's file, mapped; None when there is none of this key.

    A file of another key belongs to other settings and counts as absent: it is replaced.

    Raises:
        CacheError: when the file cannot be read, or was changed since.
    """
    try:
        found = read_arrays(path, _REMEDY)
    except FileNotFoundError:
        return None
    return found.arrays if found.about.get("key") == key else None


def is_there(path: Path, key: str) -> bool:
    """Whether there is a file of this key; its bytes are compared when it is read.

    Raises:
        CacheError: when the file cannot be opened.
    """
    try:
        return read_about(path, _REMEDY).get("key") == key
    except FileNotFoundError:
        return False


def gather(
    out: Path, what: str, paths: Sequence[Path], key: str, columns: Sequence[str] | None = None
) -> dict[str, NDArray[Any]]:
    """The arrays of these files, or these columns of them, joined.

    Raises:
        Unfinished: naming the blocks, numbered as the paths, that lack a file of this key.
    """
    found = [read_block(path, key) for path in paths]
    if missing := [number for number, arrays in enumerate(found) if arrays is None]:
        raise Unfinished(out, what, missing, len(paths))
    there = [arrays for arrays in found if arrays is not None]
    names = there[0] if columns is None else columns
    return {name: np.concatenate([arrays[name] for arrays in there]) for name in names}


@dataclass(frozen=True)
class ScoreBlocks:
    """The scores of a run.

    Attributes:
        key: digest of whatever changes a score.
        part: (i, N), or None: compute nothing, only gather.
    """

    out: Path
    key: str
    part: tuple[int, int] | None = WHOLE

    def run(
        self,
        name: str,
        blocks: Sequence[slice],
        compute: Callable[[slice], dict[str, NDArray[Any]]],
        progress: Callable[[int], object] = lambda count: None,
    ) -> dict[str, NDArray[Any]] | None:
        """Compute the blocks of this part that are missing; gather all, when it is the only part.

        Args:
            name: of what is scored; begins the files' names.
            blocks: places of each block, one after the other.
            compute: arrays of a block, one entry per place.

        Returns:
            The arrays of all blocks, joined; None when other parts are needed.

        Raises:
            Unfinished: when nothing is to be computed and blocks are missing.
        """
        if self.part is not None:
            for number in shards_of(self.part, len(blocks)):
                path = self._path(name, number)
                if not is_there(path, self.key):
                    write_block(path, self.key, compute(blocks[number]))
                progress(blocks[number].stop - blocks[number].start)
            if self.part[1] > 1:
                return None
        paths = [self._path(name, number) for number in range(len(blocks))]
        return gather(self.out, f"{name} scores", paths, self.key)

    def about(self, *listed: NDArray[np.int64]) -> ScoreBlocks:
        """The same, for these lists of what is scored: their numbers belong to the key."""
        sums = [hashlib.sha256(np.asarray(one, "<i8").tobytes()).hexdigest() for one in listed]
        return replace(self, key=digest([self.key, sums]))

    def _path(self, name: str, number: int) -> Path:
        return self.out / FOLDER / f"{name}-{number:05d}{SUFFIX}"


def slices(count: int, step: int) -> list[slice]:
    """0 … count in blocks of `step`."""
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]
