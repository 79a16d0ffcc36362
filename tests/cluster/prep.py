"""How these tests call `prep`, and what they compare."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PREP = [sys.executable, "-m", "faceguide", "prep"]


def prep(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `prep` in a process of its own."""
    command = [*PREP, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def content(directory: Path, *groups: str) -> dict[str, bytes]:
    """The files of a cache by name; of some groups, or all."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and (not groups or any(group in path.name for group in groups))
    }
