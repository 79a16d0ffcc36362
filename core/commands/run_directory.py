"""A run directory: run.json says what was asked for, with which versions, before anything is done.

The record of a training run may hold, besides its settings:

* `models`: {"backbone" | "matcher" | "occlusion_head": {"name": …, "arguments": {…},
  "weights": file name in the directory}}, and `map`, the side of the feature map that matcher and
  head work on (7 when absent);
* `cache`: the directory of its training cache;
* `identities`: a file in the run directory in the format of a cache's identities.txt, so that
  the leak check works after the cache has moved.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from faceguide import __version__
from faceguide.core.commands.run_lock import alone
from faceguide.core.errors import EvaluationError, FaceguideError, TrainError
from faceguide.core.files import digest, json_bytes, publish, read_json, remedy, write_json

RUN = "run.json"
_PACKAGES = ("torch", "numpy", "scipy", "h5py", "safetensors")


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


def begin_training(
    directory: Path,
    command: str,
    settings: dict[str, Any],
    *,
    fixed: dict[str, Any],
    argv: Sequence[str] | None = None,
    **facts: Any,
) -> None:
    """Make the directory and write run.json, or check that the one there is of the same run.

    A start that saved nothing leaves a record, but nothing to resume: another may begin there.

    Args:
        fixed: what must be equal for a run to be resumed in this directory.
        argv: the command line; None = this process's.

    Raises:
        TrainError: when the directory holds another command's run, or one with other settings, or
            another process trains there.
    """
    _make(directory, TrainError)
    path = directory / RUN
    with alone(directory):
        if path.exists():
            before = read_json(path)
            theirs = str(before.get("command"))
            if theirs != command and (not theirs.startswith("train ") or _holds_weights(directory)):
                raise TrainError(f"{directory}: holds a run of {theirs!r}; choose another --out")
            changed = _changes(_table(before, "fixed"), fixed)
            if changed and theirs == command and _holds_weights(directory):
                raise TrainError(
                    f"{directory}: holds a run with other settings ({changed}); choose another "
                    "--out, or remove the folder to start over"
                )
        record = _record(command, sys.argv if argv is None else argv, settings)
        write_json(path, {**record, "fixed": fixed, **facts})


def _holds_weights(directory: Path) -> bool:
    return any(next(directory.glob(kind), None) for kind in ("*.pt", "*.safetensors"))


def begin_evaluation(
    out: Path,
    command: str,
    settings: dict[str, Any],
    *,
    argv: Sequence[str] | None = None,
    overwrite: bool = False,
    **facts: Any,
) -> dict[str, Any]:
    """Write run.json before anything is computed, and return what it holds.

    The same command with the same settings is resumed in its directory; a directory of `evaluate
    embed` may be taken over, since what it holds is reused. The parts of a run share one record:
    the first to come creates it, the others leave it as it is.

    Args:
        out: the run directory; made when missing.
        settings: resolved options that change the result, JSON values.
        argv: the command line; None = this process's. --part is left out of it.
        facts: further fields, such as `cache` and `weights`.

    Raises:
        EvaluationError: when the directory holds another run, or something else.
    """
    _make(out, EvaluationError)
    path = out / RUN
    words = _without_part(sys.argv if argv is None else argv)
    record = {**_record(command, words, settings), **facts}
    if publish(path, json_bytes(record)):
        return record
    if not overwrite:
        before = read_json(path)
        same = [name for name in record if name != "argv"]
        if digest([before.get(name) for name in same]) == digest([record[name] for name in same]):
            return before
        if before.get("command") not in (command, "embed"):
            raise EvaluationError(
                f"{out}: holds a run of `evaluate {before.get('command')}`; choose another --out "
                "or add --overwrite"
            )
        old = {name: _table(before, "settings").get(name) for name in settings}
        changed = _changes(old, settings)
        if before.get("command") == command and changed:
            raise EvaluationError(
                f"{out}: holds a run with other settings ({changed}); choose another --out or add "
                "--overwrite"
            )
    write_json(path, record)
    return record


def _without_part(argv: Sequence[str]) -> list[str]:
    words = list(argv)
    while "--part" in words:
        place = words.index("--part")
        del words[place : place + 2]
    return [word for word in words if not word.startswith("--part=")]


def _make(directory: Path, kind: type[FaceguideError]) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise kind(f"{directory}: cannot be made: {remedy(error)}") from None


def _record(command: str, argv: Sequence[str], settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "command": command,
        "argv": list(argv),
        "settings": settings,
        "versions": versions(),
        "git": git_state(),
    }


def _table(record: dict[str, Any], name: str) -> dict[str, Any]:
    """A field of a record that somebody may have written by hand."""
    found = record.get(name)
    return found if isinstance(found, dict) else {}


def _changes(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The settings that differ, for a message; "" when none does."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {old.get(name)} → {new.get(name)}" for name in names)


def read_run(directory: Path) -> dict[str, Any]:
    """The run.json of a training or evaluation run.

    Raises:
        EvaluationError: when there is none or it is no JSON object.
        CacheError: when one of ours was changed since it was written.
    """
    path = directory / RUN
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise EvaluationError(f"{path}: cannot read: {error.strerror}; not a run?") from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{path}: not JSON: {error}") from None
    if not isinstance(record, dict):
        raise EvaluationError(f"{path}: expected a JSON object")
    # Ours holds its own digest; one that was written by hand need not.
    return read_json(path) if record.keys() & {"self", "argv", "versions"} else record


def file_of_run(run: Path, name: str) -> Path | None:
    """The file that run.json names; None when no file inside the run can have that name."""
    try:
        path = run / name
        path.lstat()  # too long a name, or one with a zero byte
    except FileNotFoundError:
        pass
    except (OSError, ValueError):
        return None
    return path if path.resolve().parent == run.resolve() else None
