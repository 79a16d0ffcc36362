"""Files of a source, which no link and no ".." may leave."""

# Names are handled as bytes here, which pathlib does not know, and resolved before they are opened.
# ruff: noqa: PTH117, PTH118, PTH123

from __future__ import annotations

import errno
import functools
import os
import stat
from pathlib import Path

from faceguide.preprocess.sources.source_row import ReadError

MAXIMUM_BYTES = 1 << 29  # of one image file


def is_inside(path: bytes, root: bytes) -> bool:
    real_root = os.path.realpath(root)
    return os.path.commonpath([os.path.realpath(path), real_root]) == real_root


@functools.lru_cache(maxsize=1024)
def _real(folder: str | Path) -> str:
    """Asked once per folder: it costs a call to the system for each of the path's parts."""
    return os.path.realpath(folder)


def read_inside(root: Path, key: str) -> bytes:
    """The bytes of the file `key` below `root`, which no link and no ".." may leave."""
    place = repr(key)  # without the root: a recorded reason must not differ between machines
    if not key or "\0" in key:
        raise ReadError("missing", f"{place}: no file can have this name")
    real_root = _real(root)
    folder, _, name = key.rpartition("/")
    resolved = os.path.join(_real(os.path.join(real_root, folder)), name)
    if name in ("", ".", "..") or os.path.islink(resolved):  # noqa: PTH114
        resolved = os.path.realpath(resolved)
    if os.path.isabs(key) or not resolved.startswith(real_root.rstrip("/") + "/"):
        raise ReadError(
            "outside",
            f"{place}: leaves the source's folder; copy the file into it, "
            "or list the images in a CSV above both",
        )
    try:
        # NONBLOCK: opening a pipe would wait for its writer for ever.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        with open(os.open(resolved, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ReadError("unreadable", f"{place}: no regular file")
            if status.st_size > MAXIMUM_BYTES:
                raise ReadError(
                    "too_large", f"{place}: {status.st_size} bytes, at most {MAXIMUM_BYTES}"
                )
            return file.read(status.st_size)
    except OSError as error:
        reason = "missing" if error.errno in (errno.ENOENT, errno.ENOTDIR) else "unreadable"
        raise ReadError(reason, f"{place}: {error.strerror}") from error
