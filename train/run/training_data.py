"""The data of a training run, as its directory names them: a cache's content, and identities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from faceguide.cache.plan import IDENTITIES, read_identities
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.run_directory import RUN, file_of_run, read_run
from faceguide.core.errors import CacheError, EvaluationError
from faceguide.core.files import digest, write_bytes


def cache_hash(cache: FaceCache) -> str:
    """Names the content of a cache's faces: the digest of their manifest."""
    return digest(cache.groups["faces"])


def write_identities(directory: Path, names: Sequence[str]) -> None:
    """The identities that are learnt, one per line, in the format of a cache's identities.txt."""
    lines = (name.replace("\\", "\\\\").replace("\n", "\\n") + "\n" for name in names)
    write_bytes(directory / IDENTITIES, "".join(lines).encode("utf-8", "surrogateescape"))


def training_identities(run: Path) -> set[str] | None:
    """Names of the identities that a training run learnt; None when the run does not tell.

    Raises:
        EvaluationError: when it tells of a list or a cache that is not there.
    """
    record = read_run(run)
    own, cache = record.get("identities"), record.get("cache")
    if isinstance(own, str) and own:
        if own != IDENTITIES or file_of_run(run, own) is None:
            raise EvaluationError(f"{run / RUN}: `identities` must be {IDENTITIES}, found {own!r}")
        return set(read_identities(run))
    if isinstance(cache, str) and cache:
        try:
            return set(FaceCache.open(cache).identities)
        except CacheError as error:
            raise EvaluationError(
                f"{run / RUN}: its training cache {cache} is gone ({error}), so shared identities "
                "cannot be looked for; restore it, or put its identities.txt into the run "
                "directory and name it under `identities`"
            ) from None
    return None
