"""What tests read off sbatch scripts as `--print` shows them."""

from __future__ import annotations

import shlex


def directives(script: str) -> dict[str, str]:
    """The #SBATCH lines."""
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH --")]
    pairs = [line.removeprefix("#SBATCH --").partition("=") for line in lines]
    return {name: value for name, _, value in pairs}


def tasks(script: str) -> list[list[str]]:
    """The command lines that the tasks of some scripts would run."""
    lines = [line for line in script.splitlines() if line.startswith("# task ")]
    return [shlex.split(line.partition(": faceguide ")[2]) for line in lines]
