"""One run at a time in a run directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from faceguide.core.errors import TrainError


@contextlib.contextmanager
def alone(directory: Path, wanted: bool = True) -> Iterator[None]:
    """Keep other runs out of the directory until the block ends.

    The system's lock on the directory itself: it leaves no file and ends with its process, also by
    SIGKILL. A file system that cannot lock a directory (NFS) keeps nobody out.

    Args:
        wanted: False = do nothing, since another process of the run does it.

    Raises:
        TrainError: when another run is at work there.
    """
    if not wanted:
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainError(
                f"{directory}: another run is at work here; wait for its end, or choose "
                "another --out"
            ) from None
        except OSError:
            pass  # this file system has no such locks
        yield
    finally:
        os.close(descriptor)
