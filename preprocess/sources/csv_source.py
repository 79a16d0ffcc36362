"""A CSV as a source: its header, separator and encoding as they come from other programs."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from faceguide.cache.pairs.list_text import Table, find_table, text_lines
from faceguide.preprocess.sources.source_files import read_inside
from faceguide.preprocess.sources.source_row import ReadError, Source, SourceError, SourceRow

_INDEX_NAMES = ("", "Unnamed: 0")  # of the first column where pandas wrote its row numbers
# Taken for the identity where no column is called so, the first that is there.
_IDENTITY_NAMES = (
    "label", "person", "subject", "class", "person_id", "subject_id", "identity_id", "class_id",
    "pid", "name", "id",
)  # fmt: skip


class ManifestSource(Source):
    """A CSV with the columns `path` (relative to `root`), `identity` and any others.

    Commas, semicolons, tabs or bars part the columns; text may be UTF-8 (or of any other code
    that holds ASCII: a name's bytes are kept), UTF-16 or UTF-32. A first column of row numbers
    without a name is left out.
    """

    kind = "manifest"

    def __init__(self, path: Path, root: Path | None = None) -> None:
        super().__init__(path)
        self.root = root or path.parent
        self.columns = _Columns(path, _table(path).names).meta

    def rows(self) -> Iterator[SourceRow]:
        """The rows in the file's order; repeated paths are not looked for.

        Raises:
            SourceError: naming the line that does not fit the header.
            ListError: when the file is no text, or a line no CSV.
        """
        self._begin()
        table = _table(self.path)
        names, columns = table.names, _Columns(self.path, table.names)
        if columns.guessed:
            self.doubts.add("guessed_identity_column", repr(columns.guessed))
        elif columns.identity_at is None and columns.meta:
            self.doubts.add("no_identity_column", repr(", ".join(columns.meta)[:80]))
        for line, fields in table.records:
            if len(fields) != len(names):
                raise SourceError(
                    f"{self.path}, line {line}: expected {len(names)} fields "
                    f"({', '.join(names)[:200]}), found {len(fields)}"
                )
            key = self._key(fields[columns.path_at])
            if not key:
                raise SourceError(f"{self.path}, line {line}: the path is empty")
            identity = ""
            if columns.identity_at is not None:
                identity = fields[columns.identity_at].strip()
                if not identity:
                    self.doubts.add("no_identity", f"line {line}")
            yield SourceRow(key, identity, {names[i]: fields[i] for i in columns.meta_at})

    def _key(self, written: str) -> str:
        """The path as it is meant: Windows' separators and stray blanks, unless a file is so."""
        key = written.strip().replace("\\", "/")
        if key != written and os.path.lexists(self.root / written):
            return written
        return key.removeprefix("./")

    def read(self, row_key: str, at: int) -> bytes:
        try:
            return read_inside(self.root, row_key)
        except ReadError as error:
            # The list may come from a Mac and the files not, or the other way round.
            if error.reason == "missing" and not row_key.isascii():
                composed = unicodedata.normalize("NFC", row_key)
                for other in (composed, unicodedata.normalize("NFD", row_key)):
                    with contextlib.suppress(ReadError):
                        return read_inside(self.root, other)
            raise


def _table(path: Path) -> Table:
    found = find_table(path, lambda names: "path" in map(str.lower, names), raw=True)
    return found or Table([next(text_lines(path), "").strip()], iter(()))


class _Columns:
    """What the columns of a header are.

    Attributes:
        path_at, identity_at, meta_at: where they stand.
        guessed: the column taken for the identity although it is not called so, else "".
    """

    def __init__(self, path: Path, names: list[str]) -> None:
        start = 1 if len(names) > 1 and names[0] in _INDEX_NAMES else 0
        used, lower = names[start:], [name.lower() for name in names]
        if (
            lower[start:].count("path") != 1
            or lower[start:].count("identity") > 1
            or len(set(used)) != len(used)
            or "" in used
        ):
            raise SourceError(
                f"{path}: expected a header of distinct columns with path and identity, "
                f"found {', '.join(names)[:200]!r}"
            )
        self.path_at = lower.index("path", start)
        found = next((name for name in ("identity", *_IDENTITY_NAMES) if name in lower), None)
        self.identity_at = lower.index(found) if found else None
        self.guessed = found if found and found != "identity" else ""
        # A guessed column stays what it was besides: one of the further ones.
        taken = {self.path_at, *([self.identity_at] if found == "identity" else [])}
        self.meta_at = [at for at in range(start, len(lower)) if at not in taken]
        self.meta = tuple(names[at] for at in self.meta_at)
