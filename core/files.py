"""Files that appear whole or not at all.

Every file of a cache is written under a unique temporary name in its own directory, flushed to
the disk and renamed. A killed writer leaves at most a stray temporary file; a reader never sees
half of anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faceguide.core.errors import CacheError

TEMPORARY = ".tmp"
_LOCK = ".lock"  # of a directory

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space and rerun the same command",
    errno.EDQUOT: "the disk quota is used up; free some space and rerun the same command",
    errno.EROFS: "the file system is read-only; choose another place, or mount it for writing",
    errno.EACCES: "permission denied; choose another --out or change its owner",
    errno.EPERM: "permission denied; choose another --out or change its owner",
    errno.EIO: "the disk reported an input/output error; check the disk, then rerun",
}

# What link says where there are no hard links (EMLINK: one name is all a file may have), and what
# a call says that a file system does not know.
_NOT_KNOWN = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_NO_LINKS = (*_NOT_KNOWN, errno.EPERM, errno.EACCES, errno.EMLINK)


def remedy(error: OSError) -> str:
    """What the system said, and what to do about it."""
    return _REMEDIES.get(error.errno or 0, error.strerror or str(error))


def write_error(path: Path, error: OSError) -> CacheError:
    """The one line for a write that failed; everything finished before it stays."""
    return CacheError(f"{path}: cannot write: {remedy(error)} (what is finished is kept)")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """A read that the system refuses names no file by itself: here it does.

    Raises:
        CacheError: instead of such an OSError; one that a missing file gives stays.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise CacheError(f"{path}: cannot read: {remedy(error)}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success it takes the place of `path` for good.

    Raises:
        CacheError: when the disk is full, read-only or fails; the temporary file is removed and
            `path` is as it was.
    """
    # The uuid keeps writers on several nodes apart, where process ids repeat.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        _discard(temporary)
        raise write_error(path, error) from error
    except BaseException:
        _discard(temporary)
        raise


def _discard(temporary: Path) -> None:
    """Remove a file; a disk that refuses this too must not hide what it refused before."""
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or a directory entry to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems do not know what flushing a directory is.
        if error.errno not in _NOT_KNOWN or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; CacheError when the system refuses."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


_SELF = "self"  # the field that holds the digest of all others


def json_bytes(value: dict[str, Any]) -> bytes:
    """A JSON object as it is written everywhere, with its own digest.

    The same value gives the same bytes, and a changed byte does not pass `read_json`.
    """
    sealed = {**value, _SELF: digest(value)}
    return (json.dumps(sealed, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write JSON with its own digest, as `read_json` checks it, whole or not at all."""
    write_bytes(path, json_bytes(value))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that `json_bytes` made.

    Raises:
        CacheError: when the file is missing, is no JSON object, or was changed since; its cause is
            an OSError when the system refused to read it.
    """
    try:
        data = path.read_bytes()
        value = json.loads(data)
    except FileNotFoundError:
        raise CacheError(f"{path}: no such file") from None
    except OSError as error:
        raise CacheError(f"{path}: cannot read: {remedy(error)}") from error
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{path}: not readable as JSON ({error}); restore or rebuild it") from None
    if not isinstance(value, dict):
        raise CacheError(f"{path}: expected a JSON object, found {type(value).__name__}")
    value.pop(_SELF, None)
    try:
        # Byte for byte: a flipped bit may turn \u00fc into \u00FC, which reads the same.
        intact = json_bytes(value) == data
    except (ValueError, RecursionError):  # NaN or depths that JSON of ours never holds
        intact = False
    if not intact:
        raise CacheError(f"{path}: changed since it was written; restore or rebuild it")
    return value


def publish(path: Path, data: bytes) -> bool:
    """Create `path` with `data` unless it is there already; True when this call created it.

    Of several writers exactly one wins, and the others can read what the winner wrote. Nothing is
    written where the file is there, so that what is finished can be asked for on a read-only disk.
    """
    if path.exists():
        return False
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        temporary.write_bytes(data)
        sync(temporary)
        return publish_file(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        _discard(temporary)


def publish_file(finished: Path, path: Path) -> bool:
    """Give a finished file the name `path` unless there is such a file; whether it got it.

    Args:
        finished: on the same file system; it may lose its own name.

    Raises:
        CacheError: when the file system has neither hard links nor locks.
        OSError: when the system refuses otherwise.
    """
    try:
        # A hard link appears with its whole content or not at all, also over NFS.
        os.link(finished, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if not _rename_locked(finished, path):
            return False
    sync(path.parent)
    return True


def _rename_locked(finished: Path, path: Path) -> bool:
    """`publish_file` where a file has one name only: FAT, exFAT, CIFS, many of FUSE.

    The lock is the system's and ends with its process, so a killed writer blocks no one. The file
    that carries it stays: who removes it may meet another who has just opened it.
    """
    with (path.parent / _LOCK).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise CacheError(
                f"{path}: this file system has neither hard links nor locks ({error.strerror}); "
                "choose a place on another one"
            ) from error
        if path.exists():
            return False
        finished.rename(path)
        return True


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with reading(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def stray_files(directory: Path) -> list[Path]:
    """Temporary files and folders that killed writers left behind, or live ones still own."""
    return sorted(path for path in directory.glob(f".*{TEMPORARY}"))
