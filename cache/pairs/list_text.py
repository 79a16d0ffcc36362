"""The text of a list, whatever program wrote it: encodings, ends of lines, separators, comments."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from faceguide.core.errors import ListError

SEPARATORS = (",", ";", "\t", "|")
MAXIMUM_BYTES = 1 << 31  # of a list that is held
_MAXIMUM_LINE = 1 << 20  # characters
_BLANKS = re.compile(r"[ \t]+")  # names may hold what else Unicode counts as a blank
_END = re.compile(r"\r\n|\n|\r")
_START = 4096  # bytes that tell the encoding
# UTF-32's mark begins as UTF-16's does: the longer one is asked first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def _encoding(start: bytes) -> tuple[str, int]:
    """The encoding of a text that begins so, and the length of its byte order mark.

    UTF-16 without a mark is known by its zero bytes, which no list in UTF-8 holds: those of a first
    letter of ASCII, or the high bytes of many. Everything else counts as UTF-8.
    """
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            return encoding, len(mark)
    for encoding, first, high in (
        ("utf-16-le", start[1:2], start[1::2]),
        ("utf-16-be", start[:1], start[::2]),
    ):
        if first == b"\0" or (high and 0.4 * len(high) < high.count(0) == start.count(0)):
            return encoding, 0
    return "utf-8", 0


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a file in UTF-8, UTF-16 or UTF-32, with their ends, without the byte order mark.

    Bytes that are no UTF-8 are kept: row keys are file names, which need not be. Lines are of
    bounded length, so that a file without line breaks cannot fill the memory.

    Raises:
        ListError: when the file cannot be read or is no text.
    """
    try:
        with path.open("rb") as file:
            encoding, mark = _encoding(file.read(_START))
            file.seek(mark)
            errors = "surrogateescape" if encoding == "utf-8" else "strict"
            text = io.TextIOWrapper(file, encoding, errors, newline="")
            while line := text.readline(_MAXIMUM_LINE):
                if len(line) == _MAXIMUM_LINE and line[-1] not in "\r\n":
                    raise ListError(
                        f"{path}: a line is longer than {_MAXIMUM_LINE} characters; is it a list?"
                    )
                yield line
    except OSError as error:
        raise ListError(f"{path}: cannot read: {error.strerror}") from None
    except UnicodeError as error:
        raise ListError(f"{path}: begins as {encoding}, but {error}; save it as UTF-8") from None


def read_text(path: Path) -> str:
    """All that `text_lines` gives.

    Raises:
        ListError: as `text_lines`, and when the file is too large for a list.
    """
    if path.is_file() and path.stat().st_size > MAXIMUM_BYTES:
        raise ListError(f"{path}: more than {MAXIMUM_BYTES >> 30} GiB; not a list?")
    return "".join(text_lines(path))


def lines(text: str) -> list[tuple[int, str]]:
    """Line number, from 1, and text of each line that is neither blank nor a comment.

    A comment begins with `#` and a blank, or with `#` where it names no file and no number.
    """
    return [
        (number, line)
        for number, line in enumerate(_END.split(text), 1)
        if line.strip(" \t") and not _is_comment(line)
    ]


def _is_comment(text: str) -> bool:
    if text.startswith(("# ", "#\t")):
        return True
    return text.startswith("#") and "." not in text and not text.rstrip()[-1:].isdigit()


def fields_of(line: str, separator: str | None = None) -> list[str]:
    """Fields of a line, without blanks around them and without empty ones at its end.

    Args:
        line: no field of it holds a line break.
        separator: None = tabs where there are any, else blanks.

    Raises:
        csv.Error: when it is not CSV.
    """
    if separator is None and line.isascii() and line.isprintable():
        return line.split()  # as below, in a third of the time
    if separator is not None:
        cells = next(csv.reader([line], delimiter=separator), [])
    elif "\t" in line:
        cells = line.split("\t")
    else:
        cells = _BLANKS.split(line.strip(" "))
    return without_end([cell.strip(" \t") for cell in cells])


def without_end(cells: list[str]) -> list[str]:
    """Cells without empty ones at the end, which some programs add to each line."""
    while cells and not cells[-1]:
        cells.pop()
    return cells


def records(
    path: Path, text: str | Iterable[str], separator: str, *, raw: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Line number, from 1, and cells of each record of a CSV that is not blank.

    Comments are left out before the first record only: later names may begin with `#`.

    Args:
        text: whole, or its lines with their ends.
        raw: keep the blanks around cells.

    Raises:
        ListError: when it is not CSV.
    """
    source = io.StringIO(text, newline="") if isinstance(text, str) else text
    # A quoted value behind a blank would not be taken for quoted otherwise.
    reader = csv.reader(source, delimiter=separator, skipinitialspace=not raw)
    begun = False
    try:
        for record in reader:
            cells = [cell.strip(" \t") for cell in record]
            if any(cells) and (begun or not _is_comment(cells[0])):
                begun = True
                yield reader.line_num, record if raw else cells
    except csv.Error as error:
        raise ListError(f"{path}: line {reader.line_num}: {error}") from None


@dataclass(frozen=True)
class Table:
    """A CSV under a header.

    Attributes:
        records: line number and cells of each record below, as `records` gives them.
    """

    names: list[str]
    records: Iterator[tuple[int, list[str]]]


def find_table(
    path: Path, is_header: Callable[[list[str]], bool], *, raw: bool = False
) -> Table | None:
    """A CSV whose first record passes `is_header` under one of `SEPARATORS`; None for another.

    Args:
        raw: keep the blanks around cells, unless the header has them behind its separators.

    Raises:
        ListError: as `records` and `text_lines`.
    """
    for separator in SEPARATORS:
        _, written = next(records(path, text_lines(path), separator, raw=True), (0, []))
        names = [name.strip(" \t") for name in written]
        if is_header(names):
            spaced = any(name.startswith(" ") for name in written)
            found = records(path, text_lines(path), separator, raw=raw and not spaced)
            next(found)
            return Table(names, found)
    return None
