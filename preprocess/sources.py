"""Where images come from: folders, CSV manifests, RecordIO and verification sets, row by row.

A source lists its rows in a fixed order without holding them, and reads one row at a time.
Listing tolerates what it can and reports it in `problems()`; a row that cannot be read raises
`ReadError`, so that one bad file is one recorded failure.
"""

# Names are handled as bytes here, which pathlib does not know, and resolved before they are opened.
# ruff: noqa: PTH116, PTH117, PTH118, PTH122, PTH123

from __future__ import annotations

import csv
import errno
import functools
import math
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from faceguide.cache import verification_bin
from faceguide.cache.doubts import Doubts
from faceguide.preprocess import recordio
from faceguide.preprocess.source_row import (
    Findings,
    ReadError,
    ReadReason,
    Source,
    SourceError,
    SourceRow,
)

__all__ = ["ReadError", "Source", "SourceError", "SourceRow", "open_source"]

IMAGE_SUFFIXES = frozenset(b".jpg .jpeg .png .bmp .webp .ppm .pgm .tif .tiff .gif".split())
MAXIMUM_BYTES = 1 << 29  # of one image file
_MAXIMUM_LINE = 1 << 20  # bytes of one line of a manifest


def open_source(path: Path, *, flat: bool = False) -> Source:
    """The source at `path`: a folder, or a .csv, .rec or .bin file.

    Args:
        path: a folder's first level names the identities, and images directly in it have none;
            a .csv has a header with `path`, `identity` if known, and any further columns;
            beside a .rec its .idx is used if it is there.
        flat: take a folder's images at any depth, without identities.

    Raises:
        SourceError: when there is nothing of these kinds at `path`.
    """
    if path.is_dir():
        return FolderSource(path, flat)
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder")
    kinds: dict[str, Callable[[Path], Source]] = {
        ".csv": ManifestSource,
        ".rec": RecordSource,
        ".bin": BinSource,
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None or not path.is_file():
        raise SourceError(f"{path}: expected a folder, or a .csv, .rec or .bin file")
    if flat:
        raise SourceError(f"{path}: --flat is for folders; leave it out")
    return kind(path)


class FolderSource:
    """Images in folders, in the order of their name's bytes, hidden ones left out.

    Links are followed while they stay inside the folder, each linked folder once. No more than
    the listings from the root to the folder at hand are held.
    """

    kind = "folder"
    columns: tuple[str, ...] = ()

    def __init__(self, path: Path, flat: bool = False) -> None:
        self.path = path
        self.flat = flat
        self._findings, self.doubts = Findings(), Doubts()

    def rows(self) -> Iterator[SourceRow]:
        self._findings, self.doubts = Findings(), Doubts()
        root = os.fsencode(self.path)
        linked: set[tuple[int, int]] = set()
        # Folders from the root to the one at hand: (prefix of keys, its entries, identity).
        stack = [(b"", self._entries(b""), _inode(root))]
        while stack:
            prefix, entries, _ = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                continue
            name, is_folder, is_link = entry
            key = prefix + name
            if not is_folder:
                text = os.fsdecode(key)
                known = not self.flat and "/" in text
                yield SourceRow(text, text.split("/", 1)[0] if known else "", {})
                continue
            try:
                inode = _inode(os.path.join(root, key))
            except OSError:
                self._findings.add("folders that could not be read", _shown(key))
                continue
            if any(inode == above for _, _, above in stack):
                self._findings.add("links to a folder above them, not followed", _shown(key))
                continue
            if is_link:
                if not _is_inside(os.path.join(root, key), root):
                    self._findings.add(
                        "folder links that leave the source, not followed", _shown(key)
                    )
                    continue
                if inode in linked:
                    self._findings.add("further links to one folder, not followed", _shown(key))
                    continue
                linked.add(inode)
            stack.append((key + b"/", self._entries(key), inode))

    def _entries(self, key: bytes) -> Iterator[tuple[bytes, bool, bool]]:
        """(name, is a folder, is a link) of the folders and images in one folder, sorted."""
        found: list[tuple[bytes, bool, bool]] = []
        try:
            with os.scandir(os.path.join(os.fsencode(self.path), key)) as entries:
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    try:
                        is_link = entry.is_symlink()
                        if entry.is_dir():
                            found.append((entry.name, True, is_link))
                        elif os.path.splitext(entry.name)[1].lower() not in IMAGE_SUFFIXES:
                            self._findings.add("files that are no images", _shown(key, entry))
                        elif is_link or entry.is_file():  # a broken link fails when it is read
                            found.append((entry.name, False, is_link))
                        else:
                            self._findings.add("named as images, but no files", _shown(key, entry))
                    except OSError:
                        self._findings.add("entries that could not be read", _shown(key, entry))
        except OSError:
            self._findings.add("folders that could not be read", _shown(key))
        found.sort()
        return iter(found)

    def read(self, row_key: str, at: int) -> bytes:
        return _read_inside(self.path, row_key)

    def problems(self) -> list[str]:
        return self._findings.lines()


class ManifestSource:
    """A CSV with the columns `path` (relative to the CSV's folder), `identity` and any others."""

    kind = "manifest"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.doubts = Doubts()
        with path.open("rb") as file:
            self._header = self._read_header(csv.reader(_lines(file, path)))
        self.columns = tuple(n for n in self._header if n not in ("path", "identity"))

    def _read_header(self, reader: Iterator[list[str]]) -> list[str]:
        try:
            header = [name.strip() for name in next(reader, [])]
        except csv.Error as error:
            raise SourceError(f"{self.path}, line 1: {error}") from error
        if "path" not in header or len(set(header)) != len(header) or "" in header:
            raise SourceError(
                f"{self.path}: expected a header of distinct columns with path and identity, "
                f"found {', '.join(header)[:200]!r}"
            )
        return header

    def rows(self) -> Iterator[SourceRow]:
        """The rows in the file's order; repeated paths are not looked for.

        Raises:
            SourceError: naming the line that does not fit the header.
        """
        with self.path.open("rb") as file:
            reader = csv.reader(_lines(file, self.path))
            header = self._read_header(reader)
            try:
                for fields in reader:
                    if not fields:
                        continue
                    if len(fields) != len(header):
                        raise SourceError(
                            f"{self.path}, line {reader.line_num}: expected {len(header)} fields "
                            f"({', '.join(header)[:200]}), found {len(fields)}"
                        )
                    meta = dict(zip(header, fields, strict=True))
                    key = meta.pop("path")
                    if not key:
                        raise SourceError(f"{self.path}, line {reader.line_num}: the path is empty")
                    yield SourceRow(key, meta.pop("identity", ""), meta)
            except csv.Error as error:
                raise SourceError(f"{self.path}, line {reader.line_num}: {error}") from error

    def read(self, row_key: str, at: int) -> bytes:
        return _read_inside(self.path.parent, row_key)

    def problems(self) -> list[str]:
        return []


class RecordSource:
    """The images of an insightface .rec file; the identity is the first label."""

    kind = "rec"
    columns: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._findings, self.doubts = Findings(), Doubts()

    def rows(self) -> Iterator[SourceRow]:
        """A damaged record is a row too: reading it fails, and that is recorded.

        Raises:
            RecordError: when the index is no index.
        """
        self._findings, self.doubts = Findings(), Doubts()
        for entry in recordio.entries(self.path):
            if entry.fault:
                self._findings.add("records that cannot be read", entry.fault)
            identity = str(int(entry.label)) if math.isfinite(entry.label) else ""
            yield SourceRow(f"{entry.key:08d}", identity, {}, entry.offset)

    def read(self, row_key: str, at: int) -> bytes:
        try:
            image = recordio.read_record(self.path, at).image
        except recordio.RecordError as error:
            raise ReadError("damaged", f"{self.path.name}: {error}") from error
        except OSError as error:
            raise ReadError("unreadable", f"{self.path.name}: {error.strerror}") from error
        if not image:
            raise ReadError("damaged", f"{self.path.name}: record {row_key} holds no image")
        return image

    def problems(self) -> list[str]:
        return self._findings.lines()


class BinSource:
    """The images of a verification set; it names no identities."""

    kind = "bin"
    columns: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.doubts = Doubts()

    def rows(self) -> Iterator[SourceRow]:
        """Two rows for each pair, in the file's order.

        Raises:
            VerificationBinError: when the file is no verification set.
        """
        for number in range(len(verification_bin.load(self.path).images)):
            yield SourceRow(verification_bin.image_key(number), "", {}, number)

    def read(self, row_key: str, at: int) -> bytes | NDArray[np.uint8]:
        try:
            images = verification_bin.load(self.path).images
        except verification_bin.VerificationBinError as error:
            raise ReadError("damaged", str(error)) from error
        except OSError as error:
            raise ReadError("unreadable", f"{self.path.name}: {error.strerror}") from error
        if not 0 <= at < len(images):
            raise ReadError("missing", f"{self.path.name}: image {row_key} of {len(images)}")
        return images[at]

    def problems(self) -> list[str]:
        return []


def _shown(key: bytes, entry: os.DirEntry[bytes] | None = None) -> str:
    """A name as it may appear in a message: control characters escaped."""
    return repr(os.fsdecode(os.path.join(key, entry.name) if entry else key))


def _inode(path: bytes) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _is_inside(path: bytes, root: bytes) -> bool:
    real_root = os.path.realpath(root)
    return os.path.commonpath([os.path.realpath(path), real_root]) == real_root


@functools.lru_cache(maxsize=1024)
def _real(folder: str | Path) -> str:
    """Asked once per folder: it costs a call to the system for each of the path's parts."""
    return os.path.realpath(folder)


def _read_inside(root: Path, key: str) -> bytes:
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
        raise ReadError("outside", f"{place}: leaves the source's folder; copy the file into it")
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
        reason: ReadReason = (
            "missing" if error.errno in (errno.ENOENT, errno.ENOTDIR) else "unreadable"
        )
        raise ReadError(reason, f"{place}: {error.strerror}") from error


def _lines(file: BinaryIO, path: Path) -> Iterator[str]:
    """Lines of bounded length, so that a file without newlines cannot fill the memory."""
    first = True
    while line := file.readline(_MAXIMUM_LINE):
        if len(line) == _MAXIMUM_LINE and not line.endswith(b"\n"):
            raise SourceError(f"{path}: a line is longer than {_MAXIMUM_LINE} bytes; is it a CSV?")
        yield os.fsdecode(line.removeprefix(b"\xef\xbb\xbf") if first else line)
        first = False
