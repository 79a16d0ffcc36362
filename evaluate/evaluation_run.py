"""What every run directory says of itself, and what an evaluation reads off a training run.

A training run's `run.json` may hold, besides its settings:

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
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faceguide.cache.plan import read_identities
from faceguide.cache.reader import FaceCache
from faceguide.core.errors import EvaluationError
from faceguide.core.files import (
    digest,
    json_bytes,
    publish,
    read_json,
    remedy,
    write_json,
)
from faceguide.train.run.run_record import (
    RUN,
    git_state,
    versions,
)


def begin(
    out: Path,
    command: str,
    settings: dict[str, Any],
    *,
    argv: Sequence[str] | None = None,
    overwrite: bool = False,
    **facts: Any,
) -> dict[str, Any]:
    """Write run.json before anything is computed, and return what it holds.

    The same command with the same settings goes on in its directory; a directory of `evaluate
    embed` may be taken over, since what it holds is reused. The parts of a run share one record:
    the first to come creates it, the others leave it as it is.

    Args:
        out: the run directory; made when missing.
        command: the command's name.
        settings: resolved options that change the result, JSON values.
        argv: the command line; None = this process's. --part is left out of it.
        overwrite: replace the record of another run.
        facts: further fields, such as `cache` and `weights`.

    Raises:
        EvaluationError: when the directory holds another run, or something else.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EvaluationError(f"{out}: cannot be made: {remedy(error)}") from None
    path = out / RUN
    record = {
        "command": command,
        "argv": _without_part(sys.argv if argv is None else argv),
        "settings": settings,
        "versions": versions(),
        "git": git_state(),
        **facts,
    }
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
        old = before.get("settings", {})
        changed = [name for name in settings if old.get(name) != settings[name]]
        if before.get("command") == command and changed:
            listed = ", ".join(f"{name} {old.get(name)} → {settings[name]}" for name in changed)
            raise EvaluationError(
                f"{out}: holds a run with other settings ({listed}); choose another --out or add "
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


def training_identities(run: Path) -> set[str] | None:
    """Names of the persons that a training run learnt; None when the run does not tell.

    Raises:
        EvaluationError: when it tells of a list or a cache that is not there.
    """
    record = read_run(run)
    own, cache = record.get("identities"), record.get("cache")
    if isinstance(own, str) and own:
        if own != "identities.txt" or file_of_run(run, own) is None:
            raise EvaluationError(
                f"{run / RUN}: `identities` must be identities.txt, found {own!r}"
            )
        return set(read_identities(run))
    if isinstance(cache, str) and cache:
        if not os.path.isdir(cache):  # noqa: PTH112 - a name that no file can have is none
            raise EvaluationError(
                f"{run / RUN}: its training cache {cache} is gone, so shared persons cannot be "
                "looked for; restore it, or put its identities.txt into the run directory and "
                "name it under `identities`"
            )
        return set(FaceCache.open(cache).identities)
    return None
