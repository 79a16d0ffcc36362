"""How these tests call `prep`."""

from __future__ import annotations

import subprocess
import sys

PREP = [sys.executable, "-m", "faceguide", "prep"]


def prep(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `prep` in a process of its own."""
    command = [*PREP, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)
