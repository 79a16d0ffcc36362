"""The shards of a remote cache that lie in a local folder: fetched when needed, bounded, shared.

Every shard is written under a unique temporary name, compared with the manifest's sha256 and
linked to its own name, so that processes of a node may share the folder without a lock. A lock on
the temporary file only spares work: who finds another process fetching a shard waits for it, and
who finds that process dead takes over what it fetched. Only the order in which shards leave
depends on the clock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from faceguide.cache.remote.store import Store
from faceguide.core.errors import CacheError
from faceguide.core.files import TEMPORARY, file_sha256, publish_file, sync, write_error

_THREADS = 4  # shards fetched at the same time
_STALLED = 60.0  # seconds without a byte after which another process is no longer waited for
_POLL = 0.05
_ATTEMPTS = 20  # while other processes remove what this one fetches


@dataclass(frozen=True)
class RemoteFile:
    """A file of the store, as a manifest describes it."""

    name: str
    bytes: int
    sha256: str


class KeptShards:
    """Which shards of a remote cache lie in its local folder; one per opened cache.

    Args:
        directory: the folder.
        limit: bytes that its shards may take; those in use at the moment may exceed it.
    """

    def __init__(self, directory: Path, store: Store, limit: int | None) -> None:
        self._directory, self._store, self.limit = directory, store, limit
        self._expected = 0
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._users: Counter[str] = Counter()
        self._here: set[str] = set()  # present when this process last looked
        self._settled = self._stays = False
        self._coming: dict[str, int] = {}  # bytes of what is fetched ahead
        self._leaving: list[Callable[[str], object]] = []

    def watch(self, leaving: Callable[[str], object]) -> None:
        """Have this called with a shard's name before its file goes, while nothing reads it."""
        self._own()
        self._leaving.append(leaving)

    def _own(self) -> None:
        if self._process != os.getpid():  # locks and threads are not carried over a fork
            self._forget()

    def expect(self, count: int) -> None:
        """Say how many more shards there are."""
        self._expected += count

    def settled(self) -> bool:
        """Whether all shards are here and, without a limit, stay: then none need be held."""
        self._own()
        if not self._settled and self.limit is None and len(self._here) == self._expected:
            self._settled = self._stays = True
        return self._settled

    @contextmanager
    def hold(self, files: Iterable[RemoteFile]) -> Iterator[None]:
        """Fetch the files that are not here; none of them leaves before the end.

        Raises:
            CacheError: when one cannot be had.
        """
        self._own()
        wanted = {file.name: file for file in files}
        with self._lock:
            self._users.update(wanted.keys())
            lacking = [file for name, file in wanted.items() if name not in self._here]
        try:
            if lacking:
                self._fetch_all(lacking)
            yield
        finally:
            with self._lock:
                self._users.subtract(wanted.keys())

    def _fetch_all(self, files: list[RemoteFile]) -> None:
        """Fetch several at a time, in threads that the end of the process does not wait for."""
        waiting, errors = deque(files), list[BaseException]()

        def work() -> None:
            while waiting and not errors:
                try:
                    self.fetch(waiting.popleft())
                except IndexError:  # another thread took the last
                    return
                except BaseException as error:
                    errors.append(error)

        threads = [_started(work) for _ in range(min(_THREADS, len(files)))]
        try:
            for thread in threads:
                thread.join()
        finally:
            waiting.clear()  # after an interrupt, begin no other
        if errors:
            raise errors[0]

    def ahead(self, files: Iterable[RemoteFile]) -> None:
        """Begin to fetch the first of these that are not here, up to half of the limit.

        Errors are raised when the files are read.
        """
        self._own()
        with self._lock:
            for file in files:
                if file.name in self._here or file.name in self._coming:
                    continue
                coming = sum(self._coming.values()) + file.bytes
                if len(self._coming) >= _THREADS or (self.limit and coming > self.limit // 2):
                    break
                self._coming[file.name] = file.bytes
                _started(functools.partial(self._fetch_ahead, file))

    def _fetch_ahead(self, file: RemoteFile) -> None:
        try:
            with contextlib.suppress(CacheError, OSError):
                self.fetch(file)
        finally:
            self._coming.pop(file.name, None)

    def fetch(self, file: RemoteFile) -> None:
        """Have the file in the folder, fetched by this process or by another.

        Raises:
            CacheError: when the store fails or has another file, or the folder is full.
        """
        path = self._directory / file.name
        for last in (*(False,) * _ATTEMPTS, True):
            try:
                while not path.exists():
                    claimed = self._claim(path)
                    if claimed is not None:
                        with claimed[1]:
                            self._fill(file, *claimed)
                os.utime(path)
                break
            except OSError as error:
                # Without the file, another process needed the space in this very moment.
                if last or not isinstance(error, FileNotFoundError):
                    raise write_error(path, error) from error
        self._here.add(file.name)

    def _claim(self, path: Path) -> tuple[Path, BinaryIO] | None:
        """A temporary file to fill: a new one, or that of a dead process; None after a wait."""
        for temporary in self._directory.glob(f".{path.name}.*{TEMPORARY}"):
            with contextlib.suppress(FileNotFoundError):
                file = temporary.open("r+b")
                if _locked(file) and temporary.exists():
                    return temporary, file
                file.close()
                if _waited(temporary, path):
                    return None
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
        file = temporary.open("x+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # taken for that of a dead process, and taken over
            file.close()
            return None
        except OSError:  # no locks here: every process fetches for itself
            pass
        return temporary, file

    def _fill(self, wanted: RemoteFile, temporary: Path, file: BinaryIO) -> None:
        """Download what is lacking, compare, publish."""
        if file.seek(0, os.SEEK_END) > wanted.bytes:
            file.truncate(0)
        for last in (False, True):
            try:
                self._make_room(wanted)
                self._store.download(wanted.name, wanted.bytes, file)
                file.flush()
                sync(temporary)
            except OSError as error:
                if last or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    temporary.unlink(missing_ok=True)
                    raise
                self._make_room(wanted, all_of_it=True)
                file.seek(0, os.SEEK_END)
                continue
            if file_sha256(temporary) == wanted.sha256:
                publish_file(temporary, self._directory / wanted.name)
                temporary.unlink(missing_ok=True)
                return
            file.seek(0)
            file.truncate(0)
        temporary.unlink(missing_ok=True)
        raise CacheError(
            f"{self._store.where(wanted.name)}: not the file that the manifest describes (sha256); "
            "restore it in the store, then rerun the same command"
        )

    def _make_room(self, wanted: RemoteFile, *, all_of_it: bool = False) -> None:
        """Remove the shards whose use is longest ago until the file fits, or all that may go.

        Raises:
            CacheError: when the limit is less than the file.
        """
        if self.limit is None and not all_of_it:
            return
        limit = self.limit or 0
        if not all_of_it and wanted.bytes > limit:
            raise CacheError(
                f"{self._directory}: its limit of {limit:,} bytes is less than {wanted.name} "
                f"({wanted.bytes:,}); give a larger limit"
            )
        with self._lock:
            found = {}
            for path in self._directory.iterdir():
                if path.name.endswith(TEMPORARY) or path.suffix == ".h5":
                    with contextlib.suppress(FileNotFoundError):
                        found[path] = path.stat()
            here = {path.name for path in found}
            for name in self._here - here:  # removed by another process
                self._let_go(name)
            total = wanted.bytes + sum(
                0 if path.name.startswith(f".{wanted.name}") else about.st_size
                for path, about in found.items()
            )
            for path in sorted(found, key=lambda path: found[path].st_mtime_ns):
                if total <= limit and not all_of_it:
                    break
                gone = _remove_dead(path) if path.suffix != ".h5" else self._let_go(path.name)
                if gone:
                    path.unlink(missing_ok=True)
                    total -= found[path].st_size

    def _let_go(self, name: str) -> bool:
        """Whether nothing of this process reads the shard; from now on nothing maps it."""
        if self._users[name] > 0 or self._stays:
            return False
        for leaving in self._leaving:
            leaving(name)
        self._here.discard(name)
        return True

    def drop(self, name: str) -> None:
        """Remove a file that is not what was fetched."""
        with self._lock:
            self._here.discard(name)
            self._settled = False
        (self._directory / name).unlink(missing_ok=True)


def _started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, name="faceguide-fetch", daemon=True)
    thread.start()
    return thread


def _locked(file: BinaryIO) -> bool:
    """Whether the file is ours now; where a file system has no locks, nothing is taken over."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _waited(temporary: Path, path: Path) -> bool:
    """Wait while another process fills the file; False when it gets no further."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < _STALLED:
        time.sleep(_POLL)
        if path.exists() or not temporary.exists():
            return True
        with contextlib.suppress(FileNotFoundError), temporary.open("rb") as file:
            if _locked(file):  # its process is dead
                return True
            if (now := file.seek(0, os.SEEK_END)) != size:
                size, since = now, time.monotonic()
    return False


def _remove_dead(temporary: Path) -> bool:
    """Whether no living process fills the temporary file."""
    try:
        with temporary.open("rb") as file:
            return _locked(file)
    except FileNotFoundError:
        return False
