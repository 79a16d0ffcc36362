"""Landmark tables that do not belong to their images, through `prep landmarks --landmarks`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from skimage import data
from tests.prep_command import needs_face_mesh

from faceguide.cache import FaceCache
from faceguide.cache.cli import main as cache_main
from faceguide.core.commands.doubts import Doubts
from faceguide.preprocess.cli import main
from faceguide.preprocess.detect.cascade import every_face
from faceguide.preprocess.detect.finders.open_finder import open_finder

pytestmark = needs_face_mesh
Points = NDArray[np.float64]
# Width, height, side of the head and where its corner lies, of six photographs of one face.
LAYOUTS = (
    (400, 300, 220, 30, 40), (360, 420, 260, 60, 90), (500, 380, 300, 150, 40),
    (320, 320, 200, 90, 10), (620, 400, 280, 20, 100), (300, 500, 210, 50, 240),
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    head = data.astronaut()[:256, 96:352]
    for number, (width, height, side, x, y) in enumerate(LAYOUTS):
        image = np.full((height, width, 3), 90, np.uint8)
        image[y : y + side, x : x + side] = cv2.resize(head, (side, side))
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def found(photos: Path) -> list[Points]:
    """The right points of each photograph, (478, 2)."""
    finder = open_finder("auto", None)
    images = [cv2.imread(str(photos / f"{number}.png")) for number in range(len(LAYOUTS))]
    points = [
        every_face(np.ascontiguousarray(image[..., ::-1], np.uint8), finder) for image in images
    ]
    finder.close()
    assert [len(faces) for faces in points] == [1] * len(LAYOUTS)
    return [faces[0, :, :2].astype(np.float64) for faces in points]


def write(path: Path, points: list[Points]) -> Path:
    lines = (
        f"{number}.png " + " ".join(f"{x:.4f},{y:.4f}" for x, y in face)
        for number, face in enumerate(points)
    )
    path.write_text("\n".join(lines) + "\n")
    return path


def imported(photos: Path, table: Path, *arguments: object) -> Result:
    command = ["landmarks", photos, "--flat", "--out", table.parent / "cache", "--jobs", 1]
    command += ["--landmarks", table, *arguments]
    return CliRunner().invoke(main, [str(argument) for argument in command])


def changed(points: list[Points], change: Callable[[Points, float, float], Points]) -> list[Points]:
    sizes = [(width, height) for width, height, *_ in LAYOUTS]
    return [change(face, *size) for face, size in zip(points, sizes, strict=True)]


def test_a_right_table_raises_no_doubt(photos: Path, found: list[Points], tmp_path: Path) -> None:
    result = imported(photos, write(tmp_path / "right.txt", found))
    assert (result.exit_code, result.stderr) == (0, "")
    assert not Doubts.kept(tmp_path / "cache", "faces")
    assert len(FaceCache.open(tmp_path / "cache").select()) == len(LAYOUTS)


TABLES: dict[str, tuple[Callable[[Points, float, float], Points], str]] = {
    "shares": (lambda p, w, h: p / (w, h), "multiply by width and height"),
    "from minus one to one": (lambda p, w, h: p / (w, h) * 2 - 1, "multiply by width and height"),
    "half size": (lambda p, w, h: p / 2, "another size; multiply them by 2"),
    "a quarter larger": (lambda p, w, h: p * 1.25, "another size; multiply them by 0.8"),
    "resized to a square": (lambda p, w, h: p / (w, h) * 256, "resized to 256×256"),
    "percent": (lambda p, w, h: p / (w, h) * 100, "resized to 100×100"),
    "crops": (lambda p, w, h: (p - p.min(0)) / np.ptp(p, axis=0).max() * 112, "points of crops"),
    "before EXIF turns the image": (
        lambda p, w, h: np.stack([p[:, 1], w - 1 - p[:, 0]], 1),
        "before EXIF turns them",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_in_another_space_is_refused_by_name(
    photos: Path, found: list[Points], tmp_path: Path, kind: str
) -> None:
    change, message = TABLES[kind]
    table = write(tmp_path / "table.txt", changed(found, change))
    result = imported(photos, table)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {table}: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    rehearsal = imported(photos, table, "--dry-run", "--json")
    assert rehearsal.exit_code == 0
    assert message in json.loads(rehearsal.stdout)["problems"][-1]
    # Nothing is claimed: the mended table of the same name goes through.
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert imported(photos, write(table, found)).exit_code == 0


@pytest.mark.parametrize(("by", "where"), [(1, "line below"), (-1, "line above")])
def test_a_table_shifted_by_a_line_is_refused(
    photos: Path, found: list[Points], tmp_path: Path, by: int, where: str
) -> None:
    result = imported(photos, write(tmp_path / "table.txt", [*np.roll(found, by, axis=0)]))
    assert result.exit_code == 1
    assert f"in the {where}: shifted by a line" in result.stderr


def test_points_of_other_images_are_refused_on_aligned_crops_too(tmp_path: Path) -> None:
    """There all faces lie in one place, and any image's points lie near those of any other."""
    folder = tmp_path / "photos"
    folder.mkdir()
    finder, points = open_finder("auto", None), []
    stretches = ((1, 1), (1.25, 0.9), (0.8, 1.2), (1.2, 1.25), (0.75, 0.8), (1.1, 0.75))
    for number, (wide, high) in enumerate(stretches):
        matrix = np.array([[wide, 0, 128 * (1.0 - wide)], [0, high, 128 * (1.0 - high)]], float)
        image = cv2.warpAffine(data.astronaut()[:256, 96:352], matrix, (256, 256))
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
        points.append(every_face(image.astype(np.uint8), finder)[0, :, :2].astype(np.float64))
    finder.close()
    assert imported(folder, write(tmp_path / "right.txt", points)).stderr == ""
    order = [4, 2, 5, 0, 3, 1]
    result = imported(
        folder, write(tmp_path / "table.txt", [points[k] for k in order]), "--overwrite"
    )
    assert result.exit_code == 1
    assert "points of other images" in result.stderr


ROWS: dict[str, tuple[Callable[[Points, float, float], Points], str]] = {
    "swapped": (lambda p, w, h: p[:, ::-1], "x and y swapped"),
    "mirrored": (lambda p, w, h: np.stack([w - 1 - p[:, 0], p[:, 1]], 1), "mirrored image"),
    "upwards": (lambda p, w, h: np.stack([p[:, 0], h - 1 - p[:, 1]], 1), "y has to count down"),
    "turned": (lambda p, w, h: np.array([w, h]) - 1 - p, "stand upside down"),
    "beside the image": (lambda p, w, h: p + np.array([w, 0]), "outside the image"),
    "twice as large": (lambda p, w, h: p * 2 + np.array([w, h]), "outside the image"),
    "another numbering": (lambda p, w, h: p[np.r_[100:478, 0:100]], "miss the shape of a face"),
    "shares in one row": (lambda p, w, h: p / (w, h), "shares of the image"),
    "a single point": (lambda p, w, h: p * 0 + 70, "coincide"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ROWS)
def test_rows_that_cannot_be_right_are_implausible(
    photos: Path, found: list[Points], tmp_path: Path, kind: str
) -> None:
    change, reason = ROWS[kind]
    points = changed(found, change)
    points[1:3] = found[1:3]
    result = imported(photos, write(tmp_path / "table.txt", points))
    assert result.exit_code == 3
    assert "2 ok" in result.stdout
    assert "4 implausible" in result.stdout
    listed = CliRunner().invoke(cache_main, ["failures", str(tmp_path / "cache")]).stdout
    rows = list(csv.DictReader(listed.splitlines()))
    assert sorted(row["key"] for row in rows) == ["0.png", "3.png", "4.png", "5.png"]
    assert {row["status"] for row in rows} == {"implausible"}
    assert all(reason in row["reason"] for row in rows)


def test_a_few_rows_elsewhere_are_doubted(
    photos: Path, found: list[Points], tmp_path: Path
) -> None:
    points = [found[0] + np.array([60, 20]), *found[1:]]
    result = imported(photos, write(tmp_path / "table.txt", points))
    assert result.exit_code == 0
    assert "(the first: 0.png)" in result.stderr
    assert Doubts.kept(tmp_path / "cache", "faces").counts() == {"landmarks_elsewhere": 1}
    again = imported(photos, tmp_path / "table.txt", "--json")
    assert again.stderr.count("the first: 0.png") == 1
    assert json.loads(again.stdout)["doubts"]["landmarks_elsewhere"] == 1


@pytest.mark.parametrize("layout", ["text", "numbers.csv", "pairs.csv"])
def test_468_points_get_irises(
    photos: Path, found: list[Points], tmp_path: Path, layout: str
) -> None:
    table = tmp_path / layout
    plain = [face[:468] for face in found]
    if layout == "text":
        write(table, plain)
    else:
        with table.open("w", newline="") as file:
            writer = csv.writer(file)
            pairs = layout == "pairs.csv"
            numbers = range(1, 469)
            header = (
                [f"p{k}" for k in numbers] if pairs else [a + str(k) for k in numbers for a in "xy"]
            )
            writer.writerow(["image_path", *header])
            for number, face in enumerate(plain):
                cells = [f"{x},{y}" for x, y in face] if pairs else face.ravel().tolist()
                writer.writerow([f"{number}.png", *cells])
    result = imported(photos, table)
    assert result.exit_code == 0
    assert "6 imported faces have 468 points" in result.stderr
    assert Doubts.kept(tmp_path / "cache", "faces").counts() == {"derived_irises": 6}
    cache = FaceCache.open(tmp_path / "cache")
    rows = cache.select()
    crops = cache.read(rows, ["landmarks", "transform"])
    for key, points, transform in zip(
        cache.texts("key", rows), crops["landmarks"], crops["transform"], strict=True
    ):
        right = found[int(key[0])] @ transform[:, :2].T + transform[:, 2]
        assert np.abs(points[:468, :2] * 112 - right[:468]).max() < 0.1
        away = np.linalg.norm(points[468:, :2] * 112 - right[468:], axis=1)
        assert away.max() < 0.1 * np.linalg.norm(right[468] - right[473])


@pytest.mark.parametrize("count", [5, 68, 98, 106, 467])
@pytest.mark.parametrize("separator", [",", " "])
def test_other_numbers_of_points_say_what_is_needed(
    photos: Path, found: list[Points], tmp_path: Path, count: int, separator: str
) -> None:
    table = tmp_path / "table.txt"
    lines = (
        f"{number}.png " + " ".join(f"{x:.2f}{separator}{y:.2f}" for x, y in face[:count])
        for number, face in enumerate(found)
    )
    table.write_text("\n".join(lines))
    result = imported(photos, table)
    assert result.exit_code == 1
    if separator == "," or count < 234:
        assert f"{count} points: the 478 " in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_a_finder_the_table_is_unchecked(
    photos: Path, found: list[Points], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    table = write(tmp_path / "table.txt", [face / 2 for face in found])
    result = imported(photos, table)
    assert result.exit_code == 0
    assert "6 imported faces are unchecked" in result.stderr
    assert Doubts.kept(tmp_path / "cache", "faces").counts() == {"unchecked_landmarks": 6}


def test_parts_and_reruns_compare_once(
    photos: Path, found: list[Points], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(tmp_path / "table.txt", found)
    rows = ["--shard-rows", 2]
    assert imported(photos, table, *rows, "--part", "0/3").exit_code == 0
    monkeypatch.setitem(sys.modules, "mediapipe", None)  # a finder is no longer asked for
    for part in ("1/3", "2/3", "2/3"):
        result = imported(photos, table, *rows, "--part", part)
        assert (result.exit_code, result.stderr) == (0, "")
