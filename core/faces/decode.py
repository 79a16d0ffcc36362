"""Encoded bytes, which may come from anywhere, to RGB pixels or one line that says why not.

The header is read first, so a picture that would fill the memory is refused before any pixel is
decoded. Only common picture formats are tried: a file cannot reach a decoder that starts other
programs. Colour profiles are not applied.
"""

from __future__ import annotations

import io
import warnings

import cv2
import numpy as np
from numpy.typing import NDArray

# Importing a plugin registers its format; Image.open then need not load every plugin there is.
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
    features,
)

from faceguide.core.errors import ReasonedError

MINIMUM_SIDE = 16  # pixels; no detector finds a face in less
# Every scan of a progressive JPEG visits the whole picture; real files have about ten.
MAXIMUM_SCANS = 100

FORMATS = tuple(
    plugin.format
    for plugin in (
        JpegImagePlugin.JpegImageFile,
        PngImagePlugin.PngImageFile,
        BmpImagePlugin.BmpImageFile,
        WebPImagePlugin.WebPImageFile,
        PpmImagePlugin.PpmImageFile,
        TiffImagePlugin.TiffImageFile,
        GifImagePlugin.GifImageFile,
    )
)
# Pillow reads AVIF from 11.3 on, where it was built with it.
if "avif" in features.modules and features.check("avif"):
    from PIL import AvifImagePlugin

    FORMATS += (AvifImagePlugin.AvifImageFile.format,)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
_ORIENTATION = 0x0112  # EXIF tag
# Orientations 2 to 4, as OpenCV and as Pillow call them; 5 to 8 are 1 to 4 after a transposition.
_FLIPS = {
    1: (1, Image.Transpose.FLIP_LEFT_RIGHT),
    2: (-1, Image.Transpose.ROTATE_180),
    3: (0, Image.Transpose.FLIP_TOP_BOTTOM),
}


class DecodeError(ReasonedError):
    """Bytes that give no usable picture; `decode` lists the reasons."""


def decode(
    data: bytes | NDArray[np.uint8] | Image.Image, *, maximum_pixels: int = 100_000_000
) -> NDArray[np.uint8]:
    """Decode one picture.

    Grey and palette pictures become RGB, 16-bit values keep their high byte, CMYK is converted
    without a profile, transparency is dropped (the colours beneath it are kept). The picture is
    turned as `orientation` says. Of an animation or one with several pages, the first is taken.

    A JPEG that lost something in its middle, its end marker being in place, cannot be told from
    content: the decoder fills the gap and continues.

    Args:
        data: the encoded bytes, a picture that Pillow opened, or pixels that are decoded
            already: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.
        maximum_pixels: width × height above which a picture is refused undecoded.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and writable.

    Raises:
        DecodeError: with `reason` "empty" (no bytes), "not_an_image", "truncated",
            "unreadable" (damaged or of an unsupported kind), "too_large" (more than
            `maximum_pixels`) or "too_small" (a side below 16 pixels).
    """
    if isinstance(data, np.ndarray):
        return _from_pixels(data, maximum_pixels)
    if isinstance(data, Image.Image):
        _check_size(data.width, data.height, maximum_pixels)
        try:
            return _by_pillow(data)
        except OSError as error:  # the file behind it, which Pillow reads only now, is damaged
            raise _refusal(b"", error) from error
    if not data:
        raise DecodeError("empty", "the file is empty")
    stream = io.BytesIO(data)
    try:
        # Pillow's warnings (large picture, odd metadata) are settled by the checks here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as picture:
                _check_size(picture.width, picture.height, maximum_pixels)
                if picture.format in ("JPEG", "MPO"):
                    _check_jpeg(data, stream.tell(), picture)
                if picture.format == "JPEG" and picture.mode in ("L", "RGB"):
                    pixels = _fast_jpeg(data, picture)
                    if pixels is not None:
                        return pixels
                return _by_pillow(picture)
    except DecodeError:
        raise
    except Exception as error:  # damaged files raise almost anything in the decoders
        raise _refusal(data, error) from error


def orientation(picture: Image.Image) -> int:
    """How a picture is stored, 1 (upright) to 8, from its EXIF or else its XMP; 1 where neither
    says it in a way that Pillow takes."""
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata is no reason to lose the pixels
        return 1
    return int(value) if value in range(1, 9) else 1


def upright(picture: Image.Image) -> Image.Image:
    """The loaded picture, turned as `orientation` says. Photographs and masks both go this way."""
    picture.load()  # PNG may carry its EXIF after the pixels; TIFF is turned by this
    transposed, flip = divmod(orientation(picture) - 1, 4)
    if transposed:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    return picture.transpose(_FLIPS[flip][1]) if flip else picture


def _check_size(width: int, height: int, maximum_pixels: int) -> None:
    if width * height > maximum_pixels:
        raise DecodeError(
            "too_large",
            f"{width}×{height} pixels, at most {maximum_pixels} are decoded; reduce the picture",
        )
    if min(width, height) < MINIMUM_SIDE:
        raise DecodeError(
            "too_small", f"{width}×{height} pixels, each side needs at least {MINIMUM_SIDE}"
        )


def _check_jpeg(data: bytes, start: int, picture: Image.Image) -> None:
    """Refuse a JPEG without its end, which decoders complete with grey, or with endless scans.

    `start` is the byte after the header of the first scan: from there on, coded data cannot hold
    an end marker by chance, as it can in a thumbnail or in whatever was appended to the file.
    """
    end = data.find(b"\xff\xd9", start)
    if end < 0:
        raise DecodeError("truncated", "the JPEG has no end marker; part of it is missing")
    if picture.info.get("progressive"):
        scans = 1 + data.count(b"\xff\xda", start, end)
        if scans > MAXIMUM_SCANS:
            raise DecodeError("unreadable", f"{scans} scans, at most {MAXIMUM_SCANS} are decoded")


def _fast_jpeg(data: bytes, picture: Image.Image) -> NDArray[np.uint8] | None:
    """Decode by OpenCV, which is faster; None leaves the decision to Pillow."""
    # OpenCV reads EXIF from the first APP1 segment only, and other types of numbers than Pillow.
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None or pixels.shape != (picture.height, picture.width, 3):
        return None
    transposed, flip = divmod(orientation(picture) - 1, 4)
    if transposed:
        pixels = cv2.transpose(pixels)
    if flip:
        pixels = cv2.flip(pixels, _FLIPS[flip][0])
    return np.asarray(pixels, np.uint8)


def _by_pillow(picture: Image.Image) -> NDArray[np.uint8]:
    picture = upright(picture)
    # Pillow clips 16-bit grey on conversion instead of scaling it.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        grey = (np.asarray(picture).astype(np.int64) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise DecodeError("unreadable", "32-bit values of unknown range; save as 8 or 16 bits")
    return np.array(picture.convert("RGB"))


def _from_pixels(pixels: NDArray[np.uint8], maximum_pixels: int) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise DecodeError("unreadable", f"expected uint8 pixels, found {pixels.dtype}")
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise DecodeError("unreadable", f"expected (H, W, 3) pixels, found {pixels.shape}")
    height, width = pixels.shape[:2]
    _check_size(width, height, maximum_pixels)
    if channels == 1:
        return np.repeat(pixels.reshape(height, width, 1), 3, axis=2)
    return np.array(pixels[:, :, :3], order="C")


def _refusal(data: bytes, error: Exception) -> DecodeError:
    """What a decoder's own error means."""
    if isinstance(error, Image.DecompressionBombError):
        return DecodeError("too_large", f"refused undecoded: {error}")
    # The WebP decoder refuses an incomplete file as a whole; its length is in its first bytes.
    cut_webp = (
        data[:4] == b"RIFF"
        and data[8:12] == b"WEBP"
        and int.from_bytes(data[4:8], "little") + 8 > len(data)
    )
    if cut_webp or "truncated" in str(error).lower():
        return DecodeError("truncated", "the picture breaks off before its end")
    if not isinstance(error, UnidentifiedImageError):
        kind = type(error).__name__
        return DecodeError("unreadable", f"damaged or unsupported picture ({kind})")
    if data.startswith(_SIGNATURES):
        return DecodeError("unreadable", "the picture's header is damaged or cut off")
    return DecodeError("not_an_image", f"no picture format begins with {data[:8]!r}")
