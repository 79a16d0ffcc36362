"""A folder behind an address (S3, HTTP, whatever fsspec opens); what fails is tried again."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from faceguide.core.commands.console import say
from faceguide.core.errors import CacheError

# Seconds between the attempts: together as long as a store takes to restart.
WAITS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_RANGE = 8 << 20  # bytes asked for at a time: what a failure costs
_PATIENCE = 60.0  # seconds that one range may take
_REFUSED = range(400, 500)  # of HTTP: asking again gives the same answer …
_BUSY = (408, 425, 429)  # … but for these

_T = TypeVar("_T")


def is_address(text: str | os.PathLike[str]) -> bool:
    """Whether a text names a store, as `s3://bucket/cache` does, and no path."""
    return re.match(r"[a-z][a-z0-9+.-]*://", os.fspath(text)) is not None


class WrongAnswer(Exception):
    """A store gave other bytes than were asked for."""


class Store:
    """Files behind an address. Keys and endpoints come from where fsspec looks for them.

    Args:
        address: such as `s3://bucket/cache` or `https://host/cache`.

    Raises:
        CacheError: when no installed package opens such an address, or it carries a password.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        if re.search(r"://[^/]*@", address):
            raise CacheError(
                "an address with a password would be written down; keep the password in the "
                "settings of fsspec or of the store"
            )
        self._opened: tuple[int, Any, str] | None = None
        self._system()

    def _system(self) -> tuple[Any, str]:
        """The file system and the path in it; neither is carried over into another process."""
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec

            try:
                system, root = fsspec.core.url_to_fs(self.address, skip_instance_cache=True)
            except (ImportError, ValueError) as error:
                raise CacheError(
                    f"{self.address}: no reader of such addresses ({error}); "
                    "pip install 'faceguide[remote]'"
                ) from None
            self._opened = os.getpid(), system, root.rstrip("/")
        return self._opened[1:]

    def where(self, name: str) -> str:
        """The address of a file."""
        return f"{self.address}/{name}"

    def read(self, name: str) -> bytes | None:
        """All bytes of a small file; None when there is none.

        Raises:
            CacheError: when the store fails or refuses for good.
        """
        return self._tried(name, lambda: self._bytes(name, None, None), absent=None)

    def size(self, name: str) -> int | None:
        """Bytes of a file; None when there is none."""
        system, root = self._system()

        def ask() -> int | None:
            system.invalidate_cache()
            found = system.info(f"{root}/{name}")["size"]
            return None if found is None else int(found)

        return self._tried(name, ask, absent=None)

    def download(self, name: str, size: int, file: BinaryIO) -> None:
        """Append what a file lacks of `size` bytes.

        Raises:
            CacheError: when the store fails for good, has no such file or one of another size.
        """
        while (start := file.tell()) < size:
            end = min(start + _RANGE, size)
            data = self._tried(name, lambda s=start, e=end: self._range(name, s, e, size))  # type: ignore[misc]
            file.write(data)

    def _range(self, name: str, start: int, end: int, size: int) -> bytes:
        data = self._bytes(name, start, end)
        if len(data) == size:  # from a server that knows no ranges
            return data[start:]
        if len(data) != end - start:
            raise WrongAnswer(f"{len(data)} bytes in place of {end - start}")
        return data

    def _bytes(self, name: str, start: int | None, end: int | None) -> bytes:
        from fsspec.asyn import AsyncFileSystem, sync

        system, root = self._system()
        path = f"{root}/{name}"
        if isinstance(system, AsyncFileSystem):
            found = sync(
                system.loop, system._cat_file, path, start=start, end=end, timeout=_PATIENCE
            )
        else:
            found = system.cat_file(path, start=start, end=end)
        return bytes(found)

    def upload(self, path: Path, name: str) -> None:
        """Write a local file to the store.

        Raises:
            CacheError: when the store fails or refuses for good.
        """
        system, root = self._system()
        target = f"{root}/{name}"

        def put() -> None:
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(os.fspath(path), target)
            system.invalidate_cache()
            if (there := system.info(target)["size"]) != path.stat().st_size:
                raise WrongAnswer(f"{there} bytes arrived of {path.stat().st_size}")

        self._tried(name, put)

    def _tried(self, name: str, call: Callable[[], _T], **absent: _T) -> _T:
        """What `call` gives, tried again while it may help."""
        for wait in (*WAITS, None):
            try:
                return call()
            except FileNotFoundError:
                if absent:
                    return absent["absent"]
                raise CacheError(
                    f"{self.where(name)}: not there; restore it in the store"
                ) from None
            except Exception as error:  # each store has errors of its own
                status = getattr(error, "status", None)
                final = isinstance(error, (PermissionError, NotImplementedError)) or (
                    status in _REFUSED and status not in _BUSY
                )
                reason = str(error).replace("\n", " ") or type(error).__name__
                if wait is None or final:
                    raise CacheError(
                        f"{self.where(name)}: the store "
                        f"{'refuses' if final else 'keeps failing'} ({reason:.200}); check the "
                        "address, the keys and the network, then rerun the same command"
                    ) from None
                say(f"{self.where(name)}: {reason:.200}; next try in {wait:g} s")
                time.sleep(wait)
        raise AssertionError("unreachable")
