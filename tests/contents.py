"""What lies in a folder, for comparing two of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from faceguide.core.files import TEMPORARY


def contents(folder: Path, *parts_of_names: str) -> dict[str, str]:
    """Path → digest of every file, so that a failed comparison shows which ones differ.

    What killed writers leave, temporary files and folders with what is in them, is left out.

    Args:
        folder: where.
        parts_of_names: only files with one of these in their name.
    """
    names = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*"))}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for name, path in names.items()
        if path.is_file()
        and TEMPORARY not in name
        and (not parts_of_names or any(part in path.name for part in parts_of_names))
    }
