"""Values of masks as tools write them: read rightly, or refused by name, lossy files too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from faceguide.preprocess.masks.mask_files import MaskError, MaskSettings, read_mask

VISIBLE = MaskSettings("visible")
SIDE = 96
UPPER = np.zeros((SIDE, SIDE), np.uint8)  # the upper half is marked, with a round edge
UPPER[:40] = 1
cv2.circle(UPPER, (48, 40), 30, 1, -1)
EDGE = cv2.dilate(UPPER, np.ones((3, 3))) != cv2.erode(UPPER, np.ones((3, 3)))
SHARE = UPPER.mean()
LOSSLESS = {"webp": {"lossless": True}}


def save(folder: Path, values: np.ndarray, kind: str, quality: int | None = None) -> Path:
    path = folder / f"a.{kind}"
    options: dict[str, Any] = LOSSLESS.get(kind, {}) if quality is None else {"quality": quality}
    image = Image.fromarray(values)
    (image.convert("RGB") if kind == "webp" else image).save(path, **options)
    return path


BORDER = np.where(EDGE, 255, UPPER).astype(np.uint8)  # VOC: 255 = border
THREE = np.array([0, 38, 75, 220], np.uint8)[np.where(EDGE, 3, UPPER + (UPPER & (EDGE ^ 1)))]
READ = {
    "0 and 255, JPEG": (UPPER * 255, "jpg", 75),
    "0 and 255, JPEG that rings": (UPPER * 255, "jpg", 20),
    "0 and 255, lossy WebP": (UPPER * 255, "webp", 80),
    "0 and 1, JPEG": (UPPER, "jpg", 95),
    "0 and 1, lossless WebP": (UPPER, "webp", None),
    "blurred": (cv2.GaussianBlur(UPPER * 255, (0, 0), 9), "png", None),
    "blurred, JPEG": (cv2.GaussianBlur(UPPER * 255, (0, 0), 9), "jpg", 85),
    "made smaller": (cv2.resize(UPPER * 255, (40, 40), interpolation=cv2.INTER_AREA), "png", None),
    "made larger": (
        cv2.resize(UPPER * 255, (301, 301), interpolation=cv2.INTER_CUBIC),
        "png",
        None,
    ),
}
REFUSED = {
    "0, 1, 2, JPEG": (UPPER * 2, "jpg", 95, "largest value is [23] of 255.* JPEG smears; convert"),
    "0 and 1, JPEG that lost them": (UPPER, "jpg", 70, "largest value is 1 of 255"),
    "0 and 5, lossy WebP": (UPPER * 5, "webp", 90, "lossy WebP smears; convert the original"),
    "0, 1 and a border of 255": (BORDER, "png", None, r"class ids \(0, 1\) next to 255: name"),
    "0, 1 and a border, JPEG": (BORDER, "jpg", 90, r"next to 255: JPEG smears them; convert"),
    "1, 2 and 255 of nobody": (
        np.where(EDGE, 255, UPPER + 1).astype(np.uint8),
        "png",
        None,
        "1, 2",
    ),
    "0, 3, 65535": (UPPER.astype(np.uint16) * 3 + EDGE * np.uint16(65532), "png", None, "0, 3"),
    "grey label map": (UPPER * 75, "png", None, "most of what it marks is 75 of 255: name"),
    "grey label map of VOC's colours": (THREE, "png", None, r"marks is 75, 220|marks is 38, 75"),
    "per cent": (UPPER * 100, "bmp", None, "most of what it marks is 100 of 255"),
    "half a share twice": (UPPER.astype(np.float32) / 255, "tif", None, "largest value is 0.0039"),
}


@pytest.mark.parametrize("name", READ)
def test_masks_of_two_values_and_shades_are_read(tmp_path: Path, name: str) -> None:
    shares = read_mask(save(tmp_path, *READ[name]), VISIBLE)
    assert abs(shares.mean() - SHARE) < 0.02
    assert shares.min() >= 0
    assert shares.max() <= 1


@pytest.mark.parametrize("name", REFUSED)
def test_class_ids_are_never_taken_for_shades(tmp_path: Path, name: str) -> None:
    values, kind, quality, message = REFUSED[name]
    path = save(tmp_path, values, kind, quality)
    with pytest.raises(MaskError, match=message) as raised:
        read_mask(path, VISIBLE)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_named_classes_are_read_whatever_the_values_look_like(tmp_path: Path) -> None:
    for values, marked in ((BORDER, 1), (UPPER * 75, 75)):
        shares = read_mask(save(tmp_path, values, "png"), MaskSettings("visible", (marked,)))
        np.testing.assert_array_equal(shares, values == marked)


@pytest.mark.parametrize("quality", [10, 30, 50, 75, 85, 95, 100])
def test_thin_masks_survive_jpeg(tmp_path: Path, quality: int) -> None:
    """Frames of glasses: more pixels of ringing than of the mask itself."""
    frames = np.zeros((128, 160), np.uint8)
    for x in (45, 110):
        cv2.circle(frames, (x, 60), 25, 255, 2)
    cv2.line(frames, (0, 50), (159, 58), 255, 1)
    shares = read_mask(save(tmp_path, frames, "jpg", quality), VISIBLE)
    assert abs(shares.mean() - frames.mean() / 255) < 0.03


def test_one_mid_grey_is_half_a_share(tmp_path: Path) -> None:
    matte = np.full((SIDE, SIDE), 128, np.uint8)
    matte[:20] = 255
    assert read_mask(save(tmp_path, matte, "png"), VISIBLE).min() == pytest.approx(128 / 255)
