"""A CSV as a source: its header, delimiter and encoding as they come from other programs."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from faceguide.core.commands.doubts import Doubts
from faceguide.core.formats.text_encoding import START, encoding_of
from faceguide.preprocess.sources.source_files import read_inside
from faceguide.preprocess.sources.source_row import ReadError, SourceError, SourceRow

_MAXIMUM_LINE = 1 << 20  # characters of one line
_DELIMITERS = ",;\t|"
_INDEX_NAMES = ("", "Unnamed: 0")  # of the first column where pandas wrote its row numbers
# Taken for the identity where no column is called so, the first that is there.
_IDENTITY_NAMES = (
    "label", "person", "subject", "class", "person_id", "subject_id", "identity_id", "class_id",
    "pid", "name", "id",
)  # fmt: skip


class ManifestSource:
    """A CSV with the columns `path` (relative to the CSV's folder), `identity` and any others.

    Commas, semicolons, tabs or bars part the columns; text may be UTF-8 (or of any other code
    that holds ASCII: a name's bytes are kept), UTF-16 or UTF-32. A first column of row numbers
    without a name is left out.
    """

    kind = "manifest"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.doubts = Doubts()
        with path.open("rb") as file:
            self.columns = _Header(path, _lines(file, path)).meta

    def rows(self) -> Iterator[SourceRow]:
        """The rows in the file's order; repeated paths are not looked for.

        Raises:
            SourceError: naming the line that does not fit the header.
        """
        self.doubts = Doubts()
        with self.path.open("rb") as file:
            header = _Header(self.path, _lines(file, self.path))
            names, reader = header.names, header.reader
            if header.guessed:
                self.doubts.add("guessed_identity_column", repr(header.guessed))
            elif header.identity_at is None and header.meta:
                self.doubts.add("no_identity_column", repr(", ".join(header.meta)[:80]))
            try:
                for fields in reader:
                    if not fields:
                        continue
                    if len(fields) != len(names):
                        raise SourceError(
                            f"{self.path}, line {reader.line_num}: expected {len(names)} fields "
                            f"({', '.join(names)[:200]}), found {len(fields)}"
                        )
                    key = self._key(fields[header.path_at])
                    if not key:
                        raise SourceError(f"{self.path}, line {reader.line_num}: the path is empty")
                    identity = ""
                    if header.identity_at is not None:
                        identity = fields[header.identity_at].strip()
                        if not identity:
                            self.doubts.add("no_identity", f"line {reader.line_num}")
                    yield SourceRow(key, identity, {names[i]: fields[i] for i in header.meta_at})
            except csv.Error as error:
                raise SourceError(f"{self.path}, line {reader.line_num}: {error}") from error

    def _key(self, written: str) -> str:
        """The path as it is meant: Windows' separators and stray blanks, unless a file is so."""
        key = written.strip().replace("\\", "/")
        if key != written and os.path.lexists(self.path.parent / written):
            return written
        return key.removeprefix("./")

    def read(self, row_key: str, at: int) -> bytes:
        try:
            return read_inside(self.path.parent, row_key)
        except ReadError as error:
            # The list may come from a Mac and the files not, or the other way round.
            if error.reason == "missing" and not row_key.isascii():
                composed = unicodedata.normalize("NFC", row_key)
                for other in (composed, unicodedata.normalize("NFD", row_key)):
                    with contextlib.suppress(ReadError):
                        return read_inside(self.path.parent, other)
            raise

    def problems(self) -> list[str]:
        return []


class _Header:
    """The first line, understood.

    Attributes:
        reader: gives the fields of the lines below.
        names: of the columns.
        path_at, identity_at, meta_at: where the columns stand.
        meta: names of the further columns.
        guessed: the column taken for the identity although it is not called so, else "".
    """

    def __init__(self, path: Path, lines: Iterator[str]) -> None:
        first = next(lines, "")
        delimiter = next((d for d in _DELIMITERS if "path" in _lower(first, d)), ",")
        try:
            written = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error as error:
            raise SourceError(f"{path}, line 1: {error}") from error
        # "path, identity": a quoted value behind such a blank would not be taken for quoted.
        spaced = any(name.startswith(" ") for name in written)
        self.reader = csv.reader(
            itertools.chain([first], lines), delimiter=delimiter, skipinitialspace=spaced
        )
        try:
            next(self.reader, None)
        except csv.Error as error:
            raise SourceError(f"{path}, line 1: {error}") from error
        self.names = [name.strip() for name in written]
        start = 1 if len(self.names) > 1 and self.names[0] in _INDEX_NAMES else 0
        used, lower = self.names[start:], [name.lower() for name in self.names]
        if (
            lower[start:].count("path") != 1
            or lower[start:].count("identity") > 1
            or len(set(used)) != len(used)
            or "" in used
        ):
            raise SourceError(
                f"{path}: expected a header of distinct columns with path and identity, "
                f"found {', '.join(self.names)[:200]!r}"
            )
        self.path_at = lower.index("path", start)
        found = next((name for name in ("identity", *_IDENTITY_NAMES) if name in lower), None)
        self.identity_at = lower.index(found) if found else None
        self.guessed = found if found and found != "identity" else ""
        # A guessed column stays what it was besides: one of the further ones.
        taken = {self.path_at, *([self.identity_at] if found == "identity" else [])}
        self.meta_at = [at for at in range(start, len(lower)) if at not in taken]
        self.meta = tuple(self.names[at] for at in self.meta_at)


def _lower(line: str, delimiter: str) -> list[str]:
    try:
        fields = next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []
    return [name.strip().lower() for name in fields]


def _lines(file: BinaryIO, path: Path) -> Iterator[str]:
    """Lines of bounded length, so that a file without newlines cannot fill the memory."""
    encoding, mark = encoding_of(file.read(START))
    file.seek(mark)
    # Bytes that are no UTF-8 are kept: paths are file names, which need not be.
    errors = "surrogateescape" if encoding == "utf-8" else "strict"
    text = io.TextIOWrapper(file, encoding, errors, newline="")
    try:
        while line := text.readline(_MAXIMUM_LINE):
            if len(line) == _MAXIMUM_LINE and not line.endswith("\n"):
                raise SourceError(
                    f"{path}: a line is longer than {_MAXIMUM_LINE} characters; is it a CSV?"
                )
            yield line
    except UnicodeError as error:
        raise SourceError(f"{path}: begins as {encoding}, but {error}; save it as UTF-8") from None
