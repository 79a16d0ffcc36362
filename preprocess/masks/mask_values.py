"""The values of a mask as visible shares, judged by their histogram: ids are no shades."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import FaceguideError

# Values up to this share of the full range are black or class ids, never shades that matter.
FEW_SHADES = 31 / 255

# A lossy format rings around edges, but not over areas as wide as this and as large as this share.
_FLAT = 9
_RINGING = 0.01
# Stray pixels change no visible share that anyone could notice.
_STRAY = 0.001
# So few greys are ids and no shades when they fill most of the grey and are wider than an edge.
_FEW_LEVELS = 8
_MOST = 0.8
_EDGE = 3


class MaskError(FaceguideError):
    """A mask that is missing, ambiguous or cannot be understood.

    Attributes:
        paths: the files that it is about, when several or when the text does not begin with one.
    """

    def __init__(self, text: str, *paths: str) -> None:
        super().__init__(text)
        self.paths = paths


def shares_of(values: NDArray[np.integer], full: int, lossy: str) -> NDArray[np.float32]:
    """Grey values as shares: 0/1 and 0/255 masks, antialiased and soft ones.

    Args:
        values: (H, W) whole numbers.
        full: the value of white, 255 or 65535.
        lossy: name of the format when it is lossy ("JPEG"), else "".

    Returns:
        (H, W) float32 in 0 … 1.

    Raises:
        MaskError: for values out of range, and for those that look like class ids.
    """
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > full:
        raise MaskError(f"holds values from {low} to {high}, expected 0 to {full}")
    if high <= 1 and not lossy:
        return values.astype(np.float32)
    pixels: NDArray[np.unsignedinteger]
    pixels = values.astype(np.uint8 if full == 255 else np.uint16, copy=False)
    counts = np.bincount(pixels.ravel(), minlength=full + 1)
    if high == 255 and counts[0] + counts[255] == pixels.size:  # 16 bits may hold these too
        return pixels.astype(np.float32) / 255.0
    if (
        lossy
        and high == 1
        and (_flat_counts(pixels, _FLAT, full)[:2] > _RINGING * pixels.size).all()
    ):
        return pixels.astype(np.float32)
    if high and high <= full * FEW_SHADES:
        raise MaskError(
            f"its largest value is {high} of {full}: "
            + (
                f"class ids or 0 and 1, which {lossy} smears; convert the original to PNG"
                if lossy
                else "name the marked ones with --class if these are class ids, scale them to "
                "the full range if they are shades"
            )
        )
    _refuse_ids_beside_white(pixels, counts, full, lossy)
    _refuse_grey_levels(pixels, counts, full)
    return pixels.astype(np.float32) / np.float32(full)


def _refuse_ids_beside_white(
    pixels: NDArray[np.unsignedinteger], counts: NDArray[np.int64], full: int, lossy: str
) -> None:
    """Ids such as 0 and 1 with a border of 255, as VOC's maps have."""
    few = int(full * FEW_SHADES) + 1
    ids = np.flatnonzero(counts[:few])
    marked = counts[few:].sum()
    if counts[1:few].sum() <= _STRAY * pixels.size:
        return
    # Without loss: nothing but black, ids and white. Shades and ringing have values in between.
    if lossy or marked > counts[full]:
        areas = _flat_counts(pixels, _FLAT, full)[:few]
        ids = np.flatnonzero(areas > max(_RINGING * pixels.size, int(marked)))
        if len(ids) < 2:  # one of them is black, which a lossy format may shift a little
            return
    text = ", ".join(map(str, ids[:5])) + (", …" if len(ids) > 5 else "")
    raise MaskError(
        f"holds class ids ({text}) next to {full}: "
        + (f"{lossy} smears them; convert the original to PNG and " if lossy else "")
        + "name the marked ones with --class"
    )


def _refuse_grey_levels(
    pixels: NDArray[np.unsignedinteger], counts: NDArray[np.int64], full: int
) -> None:
    """Label maps as grey pictures: marked areas of a few greys, where shades have many."""
    few = int(full * FEW_SHADES) + 1
    white = int(counts[full + 1 - few :].sum())
    grey = int(counts[few : full + 1 - few].sum())
    if grey <= max(white, _STRAY * pixels.size):
        return
    areas = _flat_counts(pixels, _EDGE, full)[few : full + 1 - few]
    order = np.argsort(areas)[::-1][:_FEW_LEVELS]
    levels = order + few
    if areas[order].sum() < grey / 4 or counts[levels].sum() < _MOST * grey:
        return
    main = np.sort(levels[counts[levels] >= 0.05 * grey])
    # One mid grey between black and white is half a share, as mattes have it.
    if white >= 0.05 * grey and abs(main / full - 0.5).max(initial=0) < 1 / 16:
        return
    text = ", ".join(map(str, main[:5])) + (", …" if len(main) > 5 else "")
    raise MaskError(
        f"most of what it marks is {text} of {full}: name the marked ones with --class if these "
        "are class ids; save shares as a TIFF of floating-point values from 0 to 1"
    )


def _flat_counts(pixels: NDArray[np.unsignedinteger], side: int, full: int) -> NDArray[np.int64]:
    """How many pixels of each value have it all around them, `side` pixels across."""
    kernel = np.ones((side, side), np.uint8)
    flat = cv2.dilate(pixels, kernel) == cv2.erode(pixels, kernel)
    return np.bincount(pixels[flat], minlength=full + 1)
