"""Part i of N: which shards (or other units) one machine of several works on.

Unit u belongs to part u mod N, so that parts are of equal size whatever the units number. A part
is a name for work, not a claim on it: parts may overlap, die, run twice or run together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

from faceguide.core.commands.console import say
from faceguide.core.errors import FaceguideError

WHOLE = (0, 1)
_ARRAY = tuple(f"SLURM_ARRAY_TASK_{name}" for name in ("ID", "MIN", "MAX", "STEP", "COUNT"))


def parse_part(text: str) -> tuple[int, int]:
    """``"i/N"`` → (i, N), i counted from 0.

    Raises:
        FaceguideError: for anything else.
    """
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not int(match[1]) < int(match[2]):
        raise FaceguideError(f"--part {text}: expected i/N with i from 0 to N−1, for example 0/4")
    return int(match[1]), int(match[2])


def array_part(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """The part that Slurm's array variables name, or None outside an array.

    The first task is part 0, whatever number it has; `--array=10-40:10` makes four parts.

    Raises:
        FaceguideError: when only some of the variables are there, or when the array has gaps: the
            tasks of `--array=1,3` cannot know how many parts there were.
    """
    there = [name for name in _ARRAY if environment.get(name)]
    if _ARRAY[0] not in there:
        return None
    if len(there) < len(_ARRAY):
        missing = ", ".join(name for name in _ARRAY if name not in there)
        raise FaceguideError(
            f"{', '.join(there)} set but not {missing}: Slurm sets all of them; give --part i/N"
        )
    try:
        task, first, last, step, count = (int(environment[name]) for name in _ARRAY)
    except ValueError:
        values = ", ".join(f"{name}={environment[name]}" for name in _ARRAY)
        raise FaceguideError(f"{values}: expected whole numbers; give --part i/N") from None
    if step < 1 or count != (last - first) // step + 1 or (task - first) % step or task > last:
        raise FaceguideError(
            f"this Slurm array is sparse: {count} tasks from {first} to {last} in steps of {step}, "
            f"so task {task} cannot know its part; give --part i/N, for example "
            "--part $SLURM_ARRAY_TASK_ID/N with the N of the whole array"
        )
    return (task - first) // step, count


def own_part(text: str | None) -> tuple[int, int]:
    """The part of this process: what --part says, else what a Slurm array says, else all.

    Raises:
        FaceguideError: as `parse_part` and `array_part`.
    """
    if text is not None:
        return parse_part(text)
    given = array_part()
    if given is not None:
        say(f"Part {given[0]}/{given[1]} of this Slurm array (--part 0/1 would do everything)")
    return given or WHOLE


def shards_of(part: tuple[int, int], shards: int) -> list[int]:
    """The shards of one part."""
    index, parts = part
    return list(range(index, shards, parts))


def parts_of(shards: Iterable[int], parts: int) -> list[int]:
    """The parts that these shards belong to, ascending."""
    return sorted({shard % parts for shard in shards})


def show_indices(indices: Sequence[int]) -> str:
    """1, 3, 10, 11, 12 → `1,3,10-12`, which `--indices` reads."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)
