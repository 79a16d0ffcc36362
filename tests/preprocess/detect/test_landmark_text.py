"""The text format both ways, its index, and every line that is not in it."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from faceguide.cache.inspect.export import format_line
from faceguide.core.errors import FaceguideError
from faceguide.core.faces import LANDMARKS
from faceguide.preprocess.detect.landmark_index import index_file, lookup
from faceguide.preprocess.detect.landmark_text import (
    MAXIMUM_LINE,
    LandmarkTextError,
    parse_line,
    read_at,
)


def face(seed: int, scale: float = 4000) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-10, scale, (LANDMARKS, 3)).astype(np.float32)


def write_table(path: Path, keys: list[str]) -> None:
    lines = [format_line(key, face(number)[:, :2]) + "\n" for number, key in enumerate(keys)]
    path.write_bytes(os.fsencode("".join(lines)))


def write_csv(path: Path, keys: list[str], *, pairs: bool) -> None:
    numbers = range(1, LANDMARKS + 1)
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        header = [f"p{n}" for n in numbers] if pairs else [f"{a}{n}" for n in numbers for a in "xy"]
        writer.writerow(["image_path", *header])
        for number, key in enumerate(keys):
            points = face(number)[:, :2].tolist()
            fields = [f"{x:.4f},{y:.4f}" for x, y in points]
            if not pairs:
                fields = ",".join(fields).split(",")
            writer.writerow([key, *fields])


KEYS = ["Ann/1.jpg", "with blank/a b.jpg", "ends in blank ", "é/ü.png", "raw-\udcff.jpg", "1,2 3,4"]


@settings(max_examples=200)
@given(
    key=st.text(
        st.one_of(st.characters(exclude_characters="\n"), st.sampled_from(" ,\udc80\t")), min_size=1
    ),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1.0, 300.0, 30_000.0]),
)
def test_round_trip(key: str, seed: int, scale: float) -> None:
    points = face(seed, scale)
    found_key, found = parse_line(format_line(key, points[:, :2]) + "\n")
    assert found_key == key
    assert found.shape == (LANDMARKS, 3)
    assert found.dtype == np.float32
    assert np.abs(found[:, :2].astype(float) - points[:, :2]).max() < 1e-3
    assert np.isnan(found[:, 2]).all()


def test_other_blanks_between_the_tokens() -> None:
    line = format_line("a b.jpg", face(0)[:, :2])
    path, tokens = "a b.jpg", line.removeprefix("a b.jpg ").split(" ")
    for blank in ("\t", "  "):
        found, points = parse_line(path + blank + blank.join(tokens) + " \r\n")
        assert found == path
        assert np.array_equal(points, parse_line(line)[1], equal_nan=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "expected a path and 478 points x,y; found 0 tokens"),
        ("a.jpg " + "1,2 " * 477, "expected a path and 478 points x,y; found 478 tokens"),
        ("1,2 " * 478, "expected a path and 478 points"),
        ("a.jpg " + "1,2 " * 477 + "3", "point 478: expected x,y; found '3'"),
        ("a.jpg 1,2,3" + " 1,2" * 477, "point 1: expected x,y; found '1,2,3'"),
        ("a.jpg 3 1,2,3" + " 1,2" * 476, "point 1: expected x,y; found '3'"),
        ("a.jpg 1,x" + " 1,2" * 477, "expected x,y of numbers: .*'x'"),
        ("a.jpg 1," + " 1,2" * 477, "expected x,y of numbers"),
        ("a.jpg nan,1" + " 1,2" * 477, "not a finite number of pixels"),
        ("a.jpg inf,1" + " 1,2" * 477, "not a finite number of pixels"),
        ("a.jpg 1e39,1" + " 1,2" * 477, "not a finite number of pixels"),
    ],
)
def test_wrong_lines(line: str, message: str) -> None:
    with pytest.raises(LandmarkTextError, match=message):
        parse_line(line)


@pytest.mark.parametrize("kind", ["text", "pairs.csv", "numbers.csv"])
def test_index_and_look_up(tmp_path: Path, kind: str) -> None:
    path, database = tmp_path / kind, tmp_path / "index.db"
    keys = KEYS if kind == "text" else [*KEYS, "two\nlines.jpg", 'quote".jpg']
    if kind == "text":
        write_table(path, keys)
    else:
        write_csv(path, keys, pairs=kind == "pairs.csv")
    assert index_file(path, database) == len(keys)
    assert [child.name for child in sorted(tmp_path.iterdir())] == sorted([kind, "index.db"])
    for number in reversed(range(len(keys))):
        offset = lookup(database, keys[number])
        assert offset is not None
        points = read_at(path, offset)
        assert np.abs(points[:, :2] - face(number)[:, :2]).max() < 1e-3
        assert np.isnan(points[:, 2]).all()
    assert lookup(database, "other") is None


def test_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path, database = tmp_path / "table.txt", tmp_path / "index.db"
    path.write_text(
        "\ufeff" + format_line("a", face(0)[:, :2]) + "\r\n\n" + format_line("b", face(1)[:, :2])
    )
    assert index_file(path, database) == 2
    for number, key in enumerate("ab"):
        offset = lookup(database, key)
        assert offset is not None
        assert np.abs(read_at(path, offset)[:, :2] - face(number)[:, :2]).max() < 1e-3


def test_errors_name_the_line(tmp_path: Path) -> None:
    path, database = tmp_path / "table.txt", tmp_path / "index.db"
    write_table(path, ["a", "b", "c"])
    path.write_text(path.read_text() + "d 1,2\n")
    with pytest.raises(LandmarkTextError, match=r"table.txt, line 4: .*478"):
        index_file(path, database)
    assert [child.name for child in tmp_path.iterdir()] == ["table.txt"]


def test_errors_name_the_line_of_a_csv(tmp_path: Path) -> None:
    path, database = tmp_path / "table.csv", tmp_path / "index.db"
    write_csv(path, ["a", "two\nlines"], pairs=False)
    path.write_text(path.read_text() + "d,1,2\n")
    with pytest.raises(LandmarkTextError, match=r"line 5: .*957 or 479 .*found 3"):
        index_file(path, database)
    path.write_text(path.read_text().replace("d,1,2", ",1" * 956))
    with pytest.raises(LandmarkTextError, match=r"line 5: the image_path is empty"):
        index_file(path, database)


def test_a_path_that_comes_twice(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    write_table(path, ["a", "b", "c", "b"])
    with pytest.raises(LandmarkTextError, match="lines 2 and 4: both are for 'b'"):
        index_file(path, tmp_path / "index.db")
    assert not (tmp_path / "index.db").exists()


def test_csv_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    numbers = range(1, LANDMARKS + 1)
    apart = [f"x{n}" for n in numbers] + [f"y{n}" for n in numbers]
    for header in (["image_path", *apart], ["path", *apart], ["a.jpg", *["1"] * 956], []):
        path.write_text(",".join(header) + "\n" + "a.jpg" + ",1" * 956 + "\n")
        with pytest.raises(LandmarkTextError, match=r"line 1: .*image_path, x1, y1"):
            index_file(path, tmp_path / "index.db")


@pytest.mark.parametrize("name", ["table.txt", "table.csv"])
def test_a_line_without_end(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x" * (MAXIMUM_LINE + 10))
    with pytest.raises(LandmarkTextError, match=f"line 1: a line is longer than {MAXIMUM_LINE}"):
        index_file(path, tmp_path / "index.db")


def test_a_table_that_changed(tmp_path: Path) -> None:
    path = tmp_path / "table.txt"
    write_table(path, ["a", "b"])
    with pytest.raises(LandmarkTextError, match=r"byte 7: .*; rebuild the index"):
        read_at(path, 7)
    with pytest.raises(LandmarkTextError, match="byte 1000000"):
        read_at(path, 1_000_000)


def test_no_index(tmp_path: Path) -> None:
    database = tmp_path / "index.db"
    with pytest.raises(LandmarkTextError, match="expected a landmark index: unable to open"):
        lookup(database, "a")
    assert not database.exists()
    database.write_bytes(b"something else" * 100)
    with pytest.raises(LandmarkTextError, match=r"expected a landmark index: .*not a database"):
        lookup(database, "a")


def test_an_index_that_cannot_be_written(tmp_path: Path) -> None:
    write_table(tmp_path / "table.txt", ["a"])
    with pytest.raises(LandmarkTextError, match="the index could not be written"):
        index_file(tmp_path / "table.txt", tmp_path / "missing" / "index.db")


LINE = format_line("a b.jpg", face(3, 9.0)[:, :2])
TOKENS = st.sampled_from(
    ["1,2", "1", ",", "1,2,3", "nan,1", "x,y", '"', '"1,2"', "\0", "\x1c", "é"]
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(["table.txt", "table.csv"]),
    head=st.sampled_from(["", "a.jpg ", "image_path" + ",p" * 478 + "\n", LINE + "\n"]),
    body=st.lists(TOKENS, max_size=4),
    fill=st.integers(470, 480),
    separator=st.sampled_from([" ", ",", "\n"]),
    noise=st.binary(max_size=20),
)
def test_any_table_is_read_or_refused(
    tmp_path: Path, name: str, head: str, body: list[str], fill: int, separator: str, noise: bytes
) -> None:
    path, database = tmp_path / name, tmp_path / "index.db"
    text = head + separator.join([*body, *['"1,2"' if name.endswith("csv") else "1,2"] * fill])
    path.write_bytes(text.encode() + noise)
    message, count = "", 0
    try:
        count = index_file(path, database)
    except FaceguideError as error:
        message = str(error)
    assert database.exists() or path.name in message
    assert count <= text.count("\n") + 1 + noise.count(b"\n")
    database.unlink(missing_ok=True)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.lists(TOKENS, max_size=3), st.integers(476, 479))
def test_any_line_is_read_or_refused(path: str, tokens: list[str], fill: int) -> None:
    try:
        points = parse_line(path + " " + " ".join([*tokens, *["1,2"] * fill]))[1]
    except LandmarkTextError:
        return
    assert np.isfinite(points[:, :2]).all()
