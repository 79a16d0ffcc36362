"""`prep landmarks --boxes`: what it finds, what the cache says of it, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from skimage import data
from tests.prep_command import needs_face_mesh, prep

from faceguide.cache import FaceCache
from faceguide.cache.cli import main as cache_main

ARGUMENTS = ("--flat", "--jobs", "1", "--allow-failures", "--json")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A face, the same under a hood with a slit, the same upside down, and nothing."""
    folder = tmp_path / "photos"
    folder.mkdir()
    face = data.astronaut()
    y, x = np.indices(face.shape[:2])
    hood = np.hypot((x - 226) / 95, (y - 98) / 114) < 1
    hooded = np.where((hood & (np.abs(y - 102) > 10))[..., None], (30, 30, 34), face)
    blank = np.full((90, 90, 3), 99)
    pictures = {"face": face, "hooded": hooded, "inverted": face[::-1, ::-1], "blank": blank}
    for name, pixels in pictures.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.ascontiguousarray(pixels[..., ::-1], np.uint8))
    return folder


def _landmarks(photos: Path, *more: object) -> Result:
    place = ("--out", photos.parent / "cache")
    arguments = ["landmarks", photos, *place, *ARGUMENTS, *more]
    return prep(*arguments)


def test_centerface_finds_more_and_stands_in_the_recipe(photos: Path, centerface: Path) -> None:
    done = _landmarks(photos, "--boxes", centerface)
    assert done.exit_code == 0, done.output
    origins = json.loads(done.stdout)["origins"]
    assert (origins["detected"], origins["retried"], origins["none"]) == (1, 2, 1)

    directory = photos.parent / "cache"
    cache = FaceCache.open(directory)
    digest = hashlib.sha256(centerface.read_bytes()).hexdigest()[:32]
    plan = json.loads((directory / "plan.json").read_text())
    assert plan["recipe"]["boxes"] == {"tool": "centerface", "model": digest}
    rows = {str(cache[row]["key"]): cache[row] for row in range(len(cache))}
    for name in ("face", "hooded", "inverted"):
        assert 0.02 <= rows[f"{name}.png"]["presence"] <= 1
        assert 0.2 <= rows[f"{name}.png"]["score"] <= 1
    assert rows["hooded.png"]["quality"] > 0.8
    assert np.isnan(rows["blank.png"]["score"])
    assert abs(rows["inverted.png"]["pose"][2]) > 170  # roll
    # Turned upright by the alignment, the crop of the inverted face is that of the upright one.
    crops = [rows[f"{name}.png"]["image"].astype(int) for name in ("face", "inverted")]
    assert np.abs(crops[0] - crops[1]).mean() < 2
    assert CliRunner().invoke(cache_main, ["verify", str(directory)]).exit_code == 0

    other = _landmarks(photos)
    assert other.exit_code == 1
    assert "boxes" in other.stderr


@needs_face_mesh
def test_without_a_detector_face_mesh_misses_the_hooded_face(photos: Path) -> None:
    done = _landmarks(photos)
    assert done.exit_code == 0, done.output
    origins = json.loads(done.stdout)["origins"]
    assert (origins["detected"], origins["retried"], origins["none"]) == (1, 1, 2)


@pytest.mark.parametrize("content", [b"", b"no network"])
def test_a_file_that_holds_no_detector_is_one_line(photos: Path, content: bytes) -> None:
    path = photos.parent / "other.onnx"
    path.write_bytes(content)
    done = _landmarks(photos, "--boxes", path)
    assert done.exit_code == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert str(path) in errors[0]
    assert "`prep models`" in errors[0]
    assert not (photos.parent / "cache").exists()
