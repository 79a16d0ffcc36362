"""`evaluate occluded`, and the covers that it lays."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluate.builder import all_pairs, pairs_csv, small_cache, weights_file

from faceguide.core.faces.align import FIVE_POINTS
from faceguide.core.faces.mean_face import mean_landmarks
from faceguide.evaluate.cli import main
from faceguide.evaluate.occluded.by_covered_share import by_covered_share
from faceguide.evaluate.occluded.covered_scores import Level
from faceguide.evaluate.occluded.laid_covers import LaidCovers, covered_share
from faceguide.evaluate.occluded.picture_covers import PictureCover, read_pictures
from faceguide.train.training_settings import KINDS

POINTS = (mean_landmarks()[:, :2] * 112).astype(np.float32)
GREY = np.full((112, 112, 3), 128, np.uint8)


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(KINDS), st.integers(0, 1000), st.floats(0.05, 0.95))
def test_less_of_a_cover_is_inside_more_of_it_and_the_mask_is_exact(kind, row, strength) -> None:
    covers = LaidCovers((kind,), (), 3)
    part, left = covers.over(GREY, POINTS, row, strength)
    whole, least = covers.over(GREY, POINTS, row, 1.0)
    assert (left >= least).all()
    area = (1 - left).sum() / (1 - least).sum()
    assert strength - 0.02 < area <= strength + 1e-6
    assert covered_share(left, POINTS) <= covered_share(least, POINTS) + 1e-6
    for image, seen in ((part, left), (whole, least)):
        assert (image[seen == 1] == 128).all()  # nothing is painted where the mask says visible
    again, same = covers.over(GREY, POINTS, row, strength)
    assert (again == part).all()
    assert (same == left).all()


def occluders(folder: Path, lines: list[str]) -> Path:
    """A red square of 20 pixels in a clear picture of 40, as OCFR-2022 keeps its occluders."""
    (folder / "eye").mkdir(parents=True)
    picture = np.zeros((40, 40, 4), np.uint8)
    picture[10:30, 10:30] = (0, 0, 255, 255)
    cv2.imwrite(str(folder / "eye" / "square.png"), picture)
    (folder / "occlusions.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_pictures_lie_by_their_anchors(tmp_path: Path) -> None:
    eyes = 'square.png,eye,40,40,"9.5,19.5","29.5,19.5","0,0",,'
    (two,) = read_pictures(occluders(tmp_path / "two", [eyes]))
    assert two.landmarks == FIVE_POINTS[:2]
    left, right = POINTS[list(FIVE_POINTS[:2])]
    side = np.linalg.norm(right - left)  # the square is as wide as its anchors are apart
    for strength in (1.0, 0.25):
        colour, cover = two.on(POINTS, 112, strength)
        assert cover.sum() == pytest.approx(strength * side**2, rel=0.1)
        y, x = np.nonzero(cover > 0.5)
        np.testing.assert_allclose([x.mean(), y.mean()], (left + right) / 2, atol=0.7)
        np.testing.assert_allclose(colour[cover > 0.9], [[255, 0, 0]] * (cover > 0.9).sum(), atol=3)
    # Three anchors: an affine map takes each to its landmark.
    anchors = POINTS[list(FIVE_POINTS[:3])].astype(float) / 2
    lying = PictureCover("a", np.ones((56, 56, 4), np.float32), FIVE_POINTS[:3], anchors)
    assert lying.on(POINTS, 112, 1.0)[1][2:-4, 2:-4].min() > 0.9


def test_bad_folders_of_pictures_are_one_line(tmp_path: Path) -> None:
    for name, line, told in (
        ("few", "square.png,eye,40,40,\"9,9\",,,,", "line 1: expected two anchor points"),
        ("same", 'square.png,eye,40,40,"9,9","9,9",,,', "line 1: expected two anchor points"),
        ("text", "square.png,eye,40,40,a,b,,,", 'each "x,y" or empty'),
        ("none", 'other.png,eye,40,40,"9,9","20,9",,,', "expected a PNG with an alpha channel"),
        ("out", '../../x.png,eye,40,40,"9,9","20,9",,,', "is outside the folder"),
        ("empty", "", "no occluder"),
    ):  # fmt: skip
        with pytest.raises(Exception, match=told.replace("(", r"\(")):
            read_pictures(occluders(tmp_path / name, [line]))
    with pytest.raises(Exception, match="as OCFR-2022 has them"):
        read_pictures(tmp_path)


def test_parts_by_hand() -> None:
    same = np.arange(200) % 2 == 0
    clean = np.where(same, 1.0, 0.0)
    people = np.stack(
        [np.arange(200), np.where(same, np.arange(200), (np.arange(200) + 1) % 200)], 1
    )
    covered = np.where(np.arange(200) < 100, 0.3, 0.7)
    drop = np.where(covered > 0.5, 1.5, 0.0)  # where much is covered, genuine scores fall
    levels = [
        Level(0.0, np.zeros(200), {"good": clean, "bad": clean}),
        Level(1.0, covered, {"good": clean, "bad": clean - drop * same}),
    ]
    parts = by_covered_share(levels, same, None, people, 50, 0)
    assert [part["covered"] for part in parts] == [[0, 0], [0.2, 0.4], [0.6, 0.8]]
    assert [part["pairs"] for part in parts] == [200, 100, 100]
    assert [part["matchers"]["good"]["accuracy"] for part in parts] == [1, 1, 1]
    assert [part["matchers"]["bad"]["accuracy"] for part in parts] == [1, 1, 0.5]
    (difference,) = parts[2]["differences"]
    assert difference["accuracy"]["difference"] == 0.5
    low, high = difference["accuracy"]["interval"]
    assert 0 < low < 0.5 < high < 1


def occluded(place: Path, out: Path, *more: object) -> Result:
    words = [
        "occluded", place / "cache", "--pairs", place / "pairs.csv", "--weights", place / "net.pt",
        "--device", "cpu", "--bootstrap", 20, "--out", out, *more,
    ]  # fmt: skip
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("occluded")
    lines = all_pairs(small_cache(place / "cache"))
    genuine = [line for line in lines if line[3]][:60]
    pairs_csv(place / "pairs.csv", genuine + [line for line in lines if not line[3]][::20])
    weights_file(place / "net.pt")
    return place


def test_a_run_leaves_tables_and_pictures_and_is_the_same_again(place, tmp_path: Path) -> None:
    words = (
        "--strength",
        0.5,
        "--strength",
        1,
        "--covers",
        "medical",
        "--covers",
        "band",
        "--json",
    )
    result = occluded(place, tmp_path / "a", *words)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["matchers"] == ["cosine", "visible-embedding"]
    assert record["visibility"] == "exact"
    first = record["parts"][0]
    assert first["mean_covered"] == 0
    assert sum(part["pairs"] for part in record["parts"]) == 3 * record["pairs"]
    lines = list(csv.reader((tmp_path / "a" / "occluded.csv").open(encoding="utf-8")))
    assert lines[1][:2] == ["nothing", "cosine"]
    for name in ("accuracy.png", "covers.png"):
        assert cv2.imread(str(tmp_path / "a" / name)) is not None
    again = occluded(place, tmp_path / "b", *words)
    assert json.loads(again.stdout)["parts"] == record["parts"]


def test_pictures_take_the_place_of_drawn_covers(place: Path, tmp_path: Path) -> None:
    eyes = 'square.png,eye,40,40,"9.5,19.5","29.5,19.5","0,0",,'
    folder = occluders(tmp_path / "pictures", [eyes])
    result = occluded(place, tmp_path / "out", "--pictures", folder, "--strength", 1)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "occluded.json").read_text())
    assert record["covers"] == ["eye/square.png"]
