"""Every kind of bad picture is refused by name; every good kind gives RGB uint8."""

from __future__ import annotations

import io
import pickle
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from faceguide.core.errors import FaceguideError
from faceguide.core.faces.decode import MAXIMUM_SCANS, DecodeError, decode
from faceguide.preprocess.masks.mask_files import MaskSettings, read_mask

WIDTH, HEIGHT = 48, 32


def photograph(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A smooth picture whose four corners and three channels all differ."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [x * 255 // width, y * 255 // height, 255 - x * 128 // width]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encoded(format: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    (picture or photograph()).save(stream, format, **options)
    return stream.getvalue()


def refusal(data: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    return caught.value.reason


def noise() -> Image.Image:
    """A picture that no format packs well, so that every byte of the file counts."""
    values = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3))
    return Image.fromarray(values.astype(np.uint8))


GOOD = {
    "jpeg": encoded("JPEG", quality=95),
    "progressive": encoded("JPEG", quality=95, progressive=True),
    "png": encoded("PNG"),
    "webp": encoded("WEBP", lossless=True),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
    "tiff": encoded("TIFF", compression="tiff_lzw"),
    "gif": encoded("GIF"),
}


@pytest.mark.parametrize("name", GOOD)
def test_formats_give_rgb(name: str) -> None:
    pixels = decode(GOOD[name])
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    tolerance = 12 if name == "gif" else 6 if name in ("jpeg", "progressive") else 0
    difference = pixels.astype(int) - np.asarray(photograph()).astype(int)
    assert np.abs(difference).mean() <= tolerance


WHOLE = {
    "jpeg": encoded("JPEG", noise()),
    "progressive": encoded("JPEG", noise(), progressive=True),
    "png": encoded("PNG", noise()),
    "webp": encoded("WEBP", noise()),
    "bmp": encoded("BMP", noise()),
    "ppm": encoded("PPM", noise()),
    "gif": encoded("GIF", noise()),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.98])
def test_truncated_pictures_are_refused_quietly(
    name: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    data = WHOLE[name]
    decode(data)
    assert refusal(data[: int(len(data) * share)]) == "truncated"
    assert capfd.readouterr().err == ""


def test_a_tiff_without_its_directory_is_refused() -> None:
    data = encoded("TIFF", noise(), compression="tiff_lzw")
    assert refusal(data[: len(data) // 2]) == "unreadable"


def with_thumbnail(data: bytes) -> bytes:
    """A segment in front of the picture's own data that holds a whole JPEG, end marker and all."""
    thumbnail = encoded("JPEG", photograph(16, 16))
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]


@pytest.mark.parametrize("name", ["jpeg", "progressive"])
@pytest.mark.parametrize("wrap", [bytes, with_thumbnail])
@pytest.mark.parametrize("lost", [2, 60])
@pytest.mark.parametrize("tail", [b"", bytes(5000)])
def test_a_jpeg_without_its_end_is_truncated(
    name: str, wrap: Callable[[bytes], bytes], lost: int, tail: bytes
) -> None:
    # Zeros in place of the end are what a copy leaves that broke off: OpenCV and Pillow both
    # take that for a picture with a grey end.
    whole = wrap(WHOLE[name])
    assert decode(whole).shape == (HEIGHT, WIDTH, 3)
    assert refusal(whole[:-lost] + tail) == "truncated"


def test_a_cmyk_jpeg_without_its_end_is_truncated() -> None:
    data = encoded("JPEG", noise().convert("CMYK"))
    assert refusal(data[:-60] + bytes(5000)) == "truncated"


def test_data_after_the_end_of_a_jpeg_is_no_fault() -> None:
    trailer = b"\xff\xda" * 500 + bytes(100)
    for name in ("jpeg", "progressive"):
        assert np.array_equal(decode(GOOD[name] + trailer), decode(GOOD[name]))


def test_a_jpeg_of_countless_scans_is_refused() -> None:
    data = GOOD["progressive"]
    last = data.rfind(b"\xff\xda")
    data = data[:-2] + data[last:-2] * MAXIMUM_SCANS + b"\xff\xd9"
    with pytest.raises(DecodeError, match=f"scans, at most {MAXIMUM_SCANS}"):
        decode(data)


def test_no_bytes() -> None:
    with pytest.raises(DecodeError, match="the file is empty") as caught:
        decode(b"")
    assert caught.value.reason == "empty"


@pytest.mark.parametrize("data", [b"hello, world\n" * 20, encoded("EPS"), b"\0"])
def test_other_files_are_no_images(data: bytes) -> None:
    with pytest.raises(DecodeError, match="no picture format begins with") as caught:
        decode(data)
    assert caught.value.reason == "not_an_image"


@pytest.mark.parametrize("data", [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0", b"GIF89a", b"II*\0"])
def test_only_a_signature(data: bytes) -> None:
    assert refusal(data) == "unreadable"


@pytest.mark.parametrize("side", [1, 15])
def test_small_pictures(side: int) -> None:
    with pytest.raises(DecodeError, match=f"{side}×40 pixels, each side needs at least 16") as e:
        decode(encoded("PNG", photograph(side, 40)))
    assert e.value.reason == "too_small"
    assert decode(encoded("PNG", photograph(16, 16))).shape == (16, 16, 3)


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(GOOD["jpeg"])
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def bmp(width: int, height: int) -> bytes:
    return GOOD["bmp"][:18] + struct.pack("<ii", width, height) + GOOD["bmp"][26:]


def gif(width: int, height: int) -> bytes:
    return GOOD["gif"][:6] + struct.pack("<HH", width, height) + GOOD["gif"][10:]


def webp(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + GOOD["webp"][12:]
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def ppm(width: int, height: int) -> bytes:
    return f"P6 {width} {height} 255\n".encode() + bytes(1000)


@pytest.mark.parametrize("bomb", [png, jpeg, bmp, gif, ppm])
def test_bombs_are_refused_undecoded(bomb: Callable[[int, int], bytes]) -> None:
    data = bomb(30_000, 30_000)
    tracemalloc.start()
    begin = time.perf_counter()
    assert refusal(data) == "too_large"
    assert time.perf_counter() - begin < 1
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_a_webp_whose_canvas_is_not_its_picture() -> None:
    assert refusal(webp(16_000, 16_000)) in ("too_large", "unreadable")


def test_the_limit_is_the_callers() -> None:
    with pytest.raises(DecodeError, match="48×32 pixels, at most 1000 are decoded"):
        decode(GOOD["png"], maximum_pixels=1000)
    with pytest.raises(DecodeError, match="at most 1000"):
        decode(np.asarray(photograph()), maximum_pixels=1000)


@pytest.mark.parametrize("extension", [".png", ".pgm", ".tiff"])
def test_16_bit_grey_is_scaled(extension: str) -> None:
    grey = np.linspace(0, 65535, WIDTH * HEIGHT).astype(np.uint16).reshape(HEIGHT, WIDTH)
    pixels = decode(cv2.imencode(extension, grey)[1].tobytes())
    assert np.array_equal(pixels, np.repeat((grey >> 8)[:, :, None], 3, axis=2))


@pytest.mark.parametrize("extension", [".png", ".ppm", ".tiff"])
def test_16_bit_colour_is_scaled(extension: str) -> None:
    colour = np.asarray(photograph()).astype(np.uint16) * 257
    pixels = decode(cv2.imencode(extension, colour[:, :, ::-1])[1].tobytes())
    assert np.array_equal(pixels, np.asarray(photograph()))


def test_32_bit_values_are_refused() -> None:
    with pytest.raises(DecodeError, match="32-bit values of unknown range"):
        decode(encoded("TIFF", photograph().convert("F")))


def test_cmyk() -> None:
    pixels = decode(encoded("JPEG", photograph().convert("CMYK"), quality=95))
    assert np.abs(pixels.astype(int) - np.asarray(photograph()).astype(int)).mean() < 6


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_grey_and_palette(mode: str) -> None:
    picture = photograph().convert(mode)
    assert np.array_equal(decode(encoded("PNG", picture)), np.asarray(picture.convert("RGB")))


def test_several_pictures_in_one_jpeg() -> None:
    data = encoded("MPO", quality=95, save_all=True, append_images=[noise()])
    assert np.abs(decode(data).astype(int) - np.asarray(photograph()).astype(int)).mean() < 6


def test_grey_jpeg() -> None:
    pixels = decode(encoded("JPEG", photograph().convert("L"), quality=95))
    assert np.array_equal(pixels[:, :, 0], pixels[:, :, 2])
    expected = np.asarray(photograph().convert("L")).astype(int)
    assert np.abs(pixels[:, :, 0] - expected).mean() < 3


def test_transparency_is_dropped() -> None:
    picture = photograph()
    picture.putalpha(Image.new("L", picture.size, 0))
    assert np.array_equal(decode(encoded("PNG", picture)), np.asarray(photograph()))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(format: str) -> None:
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    data = encoded(format, frames[0], save_all=True, append_images=frames[1:], **options)
    assert np.array_equal(decode(data), np.asarray(frames[0]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(format: str, orientation: int) -> None:
    # How EXIF 2.3, tag 0x0112, defines where the first row and the first column are.
    upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: a.transpose(1, 0, 2)[::-1],
    }[orientation](np.asarray(photograph()).astype(int))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 95} if format == "JPEG" else {}
    options |= {"lossless": True} if format == "WEBP" else {}
    pixels = decode(encoded(format, exif=exif, **options))
    assert pixels.shape == upright.shape
    assert np.abs(pixels - upright).mean() < (6 if format == "JPEG" else 0.1)


def test_pixels_pass_through() -> None:
    rgb = np.asarray(photograph())
    assert np.array_equal(decode(rgb), rgb)
    assert decode(rgb).flags.writeable
    assert np.array_equal(decode(rgb[:, ::-1]), rgb[:, ::-1])
    assert np.array_equal(decode(rgb[:, :, 0])[:, :, 2], rgb[:, :, 0])
    assert np.array_equal(decode(np.dstack([rgb, rgb[:, :, :1]])), rgb)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((20, 20, 3), np.float32), "expected uint8 pixels, found float32"),
        (np.zeros((3, 20, 20), np.uint8), r"expected \(H, W, 3\) pixels, found \(3, 20, 20\)"),
        (np.zeros(400, np.uint8), r"found \(400,\)"),
        (np.zeros((20, 8, 3), np.uint8), "8×20 pixels"),
    ],
)
def test_wrong_pixels(pixels: np.ndarray, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        decode(pixels)


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(DecodeError("too_small", "3×3 pixels")))
    assert (error.reason, str(error)) == ("too_small", "3×3 pixels")
    assert isinstance(error, FaceguideError)


def segment(payload: bytes, marker: int = 0xE1) -> bytes:
    """One segment of a JPEG's header."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def exif(value: int = 6, order: str = "<", kind: int = 3, at: int = 8, second: int = 0) -> bytes:
    """A TIFF structure of one orientation: 1 BYTE, 3 SHORT, 4 LONG; `second` is the thumbnail's."""
    number = {1: bytes([value, 0, 0, 0]), 3: struct.pack(order + "HH", value, 0)}.get(
        kind, struct.pack(order + "I", value)
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, at) + bytes(at - 8)
    entry = struct.pack(order + "HHHI", 1, 0x112, kind, 1) + number
    if not second:
        return head + entry + bytes(4)
    return head + entry + struct.pack(order + "I", at + 18) + exif(second, order)[8:]


def app1(structure: bytes) -> bytes:
    return segment(b"Exif\0\0" + structure)


XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'%b/>"
PLAIN_XMP, TURNED_XMP = segment(XMP % b""), segment(XMP % b' tiff:Orientation="6"')


def stored(picture: Image.Image) -> dict[str, bytes]:
    """One picture, stored turned in every way."""

    def jpeg(*segments: bytes, jfif: int = 0, **options: Any) -> bytes:
        data = encoded("JPEG", picture, quality=95, **options)
        return data[: 2 + jfif] + b"".join(segments) + data[2 + jfif :]

    return {
        **{f"value {value}": jpeg(app1(exif(value))) for value in range(10)},
        "big-endian": jpeg(app1(exif(order=">"))),
        "LONG": jpeg(app1(exif(kind=4))),
        "big-endian LONG": jpeg(app1(exif(order=">", kind=4))),
        "BYTE": jpeg(app1(exif(kind=1))),
        "big-endian BYTE": jpeg(app1(exif(order=">", kind=1))),
        "late directory": jpeg(app1(exif(at=20))),
        "behind XMP": jpeg(PLAIN_XMP, app1(exif())),
        "behind JFIF and XMP": jpeg(PLAIN_XMP, app1(exif()), jfif=18),
        "behind APP2": jpeg(segment(b"x" * 50, 0xE2), app1(exif()), jfif=18),
        "behind three others": jpeg(PLAIN_XMP, segment(b"y" * 9, 0xED), PLAIN_XMP, app1(exif(8))),
        "two, the second turned": jpeg(app1(exif(1)), app1(exif(6))),
        "two, the first turned": jpeg(app1(exif(6)), app1(exif(1))),
        "in XMP only": jpeg(TURNED_XMP),
        "in XMP against EXIF": jpeg(TURNED_XMP, app1(exif(3))),
        "cut off": jpeg(app1(exif()[:16])),
        "of the thumbnail": jpeg(app1(exif(1, second=6))),
        "progressive": jpeg(PLAIN_XMP, app1(exif(5)), progressive=True),
        "PNG": encoded("PNG", picture, exif=exif(6)),
        "WebP": encoded("WEBP", picture, lossless=True, exif=exif(7)),
        "WebP with XMP": encoded("WEBP", picture, lossless=True, xmp=TURNED_XMP[33:]),
        "TIFF": encoded("TIFF", picture, tiffinfo={0x112: 5}),
    }


PHOTOGRAPHS = {
    **stored(photograph()),
    "grey": stored(photograph().convert("L"))["behind XMP"],
    "CMYK": encoded("JPEG", photograph().convert("CMYK"), exif=exif(8)),
}
_SHAPE = np.zeros((HEIGHT, WIDTH), np.uint8)
_SHAPE[:16, :32] = 255
MASKS = stored(Image.fromarray(_SHAPE))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # Pillow's, of the picture to compare with
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_is_turned_as_pillow_turns_it(name: str) -> None:
    with Image.open(io.BytesIO(PHOTOGRAPHS[name])) as picture:
        upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    pixels = decode(PHOTOGRAPHS[name])
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() <= 1
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_turned_as_its_photograph(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"  # the reader asks the content, not the name
    path.write_bytes(MASKS[name])
    shares = read_mask(path, MaskSettings("visible"))
    np.testing.assert_allclose(shares, decode(MASKS[name])[..., 0] / 255, atol=0.02)


def test_damaged_exif_is_no_reason_to_lose_the_picture() -> None:
    good = stored(photograph())["value 1"]
    at = good.index(b"Exif\0\0") + 6
    for change in (b"garbage!", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\0"):
        changed = good[:at] + change + good[at + 8 :]
        assert np.array_equal(decode(changed), decode(good))


def test_real_photographs_decode_as_opencv_does(shared: Path) -> None:
    photographs = sorted((shared / "data/deepface_dev").rglob("*.jpg"))[:10]
    assert photographs
    for path in photographs:
        expected = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        assert np.array_equal(decode(path.read_bytes()), expected), path.name


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(GOOD)),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8
    ),
    keep=st.floats(0, 1),
)
def test_damaged_pictures_decode_or_are_refused(
    name: str, changes: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(GOOD[name])
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        pixels = decode(bytes(data[: max(1, int(keep * len(data)))]), maximum_pixels=1_000_000)
    except DecodeError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


@settings(max_examples=300, deadline=None)
@given(
    signature=st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBP", b"BM", b"P6 ", b"II*\0"]
    ),
    body=st.binary(max_size=200),
)
def test_any_bytes_are_refused_or_decode(signature: bytes, body: bytes) -> None:
    try:
        pixels = decode(signature + body, maximum_pixels=1_000_000)
    except DecodeError:
        return
    assert pixels.shape[2] == 3
