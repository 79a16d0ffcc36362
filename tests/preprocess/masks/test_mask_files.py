"""Masks as users store them: every kind of file, every layout, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from faceguide.preprocess.masks.mask_files import MaskError, MaskSettings, parse_class, read_mask
from faceguide.preprocess.masks.mask_finder import MaskFinder

VISIBLE, OCCLUDED = MaskSettings("visible"), MaskSettings("occluded")
HALF = np.zeros((6, 4), bool)
HALF[:, 2:] = True
HALF[0] = False


def save(path: Path, values: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def rgba(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([colour, alpha]).astype(np.uint8)


# Reading -------------------------------------------------------------------------------------

GREY = (HALF * 255).astype(np.uint8)
PHOTO = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
BINARY = {
    "1 bit.png": (GREY, "1"),
    "0 and 255.png": (GREY, None),
    "0 and 255.bmp": (GREY, None),
    "0 and 255.tif": (GREY, None),
    "0 and 1.png": (HALF.astype(np.uint8), None),
    "16 bit.png": (HALF.astype(np.uint16) * 65535, None),
    "16 bit 0 and 255.png": (HALF.astype(np.uint16) * 255, None),
    "16 bit 0 and 1.tiff": (HALF.astype(np.uint16), None),
    "float.tif": (HALF.astype(np.float32), None),
    "rgb.png": (np.repeat(GREY[..., None], 3, axis=2), None),
    "alpha.png": (rgba(PHOTO, GREY), None),
    "alpha.webp": (rgba(PHOTO, GREY), None),
    "grey and alpha.png": (np.dstack([PHOTO[..., 0], GREY]), None),
    "opaque.png": (rgba(np.repeat(GREY[..., None], 3, axis=2), np.full((6, 4), 255)), None),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_masks_in_every_dress(tmp_path: Path, name: str) -> None:
    values, mode = BINARY[name]
    options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    path = save(tmp_path / name, values, mode, **options)
    shares = read_mask(path, VISIBLE)
    assert shares.dtype == np.float32
    np.testing.assert_array_equal(shares, HALF)
    np.testing.assert_array_equal(read_mask(path, OCCLUDED), ~HALF)


def test_an_opaque_photograph_is_all_marked(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", rgba(PHOTO, np.full((6, 4), 255)))
    np.testing.assert_array_equal(read_mask(path, VISIBLE), np.ones((6, 4)))


@pytest.mark.parametrize(("kind", "full"), [(np.uint8, 255), (np.uint16, 65535)])
def test_continuous_masks(tmp_path: Path, kind: type, full: int) -> None:
    values = np.linspace(0, full, 24).reshape(6, 4).astype(kind)
    path = save(tmp_path / "a.png", values)
    np.testing.assert_allclose(read_mask(path, VISIBLE), values / full, atol=1e-7)
    np.testing.assert_allclose(read_mask(path, OCCLUDED), 1 - values / full, atol=1e-7)


def test_a_grey_jpeg_is_read_as_shades(tmp_path: Path) -> None:
    values = np.zeros((16, 16), np.uint8)
    values[:, 8:] = 255
    for name, mode in (("a.jpg", None), ("b.jpg", "RGB")):
        path = save(tmp_path / name, values, mode, quality=95)
        np.testing.assert_allclose(read_mask(path, VISIBLE), values / 255.0, atol=0.02)
    # Its ringing around an edge is no set of class ids, but a picture that holds nothing else is.
    rings = np.zeros((64, 64), np.uint8)
    rings[20:44, 20:44] = 255
    path = save(tmp_path / "c.jpg", rings, quality=30)
    assert 1 < len(np.unique(np.asarray(Image.open(path))[:20])) < 32
    np.testing.assert_allclose(read_mask(path, VISIBLE).mean(), rings.mean() / 255, atol=0.02)


CLASSES = np.array([[0, 1], [2, 2]], np.uint8)
COLOURS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0)], np.uint8)


def palette_file(path: Path, colours: np.ndarray, values: np.ndarray = CLASSES) -> Path:
    image = Image.fromarray(values).convert("L")
    image.putpalette(colours.reshape(-1).tolist())
    assert image.mode == "P"
    image.save(path)
    return path


def test_a_palette_with_two_entries_needs_no_class(tmp_path: Path) -> None:
    path = palette_file(tmp_path / "a.png", COLOURS, CLASSES.clip(0, 1))
    np.testing.assert_array_equal(read_mask(path, VISIBLE), [[0, 1], [1, 1]])
    white_first = np.array([(255, 255, 255), (0, 0, 0)], np.uint8)
    path = palette_file(tmp_path / "b.png", white_first, CLASSES.clip(0, 1))
    np.testing.assert_array_equal(read_mask(path, VISIBLE), [[1, 0], [0, 0]])


@pytest.mark.parametrize("polarity", ["visible", "occluded"])
def test_classes_by_id_and_by_colour(tmp_path: Path, polarity: Any) -> None:
    palette = palette_file(tmp_path / "palette.png", COLOURS)
    ids = save(tmp_path / "ids.png", CLASSES)
    wide = save(tmp_path / "wide.png", CLASSES.astype(np.uint16))
    grey_rgb = save(tmp_path / "grey.png", np.repeat(CLASSES[..., None], 3, axis=2))
    colours = save(tmp_path / "colours.png", COLOURS[CLASSES])
    expected = CLASSES == 2
    if polarity == "occluded":
        expected = ~expected
    by_id = MaskSettings(polarity, (2,))
    for path in (palette, ids, wide, grey_rgb):
        np.testing.assert_array_equal(read_mask(path, by_id), expected)
    by_colour = MaskSettings(polarity, ((0, 128, 0),))
    for path in (palette, colours):
        np.testing.assert_array_equal(read_mask(path, by_colour), expected)


def test_classes_add_up(tmp_path: Path) -> None:
    path = palette_file(tmp_path / "a.png", COLOURS)
    wanted = MaskSettings("visible", ((128, 0, 0), 2, 7, (9, 9, 9)))
    np.testing.assert_array_equal(read_mask(path, wanted), CLASSES > 0)


def test_a_rotated_mask_is_turned_like_its_photograph(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise
    path = save(tmp_path / "a.png", GREY, exif=exif)
    np.testing.assert_array_equal(read_mask(path, VISIBLE), np.rot90(HALF, -1))


def test_real_masks_of_maskedface_seg(shared: Path) -> None:
    root = shared / "data" / "maskedface_seg_dev"
    finder = MaskFinder(root / "masks")
    images = sorted((root / "images").iterdir())
    found = [finder.find(f"images/{image.name}") for image in images]
    assert set(found) == set(finder.walk())
    visible = MaskSettings("visible", ((128, 0, 0),))
    mask = MaskSettings("visible", ((0, 128, 0),))
    for path in found[:3]:
        assert path is not None
        face, cloth = read_mask(path, visible), read_mask(path, mask)
        assert face.shape == (1024, 1024)
        assert 0.05 < face.mean() < 0.5
        assert 0.02 < cloth.mean() < 0.5
        assert not (face * cloth).any()
    with pytest.raises(MaskError, match=r"2 of 255"):
        read_mask(found[0], VISIBLE)


# Refusals ------------------------------------------------------------------------------------

ID, COLOUR = MaskSettings("visible", (1,)), MaskSettings("visible", ((1, 2, 3),))
REFUSED = [
    ("a.png", PHOTO, {}, VISIBLE, r"holds colours; name those of marked pixels with --class"),
    ("a.png", PHOTO, {}, ID, r"holds colours, but --class names an id"),
    ("a.jpg", PHOTO, {}, COLOUR, r"JPEG smears class ids and colours"),
    ("a.png", CLASSES, {}, VISIBLE, r"2 of 255"),
    ("a.png", CLASSES.astype(np.uint16) * 90, {}, VISIBLE, r"largest value is 180 of 65535"),
    ("a.tif", HALF.astype(np.float32) * 2, {}, VISIBLE, r"leave 0 … 1"),
    ("a.tif", HALF.astype(np.float32) * np.nan, {}, VISIBLE, r"leave 0 … 1"),
    ("a.tif", HALF.astype(np.int32) * -5, {}, VISIBLE, r"values from -5 to 0, expected"),
    ("a.tif", rgba(PHOTO, GREY), {"mode": "CMYK"}, VISIBLE, r"colour mode CMYK"),
]


@pytest.mark.parametrize(("name", "values", "options", "meaning", "message"), REFUSED)
def test_refusals(
    tmp_path: Path, name: str, values: np.ndarray, options: Any, meaning: Any, message: str
) -> None:
    path = save(tmp_path / name, values, **options)
    with pytest.raises(MaskError, match=message) as raised:
        read_mask(path, meaning)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.png", np.tile(GREY, (50, 50))).read_bytes()
    for name, content, message in (
        ("empty.png", b"", r"none of PNG, BMP"),
        ("text.png", b"not an image\n", r"none of PNG, BMP"),
        ("cut.png", whole[: len(whole) // 2], r"truncated"),
        ("postscript.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", r"none of PNG"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(MaskError, match=message) as raised:
            read_mask(path, VISIBLE)
        assert "\n" not in str(raised.value)
    with pytest.raises(MaskError, match=r"gone\.png: .*No such file"):
        read_mask(tmp_path / "gone.png", VISIBLE)
    with pytest.raises(MaskError, match=r"Is a directory"):
        read_mask(tmp_path, VISIBLE)


@pytest.mark.parametrize("side", [12_000, 30_000])
def test_huge_images_are_refused_before_decoding(tmp_path: Path, side: int) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(name + data))

    # A header alone: whoever decodes finds no pixels and says something else.
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path = tmp_path / "huge.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(MaskError, match=r"pixels are too many; reduce it"):
        read_mask(path, VISIBLE)


def test_several_images_in_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY)])
    with pytest.raises(MaskError, match="several images"):
        read_mask(path, VISIBLE)


@given(garbage=st.binary(max_size=200), place=st.integers(0, 400))
def test_damaged_files_are_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, place: int
) -> None:
    """Whatever bytes a file holds, the answer is a mask or one line."""
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    content = save(path, np.tile(GREY, (4, 4))).read_bytes()
    path.write_bytes(content[:place] + garbage + content[place + len(garbage) :])
    line = ""
    try:
        shares = read_mask(path, VISIBLE)
        assert 0.0 <= shares.min() <= shares.max() <= 1.0
    except MaskError as error:
        line = str(error)
    assert "\n" not in line


@pytest.mark.parametrize(("text", "value"), [("2", 2), ("0,128,0", (0, 128, 0)), ("0", 0)])
def test_parse_class(text: str, value: Any) -> None:
    assert parse_class(text) == value


@pytest.mark.parametrize("text", ["", "a", "-1", "1,2", "1,2,256", "1,2,3,4", "0x10", "65536"])
def test_parse_class_refuses(text: str) -> None:
    with pytest.raises(MaskError, match=r"invalid class"):
        parse_class(text)


# Finding -------------------------------------------------------------------------------------


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


@pytest.mark.parametrize(
    ("mask", "key"),
    [
        ("NAME_mask.png", "kept_faces/NAME.jpeg"),
        ("NAME_gt.png", "images/NAME.jpg"),
        ("identity/NAME.png", "identity/NAME.jpg"),
        ("deep/er/NAME-mask.tif", "deep/er/NAME.jpg"),
        ("NAME.webp", "NAME.png"),
        ("id/a.b c_mask.bmp", "id/a.b c.jpg"),
        ("Ärger ü\n_mask.png", "x/Ärger ü\n.png"),
        ("id/NAME.tiff", "id/NAME"),
    ],
)
def test_layouts(tmp_path: Path, mask: str, key: str) -> None:
    touch(tmp_path, mask, "id/NAMEX.png", "other/NAM.png")
    assert MaskFinder(tmp_path).find(key) == tmp_path / mask


def test_no_mask_is_none(tmp_path: Path) -> None:
    finder = MaskFinder(touch(tmp_path, "a_mask.png", "b.png/keep"))
    assert finder.find("id/b.jpg") is None  # a folder is no mask
    assert finder.find("id/aa.jpg") is None
    assert finder.find("id/" + "x" * 300 + ".jpg") is None
    assert finder.find("id/nul\0.jpg") is None


@pytest.mark.parametrize(
    ("one", "two"),
    [("a.png", "a_mask.png"), ("id/a.png", "a.png"), ("a_gt.png", "a_gt.tif")],
)
def test_two_candidates_are_ambiguous(tmp_path: Path, one: str, two: str) -> None:
    finder = MaskFinder(touch(tmp_path, one, two))
    with pytest.raises(MaskError, match=r"two masks for 'id/a.jpg'") as raised:
        finder.find("id/a.jpg")
    assert str(tmp_path / one) in str(raised.value)
    assert str(tmp_path / two) in str(raised.value)


def test_an_image_is_not_its_own_mask(tmp_path: Path) -> None:
    touch(tmp_path, "id/a.jpg", "id/a_mask.png", "id/b.jpg")
    finder = MaskFinder(tmp_path, source=tmp_path)
    assert finder.find("id/a.jpg") == tmp_path / "id/a_mask.png"
    assert finder.find("id/b.jpg") is None


@pytest.mark.parametrize("key", ["../a.jpg", "id/../../a.jpg", "/a.jpg", ""])
def test_keys_stay_inside_the_folder(tmp_path: Path, key: str) -> None:
    finder = MaskFinder(touch(tmp_path, "masks/x.png", "a.png") / "masks")
    with pytest.raises(MaskError, match="leads out of the folder of masks"):
        finder.find(key)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=r"gone: expected a folder of masks"):
        MaskFinder(tmp_path / "gone")


def test_walk_gives_every_mask_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "id/b_mask.TIF", "id/deep/c.webp", "readme.txt", "id/a.npy")
    (tmp_path / "id" / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone")
    found = list(MaskFinder(tmp_path).walk())
    assert len(found) == 3
    assert {path.name for path in found} == {"a.png", "b_mask.TIF", "c.webp"}


# The table -----------------------------------------------------------------------------------


def with_table(tmp_path: Path, text: str | bytes) -> MaskFinder:
    masks = touch(tmp_path / "masks", "one.png", "sub/two.png", "a_mask.png")
    table = tmp_path / "masks.csv"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    return MaskFinder(masks, table)


def test_a_table_decides_alone(tmp_path: Path) -> None:
    text = '\ufeffimage,more,mask\nid/a.jpg,1,one.png\n"x, y.jpg",2,sub/two.png\nb.jpg,3,one.png\n'
    finder = with_table(tmp_path, text)
    root = tmp_path / "masks"
    assert finder.find("id/a.jpg") == root / "one.png"
    assert finder.find("x, y.jpg") == root / "sub/two.png"
    assert finder.find("b.jpg") == root / "one.png"
    assert finder.find("a.jpg") is None  # a_mask.png is there, the table does not name it
    assert list(finder.walk()) == [root / "one.png", root / "sub/two.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,mask\na,b\n", r"expected a header with the columns image and mask"),
        ("", r"expected a header with the columns image and mask"),
        ("image,mask\na.jpg,../x.png\n", r"line 2: '../x.png' leads out"),
        ("image,mask\na.jpg,/x.png\n", r"line 2: '/x.png' leads out"),
        ("image,mask\na.jpg,one.png\na.jpg,two.png\n", r"line 3: 'a.jpg' has two masks"),
        ("image,mask\na.jpg\n", r"line 2: .* empty cell"),
    ],
)
def test_faults_of_a_table(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(MaskError, match=message) as raised:
        with_table(tmp_path, text)
    assert "masks.csv" in str(raised.value)


def test_a_mask_of_the_table_that_is_missing(tmp_path: Path) -> None:
    finder = with_table(tmp_path, "image,mask\na.jpg,gone.png\n")
    with pytest.raises(MaskError, match=r"gone\.png: .*'a.jpg'"):
        finder.find("a.jpg")
