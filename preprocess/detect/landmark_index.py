"""The index of a landmark table, from path to byte offset, kept in SQLite: no process holds it."""

from __future__ import annotations

import math
import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from faceguide.preprocess.detect.landmark_text import (
    SHARES,
    WITHOUT_IRISES,
    LandmarkTextError,
    faces_of,
)


def index_file(path: Path, database: Path) -> int:
    """Check every line of a text or CSV table and write the index of its paths.

    The index replaces `database` only when it is whole.

    Returns:
        The number of faces.

    Raises:
        LandmarkTextError: naming the line that is not in the format, or the two lines that have
            one path; or when all points are shares of an image.
        OSError: when the table cannot be read.
    """
    unfinished = database.with_name(f".{database.name}.{uuid.uuid4().hex}")
    try:
        with closing(sqlite3.connect(unfinished, isolation_level=None)) as connection:
            # Nothing to roll back: an unfinished index is thrown away.
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute(
                "CREATE TABLE face (path BLOB, offset INTEGER, line INTEGER, points INTEGER)"
            )
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO face VALUES (?, ?, ?, ?)", _in_pixels(path))
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


def lookup(database: Path, key: str, lines: int = 0) -> int | None:
    """The byte offset of the face whose path is `key`, None if the table lacks it.

    Args:
        lines: take the face so many lines further down instead.

    Raises:
        LandmarkTextError: when `database` is no index.
    """
    return _number(
        database,
        "SELECT offset FROM face WHERE rowid = (SELECT rowid FROM face WHERE path = ?) + ?",
        (os.fsencode(key), lines),
    )


def without_irises(database: Path) -> int:
    """How many faces have 468 points, their irises being derived.

    Raises:
        LandmarkTextError: when `database` is no index.
    """
    found = _number(database, "SELECT count(*) FROM face WHERE points = ?", (WITHOUT_IRISES,))
    return found or 0


def _number(database: Path, query: str, values: tuple[bytes | int, ...]) -> int | None:
    try:
        address = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            found = connection.execute(query, values).fetchone()
        return None if found is None else int(found[0])
    except (sqlite3.Error, ValueError, TypeError) as error:
        raise LandmarkTextError(
            f"{database}: expected a landmark index: {error}; remove it to rebuild it"
        ) from error


def _in_pixels(path: Path) -> Iterator[tuple[bytes, int, int, int]]:
    """(path, byte offset, line number, number of points) of every face of the table.

    Raises:
        LandmarkTextError: at the end, when no point was farther than `SHARES` from the corner.
    """
    low, high = math.inf, -math.inf
    for key, begin, number, points, given in faces_of(path):
        low, high = min(low, float(points.min())), max(high, float(points.max()))
        yield os.fsencode(key), begin, number, given
    if -SHARES <= low <= high <= SHARES:
        raise LandmarkTextError(
            f"{path}: all its points lie in {low:.2f} … {high:.2f}, which are shares of the image "
            "and not pixels: multiply by width and height"
        )
