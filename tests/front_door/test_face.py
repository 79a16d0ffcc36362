"""`fg.align`, and what counts as a face."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tests.cache.builder import build

import faceguide as fg
from faceguide.cache.schema import ORIGINS
from faceguide.core.faces.align import five_points, template
from faceguide.face import face_of_row, faces_of, is_single
from faceguide.preprocess.cli import main


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one photograph, NASA's portrait."""
    pytest.importorskip("mediapipe.python", reason="needs the models of mediapipe 0.10.21")
    data = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("portrait")
    Image.fromarray(data.astronaut()).save(folder / "photo.png")
    return folder


def test_aligning_gives_the_row_that_prep_makes(portrait: Path) -> None:
    command = ["landmarks", str(portrait), "--flat", "--out", str(portrait / "cache")]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    row = fg.open(portrait / "cache")[0]
    face = fg.align(portrait / "photo.png")
    np.testing.assert_array_equal(face.crop, row["image"])
    np.testing.assert_allclose(face.landmarks / 112, row["landmarks"], atol=1e-6)
    np.testing.assert_allclose(face.transform, row["transform"], rtol=1e-5)
    np.testing.assert_array_equal(face.pose, row["pose"])
    assert (face.origin, face.status) == (ORIGINS[row["origin"]], "ok") == ("detected", "ok")
    assert np.isnan(face.quality)
    assert face.visibility is None
    again = face_of_row(row)
    assert again.name == "photo.png"
    np.testing.assert_allclose(again.source_landmarks, face.source_landmarks, atol=1e-3)


def test_landmarks_are_in_pixels_of_photograph_and_crop(portrait: Path) -> None:
    face = fg.align(portrait / "photo.png", size=224, margin=0.1)
    assert face.crop.shape == (224, 224, 3)
    # Read off the photograph by eye: both irises, nose tip, corners of the mouth.
    by_eye = [(203, 101), (246, 103), (223, 129), (202, 139), (245, 140)]
    np.testing.assert_allclose(five_points(face.source_landmarks), by_eye, atol=3)
    np.testing.assert_allclose(five_points(face.landmarks), template(224, 0.1), atol=12)


def test_a_photograph_may_come_in_any_form(portrait: Path) -> None:
    path = portrait / "photo.png"
    expected = fg.align(str(path)).crop
    pixels = np.asarray(Image.open(path))
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 8  # a camera that was held on its side
    Image.open(path).transpose(Image.Transpose.ROTATE_270).save(turned, "PNG", exif=exif)
    for photo in (path.read_bytes(), Image.open(path), pixels, torch.from_numpy(pixels.copy()),
                  Image.open(turned), turned.getvalue()):  # fmt: skip
        np.testing.assert_array_equal(fg.align(photo).crop, expected)


def test_what_shows_no_face_is_said_in_one_line(portrait: Path, tmp_path: Path) -> None:
    blank = tmp_path / "blank.png"
    Image.new("RGB", (64, 64)).save(blank)
    (tmp_path / "text.jpg").write_text("not a picture")
    Image.open(portrait / "photo.png").save(tmp_path / "cut.jpg")
    cut = (tmp_path / "cut.jpg").read_bytes()[:5000]
    (tmp_path / "cut.jpg").write_bytes(cut)
    for photo, text in (
        (blank, "blank.png: no face was found; an aligned crop is given as an array"),
        (tmp_path / "text.jpg", "text.jpg: no picture format begins with b'not a pi'"),
        (tmp_path / "cut.jpg", "cut.jpg: the JPEG has no end marker"),
        (Image.open(tmp_path / "cut.jpg"), "cut.jpg: the picture breaks off before its end"),
        (tmp_path / "none.jpg", "none.jpg: cannot read"),
        (np.zeros((64, 64, 3)), "expected uint8 pixels, found float64"),
        (np.zeros((64, 64, 2), np.uint8), "expected (H, W, 3) pixels, found (64, 64, 2)"),
    ):
        with pytest.raises(fg.FaceguideError) as caught:
            fg.align(photo)
        assert text in str(caught.value)
        assert "\n" not in str(caught.value)


def test_pixels_as_large_as_the_network_are_a_crop() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    for given in (crop, torch.from_numpy(crop), Image.fromarray(crop), fg.Face(crop)):
        (face,) = faces_of(given, 16)
        np.testing.assert_array_equal(face.crop, crop)
        assert is_single(given)
    many = [face.crop for face in faces_of([crop, (fg.Face(crop), crop)], 16)]
    assert len(many) == 3
    assert len(list(faces_of(np.stack([crop] * 4), 16))) == 4
    assert not is_single([crop])
    assert not is_single(crop[None])


def test_rows_and_batches_of_a_cache_are_faces(tmp_path: Path) -> None:
    build(tmp_path / "cache")
    cache = fg.open(tmp_path / "cache")
    rows = cache.select()[:6]
    found = list(faces_of(cache[rows], 16))
    assert [face.name for face in found] == cache.texts("key", rows)
    known = cache.read(rows, ["known"])["known"]
    assert [face.visibility is not None for face in found] == known.tolist()
    np.testing.assert_array_equal(found[2].landmarks, cache[int(rows[2])]["landmarks"] * 16)
    stream = fg.Stream(cache, rows, columns=("image", "visibility"), batch_size=6, shuffle=False)
    for batch in stream:
        assert not is_single(batch)
        for face, expected in zip(faces_of(batch, 16), found, strict=True):
            np.testing.assert_array_equal(face.crop, expected.crop)
            assert face.visibility is not None
            assert face.name.startswith("row ")
    failed = int(cache.select(status="no_face")[0])
    with pytest.raises(fg.FaceguideError, match=r"\.jpg: no face here \(no_face\); cache\.select"):
        list(faces_of(cache[failed], 16))
    with pytest.raises(fg.FaceguideError, match=r"row 3: .*column image"):
        list(faces_of({"row": 3}, 16))
    with pytest.raises(fg.FaceguideError, match="int is no face"):
        list(faces_of(3, 16))
