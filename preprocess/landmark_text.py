"""Landmarks as text: one face a line, `path x1,y1 x2,y2 … x478,y478` in source pixels.

The path is everything before the last 478 tokens, so it may hold spaces. A table may come as CSV
instead: a header whose first column is `image_path`, then 956 columns x1, y1, x2, y2 … or 478
columns of `x,y`. Pixels have x right, y down, and (0, 0) at the centre of the top left one.

A table of any length is read through an index from path to byte offset, kept in SQLite, so no
process holds it.
"""

from __future__ import annotations

import csv
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.errors import FaceguideError

POINTS = 478
MAXIMUM_LINE = 1 << 20  # bytes; a line of 478 points has about 10,000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LandmarkTextError(FaceguideError):
    """A landmark table or a line of one that is not in the format."""


def parse_line(line: str) -> tuple[str, NDArray[np.float32]]:
    """Read one line of the text format.

    Returns:
        The path and (478, 3) float32: x and y in source pixels, z NaN.

    Raises:
        LandmarkTextError: when the last 478 tokens are not finite `x,y`, or no path is before
            them.
    """
    line = line.rstrip("\r\n")
    # One blank between tokens, as `cache export` writes it, keeps every blank of the path.
    tokens = line.rsplit(" ", POINTS)
    if len(tokens) <= POINTS or "" in tokens[1:]:
        tokens = line.rsplit(None, POINTS)
    if len(tokens) <= POINTS or not tokens[0]:
        raise LandmarkTextError(
            f"expected a path and {POINTS} points x,y; found {len(tokens)} tokens"
        )
    return tokens[0], _points(_split(tokens[1:]))


def index_file(path: Path, database: Path) -> int:
    """Check every line of a text or CSV table and write the index of its paths.

    The index replaces `database` only when it is whole.

    Returns:
        The number of faces.

    Raises:
        LandmarkTextError: naming the line that is not in the format, or the two lines that have
            one path.
        OSError: when the table cannot be read.
    """
    unfinished = database.with_name(f".{database.name}.{uuid.uuid4().hex}")
    try:
        with closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
            # Nothing to roll back: an unfinished index is thrown away.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("CREATE TABLE face (path BLOB, offset INTEGER, line INTEGER)")
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO face VALUES (?, ?, ?)", _faces(path))
            # Sorted once at the end, on disk, in place of a tree that is filled in random order.
            connection.execute("CREATE INDEX face_path ON face (path)")
            connection.execute("COMMIT")
            twice = connection.execute(
                "SELECT path, min(line), max(line) FROM face GROUP BY path HAVING count(*) > 1"
            ).fetchone()
            if twice:
                raise LandmarkTextError(
                    f"{path}, lines {twice[1]} and {twice[2]}: both are for "
                    f"{os.fsdecode(twice[0])!r}; remove one"
                )
            (count,) = connection.execute("SELECT count(*) FROM face").fetchone()
        unfinished.replace(database)
    except sqlite3.Error as error:
        raise LandmarkTextError(f"{database}: the index could not be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return int(count)


def lookup(database: Path, key: str) -> int | None:
    """The byte offset of the face whose path is `key`, None if the table lacks it.

    Raises:
        LandmarkTextError: when `database` is no index.
    """
    try:
        address = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            found = connection.execute(
                "SELECT offset FROM face WHERE path = ?", (os.fsencode(key),)
            ).fetchone()
        return None if found is None else int(found[0])
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise LandmarkTextError(
            f"{database}: expected a landmark index: {error}; remove it to index again"
        ) from error


def read_at(path: Path, offset: int) -> NDArray[np.float32]:
    """The (478, 3) float32 source pixels, z NaN, of the line that begins at byte `offset`.

    Raises:
        LandmarkTextError: when no such line is there; the table changed since it was indexed.
        OSError: when the table cannot be read.
    """
    with path.open("rb") as file:
        lines = _Lines(file, max(offset, 0))
        try:
            if _is_csv(path):
                return _csv_face(next(csv.reader(lines)))[1]
            return parse_line(next(lines))[1]
        except StopIteration:
            raise LandmarkTextError(f"{path}: no line at byte {offset}; index it again") from None
        except (LandmarkTextError, csv.Error) as error:
            raise LandmarkTextError(f"{path}, byte {offset}: {error}; index it again") from error


class _Lines(Iterator[str]):
    """The lines of a file, with the byte where the next one begins and how many were read."""

    def __init__(self, file: BinaryIO, position: int = 0) -> None:
        self._file = file
        file.seek(position)
        self.position = position
        self.number = 0

    def __next__(self) -> str:
        line = self._file.readline(MAXIMUM_LINE)
        if not line:
            raise StopIteration
        if len(line) == MAXIMUM_LINE and not line.endswith(b"\n"):
            raise LandmarkTextError(f"a line is longer than {MAXIMUM_LINE} bytes")
        if self.position == 0:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        self.position = self._file.tell()
        self.number += 1
        return os.fsdecode(line)


def _faces(path: Path) -> Iterator[tuple[bytes, int, int]]:
    """(path, byte offset, line number) of every face of the table."""
    with path.open("rb") as file:
        lines = _Lines(file)
        number = 1
        try:
            if _is_csv(path):
                rows = csv.reader(lines)
                _check_header(next(rows, []))
                begin, number = lines.position, lines.number + 1
                for row in rows:
                    if row:
                        yield os.fsencode(_csv_face(row)[0]), begin, number
                    # A quoted path may span lines, so both count to where the reader stands.
                    begin, number = lines.position, lines.number + 1
            else:
                begin = 0
                for line in lines:
                    if not line.isspace():
                        yield os.fsencode(parse_line(line)[0]), begin, number
                    begin, number = lines.position, lines.number + 1
        except (LandmarkTextError, csv.Error) as error:
            raise LandmarkTextError(f"{path}, line {number}: {error}") from error


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _check_header(header: list[str]) -> None:
    names = [name.strip().lower() for name in header]
    numbers = [f"{axis}{point}" for point in range(1, POINTS + 1) for axis in "xy"]
    # Columns in another order, such as all x before all y, would be read as wrong points.
    if names[:1] != ["image_path"] or (len(names) != POINTS + 1 and names[1:] != numbers):
        raise LandmarkTextError(
            f"expected the header image_path, x1, y1, …, x{POINTS}, y{POINTS} or image_path and "
            f"{POINTS} columns of x,y; found {len(header)} columns, "
            f"{', '.join(header[:4])[:80]!r} first"
        )


def _csv_face(row: list[str]) -> tuple[str, NDArray[np.float32]]:
    if len(row) not in (1 + 2 * POINTS, 1 + POINTS):
        raise LandmarkTextError(
            f"expected {1 + 2 * POINTS} or {1 + POINTS} columns, found {len(row)}"
        )
    if not row[0]:
        raise LandmarkTextError("the image_path is empty")
    return row[0], _points(row[1:] if len(row) > 1 + POINTS else _split(row[1:]))


def _split(pairs: list[str]) -> list[str]:
    """478 × "x,y" → 956 numbers as text."""
    for point, pair in enumerate(pairs, 1):
        if pair.count(",") != 1:
            raise LandmarkTextError(f"point {point}: expected x,y; found {pair[:40]!r}")
    return ",".join(pairs).split(",")


def _points(numbers: list[str]) -> NDArray[np.float32]:
    """956 numbers as text, x before y → (478, 3) float32 with z NaN."""
    try:
        plane = np.array([*map(float, numbers)])
    except ValueError as error:
        raise LandmarkTextError(f"expected x,y of numbers: {str(error)[:80]}") from None
    # No picture reaches farther, and float32 would overflow.
    if not (np.abs(plane) < 1e9).all():
        raise LandmarkTextError("a landmark is not a finite number of pixels")
    points = np.full((POINTS, 3), np.nan, np.float32)
    points[:, :2] = plane.reshape(POINTS, 2)
    return points
