"""What tests read off sbatch scripts as `--print` shows them."""

from __future__ import annotations

import re
import shlex


def directives(script: str) -> dict[str, str]:
    """The #SBATCH lines."""
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH --")]
    pairs = [line.removeprefix("#SBATCH --").partition("=") for line in lines]
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def tasks(scripts: str) -> list[list[str]]:
    """The arguments of `faceguide` in every task of some scripts."""
    found = []
    for script in scripts.split("#!/bin/bash")[1:]:
        (command,) = re.findall(r"-m faceguide (.*) &$", script, re.MULTILINE)
        for index in numbers(directives(script).get("array", "0").partition("%")[0]):
            found.append(shlex.split(command.replace("$SLURM_ARRAY_TASK_ID", str(index))))
    return found


def numbers(array: str) -> list[int]:
    """`1,3-4` → 1, 3, 4, as Slurm reads it."""
    ranges = [piece.partition("-") for piece in array.split(",")]
    return [n for first, _, last in ranges for n in range(int(first), int(last or first) + 1)]
