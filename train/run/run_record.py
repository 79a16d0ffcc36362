"""run.json: what a run was asked for, on what, with which versions, written before step 0."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from faceguide import __version__
from faceguide.cache.reader import FaceCache
from faceguide.core.errors import TrainError
from faceguide.core.files import (
    digest,
    read_json,
    remedy,
    write_bytes,
    write_json,
)
from faceguide.train.run.run_lock import alone

RUN = "run.json"
IDENTITIES = "identities.txt"
_PACKAGES = ("torch", "numpy", "scipy", "h5py", "safetensors")


def cache_hash(cache: FaceCache) -> str:
    """Names the content of a cache's faces: the digest of their manifest."""
    return digest(cache.groups["faces"])


def versions() -> dict[str, str]:
    """Versions of faceguide, Python and the packages that numbers depend on."""
    found = {"faceguide": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, Any] | None:
    """Commit of the program and whether its files were changed; None when git does not know it."""
    own = Path(__file__).resolve()
    # GIT_DIR and its like name a repository of the caller's, not the one that this file is in.
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=own.parent,
                env=environment,
                capture_output=True,
                text=True,
                timeout=10,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return None if done.returncode else done.stdout.strip()

    # An installed copy may lie inside a repository of somebody else's.
    if not git("ls-files", "--", own.name):
        return None
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/")
    return {"commit": git("rev-parse", "HEAD"), "changed": bool(changes)}


def plain(value: Any) -> Any:
    """Settings as JSON values: paths as text, tuples as lists."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def write_identities(directory: Path, names: Sequence[str]) -> None:
    """The persons that are learnt, one per line, in the format of a cache's identities.txt."""
    lines = (name.replace("\\", "\\\\").replace("\n", "\\n") + "\n" for name in names)
    write_bytes(directory / IDENTITIES, "".join(lines).encode("utf-8", "surrogateescape"))


def begin_run(
    directory: Path,
    command: str,
    settings: dict[str, Any],
    *,
    fixed: dict[str, Any],
    argv: Sequence[str] | None = None,
    **facts: Any,
) -> None:
    """Make the directory and write run.json, or check that the one there is of the same run.

    A start that saved nothing leaves a record, but nothing to go on from: another may begin there.

    Args:
        directory: of the run.
        command: its name.
        settings: every resolved option.
        fixed: what must be equal for a run to go on in this directory.
        argv: the command line; None = this process's.
        facts: further fields: `models`, `cache`, `identities` …

    Raises:
        TrainError: when the directory holds another command's run, or one with other settings, or
            one is at work there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(f"{directory}: cannot be made: {remedy(error)}") from None
    path = directory / RUN
    with alone(directory):
        if path.exists():
            before = read_json(path)
            theirs = str(before.get("command"))
            if not theirs.startswith("train ") or _holds_weights(directory):
                _require_same(directory, before, command, fixed)
        write_json(
            path,
            {
                "command": command,
                "argv": list(sys.argv if argv is None else argv),
                "settings": settings,
                "fixed": fixed,
                "versions": versions(),
                "git": git_state(),
                **facts,
            },
        )


def _holds_weights(directory: Path) -> bool:
    return any(next(directory.glob(kind), None) for kind in ("*.pt", "*.safetensors"))


def _require_same(
    directory: Path, before: dict[str, Any], command: str, fixed: dict[str, Any]
) -> None:
    if before.get("command") != command:
        raise TrainError(
            f"{directory}: holds a run of {before.get('command')!r}; choose another --out"
        )
    old = before.get("fixed", {})
    changed = [name for name in {**old, **fixed} if old.get(name) != fixed.get(name)]
    if changed:
        listed = ", ".join(f"{name} {old.get(name)} → {fixed.get(name)}" for name in changed)
        raise TrainError(
            f"{directory}: holds a run with other settings ({listed}); choose another --out, "
            "or remove the folder to start over"
        )
