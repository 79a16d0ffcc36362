"""Landmarks as text: one face a line, `path x1,y1 x2,y2 … x478,y478` in source pixels.

The path is everything before the last 478 tokens, so it may hold spaces. A table may come as CSV
instead: a header whose first column is `image_path`, then 956 columns x1, y1, x2, y2 … or 478
columns of `x,y`. Pixels have x right, y down, and (0, 0) at the centre of the top left one.

Face Mesh without refine_landmarks gives 468 points, which are taken too: the ten of the irises are
derived from the contours of the eyes, within .02 eye distances of the refined ones in half of the
faces, within .06 in 90 %.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import FaceguideError
from faceguide.core.faces import LANDMARKS, align
from faceguide.core.faces.mean_face import mean_landmarks

WITHOUT_IRISES = 468
# The contours of the eyes at the left and the right of the image; the irises begin at 468 and 473.
_CONTOURS = (
    (33, 7, 163, 144, 145, 153, 154, 155, 133, 173, 157, 158, 159, 160, 161, 246),
    (263, 249, 390, 373, 374, 380, 381, 382, 362, 398, 384, 385, 386, 387, 388, 466),
)
_NEEDED = (
    f"the {LANDMARKS} points of MediaPipe's Face Mesh are needed, or the {WITHOUT_IRISES} without "
    "refine_landmarks; leave out --landmarks to have them found"
)
SHARES = 2.0  # a face that lies within so many pixels of the corner is none: these are shares
MAXIMUM_LINE = 1 << 20  # bytes; a line of 478 points has about 10,000
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LandmarkTextError(FaceguideError):
    """A landmark table or a line of one that is not in the format."""


def parse_line(line: str) -> tuple[str, NDArray[np.float32]]:
    """Read one line of the text format.

    Returns:
        The path and (478, 3) float32: x and y in source pixels, z NaN.

    Raises:
        LandmarkTextError: when the last 478 or 468 tokens are not finite `x,y`, or no path is
            before them.
    """
    path, pairs = _tokens(line)
    return path, _points(_split(pairs))


def _tokens(line: str) -> tuple[str, list[str]]:
    """The path and the 478 or 468 tokens behind it."""
    line = line.rstrip("\r\n")
    refined = _split_off(line, LANDMARKS)
    whole = len(refined) > LANDMARKS and refined[0] != ""
    if not (whole and _is_point(refined[1])):
        plain = _split_off(line, WITHOUT_IRISES)
        # Of a line of more points the last 468 would leave some to the path.
        if len(plain) > WITHOUT_IRISES and not _is_point("".join(plain[0].split()[-1:]) or "0,0"):
            return plain[0], plain[1:]
    if not whole:
        points = _trailing_points(line)
        raise LandmarkTextError(
            f"expected a path and {LANDMARKS} points x,y; found {len(refined)} tokens"
            + (f", {points} points: {_NEEDED}" if points else "")
        )
    return refined[0], refined[1:]


def _split_off(line: str, count: int) -> list[str]:
    """The last `count` tokens of a line, behind what is before them."""
    # One blank between tokens, as `cache export` writes it, keeps every blank of the path.
    tokens = line.rsplit(" ", count)
    if len(tokens) <= count or "" in tokens[1:]:
        tokens = line.rsplit(None, count)
    return tokens


def _is_point(token: str) -> bool:
    x, comma, y = token.partition(",")
    return bool(comma) and _is_number(x) and _is_number(y)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _trailing_points(line: str) -> int:
    """How many points a line ends with, whether as `x,y` or as `x y`."""
    pairs = numbers = 0
    for token in reversed(line.split()):
        if _is_point(token):
            pairs += 1
        elif _is_number(token):
            numbers += 1
        else:
            break
    return pairs + numbers // 2


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
            raise LandmarkTextError(
                f"{path}: no line at byte {offset}; rebuild the index"
            ) from None
        except (LandmarkTextError, csv.Error) as error:
            raise LandmarkTextError(f"{path}, byte {offset}: {error}; rebuild the index") from error


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


def faces_of(path: Path) -> Iterator[tuple[str, int, int, NDArray[np.float32], int]]:
    """Path, byte offset, line number, (478, 2) points and how many of them the table gives."""
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
                        given = WITHOUT_IRISES if _is_plain(len(row) - 1) else LANDMARKS
                        key, points = _csv_face(row)
                        yield key, begin, number, points[:, :2], given
                    # A quoted path may span lines, so both count to where the reader stands.
                    begin, number = lines.position, lines.number + 1
            else:
                begin = 0
                for line in lines:
                    if not line.isspace():
                        key, pairs = _tokens(line)
                        yield key, begin, number, _points(_split(pairs))[:, :2], len(pairs)
                    begin, number = lines.position, lines.number + 1
        except (LandmarkTextError, csv.Error) as error:
            raise LandmarkTextError(f"{path}, line {number}: {error}") from error


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _is_plain(columns: int) -> bool:
    """Whether a row of a CSV has 468 points."""
    return columns in (WITHOUT_IRISES, 2 * WITHOUT_IRISES)


def _check_header(header: list[str]) -> None:
    names = [name.strip().lower() for name in header]
    columns = len(names) - 1
    given = WITHOUT_IRISES if _is_plain(columns) else LANDMARKS
    numbers = [f"{axis}{point}" for point in range(1, given + 1) for axis in "xy"]
    # Columns in another order, such as all x before all y, would be read as wrong points.
    if names[:1] != ["image_path"] or (columns != given and names[1:] != numbers):
        raise LandmarkTextError(
            f"expected the header image_path, x1, y1, …, x{LANDMARKS}, y{LANDMARKS} or image_path "
            f"and {LANDMARKS} columns of x,y; found {len(header)} columns, "
            f"{', '.join(header[:4])[:80]!r} first"
            + (f": {_NEEDED}" if 0 < columns < 2 * WITHOUT_IRISES else "")
        )


def _csv_face(row: list[str]) -> tuple[str, NDArray[np.float32]]:
    columns = len(row) - 1
    if columns not in (LANDMARKS, 2 * LANDMARKS) and not _is_plain(columns):
        raise LandmarkTextError(
            f"expected {1 + 2 * LANDMARKS} or {1 + LANDMARKS} columns, found {len(row)}"
        )
    if not row[0]:
        raise LandmarkTextError("the image_path is empty")
    split = columns in (2 * LANDMARKS, 2 * WITHOUT_IRISES)
    return row[0], _points(row[1:] if split else _split(row[1:]))


def _split(pairs: list[str]) -> list[str]:
    """ "x,y" of each point → all numbers as text, x before y."""
    for point, pair in enumerate(pairs, 1):
        if pair.count(",") != 1:
            raise LandmarkTextError(f"point {point}: expected x,y; found {pair[:40]!r}")
    return ",".join(pairs).split(",")


def _points(numbers: list[str]) -> NDArray[np.float32]:
    """956 or 936 numbers as text, x before y → (478, 3) float32 with z NaN."""
    try:
        plane = np.array([*map(float, numbers)]).reshape(-1, 2)
    except ValueError as error:
        raise LandmarkTextError(f"expected x,y of numbers: {str(error)[:80]}") from None
    # No picture reaches farther, and float32 would overflow.
    if not (np.abs(plane) < 1e9).all():
        raise LandmarkTextError("a landmark is not a finite number of pixels")
    points = np.full((LANDMARKS, 3), np.nan, np.float32)
    points[: len(plane), :2] = plane
    if len(plane) == WITHOUT_IRISES:
        points[WITHOUT_IRISES:, :2] = _irises(plane)
    return points


def _irises(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (10, 2) points of both irises, where a mean face has them inside the eyes' contours."""
    mean = mean_landmarks()[:, :2].astype(np.float64)
    irises = []
    for contour, first in zip(_CONTOURS, (468, 473), strict=True):
        try:
            inside = align.similarity(mean[[*contour]], plane[[*contour]])
            irises.append(align.apply(inside, mean[first : first + 5]))
        except ValueError:  # a contour without extent
            irises.append(np.repeat(plane[[contour[0]]], 5, axis=0))
    return np.concatenate(irises)
