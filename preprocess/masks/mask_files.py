"""Mask files as visible shares."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from faceguide.core.faces.decode import upright
from faceguide.preprocess.masks.mask_values import FEW_SHADES, MaskError, shares_of

# Pillow's readers of other formats run programs or decode what no mask is stored in.
FORMATS = ("PNG", "BMP", "TIFF", "JPEG", "WEBP")
MAX_PIXELS = 2**26  # more than cameras make; a mask of so many takes a second or two

MaskClass = int | tuple[int, int, int]


@dataclass(frozen=True)
class MaskSettings:
    """What the values of mask files mean.

    Attributes:
        polarity: what a marked pixel is: one that is white, opaque or of a named class.
        classes: the class ids or colours of marked pixels; empty for masks of one class.
    """

    polarity: Literal["visible", "occluded"]
    classes: tuple[MaskClass, ...] = ()


def parse_class(text: str) -> MaskClass:
    """``"2"`` → 2, a class id; ``"0,128,0"`` → (0, 128, 0), a colour.

    Raises:
        MaskError: for anything else.
    """
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and 0 <= numbers[0] <= 65535:
        return numbers[0]
    if len(numbers) == 3 and all(0 <= number <= 255 for number in numbers):
        return numbers[0], numbers[1], numbers[2]
    raise MaskError(f"invalid class {text!r}; expected an id such as 2 or a colour such as 0,128,0")


def read_mask(path: Path, settings: MaskSettings) -> NDArray[np.float32]:
    """Read a mask file as visible shares.

    Without classes: black is 0 and white 1 for 1-bit, 8-bit, 16-bit and float grey, for colour
    images and palettes that hold only greys; files with no value above 1 are 0/1; the alpha
    channel is the mask where there is one, unless it is opaque everywhere over a grey image. A
    coloured palette with indices 0 and 1 marks index 1. Values that look like class ids, by
    their histogram, are refused. With classes: pixels with one of the ids (grey value or palette
    index) or colours are marked.

    Returns:
        (H, W) float32 in 0 … 1, 1 = visible.

    Raises:
        MaskError: one line that names the file and what to do.
    """
    try:
        image, lossy = _load(path)
        if not settings.classes:
            marked = _shares(image, lossy)
        elif lossy:
            raise MaskError(f"{lossy} smears class ids and colours; convert the original to PNG")
        else:
            marked = _classes(image, settings.classes)
    except MaskError as error:
        raise MaskError(f"{path}: {error}") from error.__cause__
    return marked if settings.polarity == "visible" else 1.0 - marked


def _load(path: Path) -> tuple[Image.Image, str]:
    """Decode within limits; also the name of the format when it is lossy, else ""."""
    try:
        with warnings.catch_warnings():
            # The size is checked below, with a limit of our own; odd metadata hides no pixel.
            warnings.simplefilter("ignore")
            # By its name, Pillow would map a plain TIFF that is stored turned, and read it wrongly.
            with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise MaskError(f"{width}×{height} pixels are too many; reduce it")
                if getattr(image, "n_frames", 1) != 1:
                    raise MaskError("holds several images, expected one; split it")
                return upright(image), _lossy(image, path)
    except MaskError:
        raise
    except Image.DecompressionBombError as error:
        raise MaskError(f"more than {MAX_PIXELS} pixels are too many; reduce it") from error
    except Exception as error:  # damaged files raise whatever the decoder stumbles on
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif isinstance(error, UnidentifiedImageError):
            reason = f"none of {', '.join(FORMATS)}"
        else:
            reason = " ".join(str(error).split()) or type(error).__name__
        raise MaskError(f"cannot be read ({reason}); re-encode it as PNG") from error


def _lossy(image: Image.Image, path: Path) -> str:
    if image.format == "TIFF" and "jpeg" in str(image.info.get("compression", "")):
        return "JPEG"
    if image.format != "WEBP":
        return "JPEG" if image.format == "JPEG" else ""
    with path.open("rb") as file:
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            if chunk[:4] in (b"VP8 ", b"VP8L"):
                return "lossy WebP" if chunk[:4] == b"VP8 " else ""
            file.seek(int.from_bytes(chunk[4:], "little") + 1 & ~1, os.SEEK_CUR)
    return ""


def _classes(image: Image.Image, classes: tuple[MaskClass, ...]) -> NDArray[np.float32]:
    ids: NDArray[np.generic] | None = None
    colours: list[NDArray[np.uint8]] = []
    marked = np.zeros((image.height, image.width), bool)
    for wanted in classes:
        if isinstance(wanted, int):
            ids = _ids(image) if ids is None else ids
            marked |= ids == wanted
        else:
            colours = colours or [np.asarray(band) for band in image.convert("RGB").split()]
            red, green, blue = (band == value for band, value in zip(colours, wanted, strict=True))
            marked |= red & green & blue
    return marked.astype(np.float32)


def _ids(image: Image.Image) -> NDArray[np.generic]:
    if image.mode in ("1", "L", "P", "I", "I;16", "I;16B"):
        return np.asarray(image)
    grey = _grey(image, tolerance=0)
    if grey is None:
        raise MaskError("holds colours, but --class names an id; name colours, as in 0,128,0")
    return grey


def _grey(image: Image.Image, tolerance: int) -> NDArray[np.uint8] | None:
    """The grey values of a colour image, None when its channels differ."""
    red, green, blue = (np.asarray(band) for band in image.convert("RGB").split())
    # Band by band: reducing over a last axis of three takes several times as long.
    spread = np.maximum(np.maximum(red, green), blue)
    spread -= np.minimum(np.minimum(red, green), blue)
    return green if spread.max() <= tolerance else None


def _shares(image: Image.Image, lossy: str) -> NDArray[np.float32]:
    mode = image.mode
    if mode == "1":
        return np.asarray(image).astype(np.float32)
    if mode == "L":
        return shares_of(np.asarray(image), 255, lossy)
    if mode in ("I", "I;16", "I;16B"):
        return shares_of(np.asarray(image), 65535, lossy)
    if mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0.0 and values.max() <= 1.0):
            raise MaskError("its floating-point values leave 0 … 1; scale them")
        if 0.0 < values.max() <= FEW_SHADES:
            raise MaskError(f"its largest value is {values.max():.4f} of 1; scale them")
        return values.astype(np.float32)
    if mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        alpha = np.asarray(rgba.getchannel("A"))
        # Paint programs add an alpha channel that says nothing to a black and white picture.
        grey = _grey(rgba, tolerance=0) if alpha.min() == 255 else None
        return shares_of(alpha if grey is None else grey, 255, lossy)
    if mode == "P":
        indices = np.asarray(image)
        grey = _grey(image, tolerance=0)
        return shares_of(indices if grey is None else grey, 255, lossy)
    if mode == "RGB":
        grey = _grey(image, tolerance=16 if lossy else 0)
        if grey is None:
            raise MaskError(
                "holds colours; name those of marked pixels with --class, as in --class 0,128,0"
            )
        return shares_of(grey, 255, lossy)
    raise MaskError(f"has the colour mode {mode}, expected grey, RGB, RGBA or a palette")
