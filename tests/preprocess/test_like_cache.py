"""`prep landmarks --like`: a second volume of what the first lacks, made alike."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from bench.demo.photos import write_demo_photos
from tests.prep_command import prep

from faceguide.cache import FaceCache


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the photographs `set`, and the cache `old` of two identities of them."""
    folder = tmp_path_factory.mktemp("like")
    write_demo_photos(folder / "set", identities=3, images=4)
    photos = folder / "set" / "photos"
    people = sorted(path for path in photos.iterdir() if path.is_dir())
    for path in people[:2]:
        shutil.copytree(path, folder / "first" / path.name)
    result = prep(
        "landmarks", folder / "first", "--out", folder / "old", "--size", 64, "--margin", 0.1,
        "--grid", 14, "--regions", "points", "--jobs", 1, "--allow-failures",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return folder


def test_a_second_volume_is_made_alike_and_holds_what_is_new(made: Path, tmp_path: Path) -> None:
    people = sorted(path for path in (made / "set" / "photos").iterdir() if path.is_dir())
    images = [sorted(path.iterdir()) for path in people]
    new = tmp_path / "new"
    shutil.copytree(people[2], new / people[2].name)  # a new identity
    for path in people[:2]:
        (new / path.name).mkdir()
    shutil.copy(images[0][0], new / people[0].name / "copy.jpg")  # held, under another name
    shutil.copy(images[0][1], new / people[1].name / "moved.jpg")  # held, of another identity
    shutil.copy(images[2][0], new / people[1].name / images[1][0].name)  # a key of it, not its file
    result = prep(
        "landmarks", new, "--out", tmp_path / "more", "--like", made / "old", "--jobs", 1,
        "--allow-failures", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    about = json.loads(result.stdout)
    assert about["rows"] == 5
    doubts = about["doubts"]
    assert doubts["held_already"] == 2
    assert doubts["changed_images"] == 1
    assert doubts["two_identities"] >= 1
    assert "2 images are left out, as the cache of --like holds them" in result.stderr
    union = FaceCache.open([made / "old", tmp_path / "more"])
    assert {"image", "heatmap", "regions"} <= set(union.columns)
    assert union.specs["image"].shape == (64, 64, 3)
    assert union.specs["heatmap"].shape == (14, 14)
    assert union.identities == [path.name for path in people]
    key = f"{people[1].name}/{images[1][0].name}"
    assert not union.find([key])
    assert len(union.find([f"old:{key}", f"more:{key}"])) == 2


def test_what_would_be_made_otherwise_is_refused(made: Path, tmp_path: Path) -> None:
    source = made / "set" / "photos"
    for words, says in {
        ("--size", "96"): "size 64 there, 96 here",
        ("--grid", "7"): "grid 14 there, 7 here",
        ("--flat", "--check-all"): "check_all False there, True here",
    }.items():
        result = prep("plan", source, "--out", tmp_path / "no", "--like", made / "old", *words)
        assert result.exit_code == 1, result.output
        assert says in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert not (tmp_path / "no").exists()


def test_nothing_new_is_one_line(made: Path, tmp_path: Path) -> None:
    result = prep("plan", made / "first", "--out", tmp_path / "no", "--like", made / "old")
    assert result.exit_code == 1
    assert "no images found; 8 images are left out, as the cache of --like" in result.stderr
