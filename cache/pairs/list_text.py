"""The text of a list, whatever program wrote it: encodings, ends of lines, separators, comments."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

from faceguide.core.errors import ListError
from faceguide.core.formats.text_encoding import START, encoding_of

SEPARATORS = (",", ";", "\t")
MAXIMUM_BYTES = 1 << 31
_BLANKS = re.compile(r"[ \t]+")  # names may hold what else Unicode counts as a blank
_END = re.compile(r"\r\n|\n|\r")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, UTF-16 or UTF-32, without a byte order mark.

    Bytes that are no UTF-8 are kept: row keys are file names, which need not be.

    Raises:
        ListError: when it cannot be read, or is too large for a list.
    """
    try:
        if path.stat().st_size > MAXIMUM_BYTES:
            raise ListError(f"{path}: more than {MAXIMUM_BYTES >> 30} GiB; not a list?")
        data = path.read_bytes()
    except OSError as error:
        raise ListError(f"{path}: cannot read: {error.strerror}") from None
    encoding, mark = encoding_of(data[:START])
    try:
        return data[mark:].decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        raise ListError(
            f"{path}: not the {encoding.upper()} it begins as; save it as UTF-8"
        ) from None


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
    fields = [cell.strip(" \t") for cell in cells]
    while fields and not fields[-1]:
        fields.pop()
    return fields


def records(path: Path, text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line number, from 1, and cells of each record of a CSV that is not blank.

    Comments are left out before the first record only: later names may begin with `#`.

    Raises:
        ListError: when it is not CSV.
    """
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    begun = False
    try:
        for record in reader:
            cells = [cell.strip(" \t") for cell in record]
            if any(cells) and (begun or not _is_comment(cells[0])):
                begun = True
                yield reader.line_num, cells
    except csv.Error as error:
        raise ListError(f"{path}: line {reader.line_num}: not CSV: {error}") from None
