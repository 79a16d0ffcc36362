"""A contact sheet: what was found in each photograph, to look at rather than to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import ORIGINS, REGIONS, STATUSES
from faceguide.core.commands.console import printable

_PANEL = 160  # pixels of one panel
_GAP = 4
_CAPTION = 34
_COLUMNS = 2  # faces side by side
_INK, _PAPER = (25, 25, 25), (255, 255, 255)
_LANDMARK = (0, 255, 128)
_REGION_COLOURS = np.array([(64, 160, 255), (255, 176, 0), (255, 64, 96)], np.float32)
_VISIBLE, _HIDDEN, _UNKNOWN = (40, 200, 80), (220, 30, 40), (128, 128, 128)
_SWATCH = 11
_LEGEND = 22  # height of a line of the legend


def contact_sheet(cache: FaceCache, rows: Sequence[int] | NDArray[np.integer]) -> Image.Image:
    """Crop with landmarks, heatmap, regions and visibility of each row, with a caption.

    Panels whose column group is not in the cache are left out. A legend below says what the
    colours are.

    Args:
        rows: row numbers, in the order to show them.

    Returns:
        An RGB picture.
    """
    strips = [_strip(cache, cache[int(row)]) for row in rows]
    width, height = strips[0].size
    across = min(_COLUMNS, len(strips))
    down = -(-len(strips) // across)
    legend = _legend(cache, across * (width + 3 * _GAP))
    below = down * (height + 3 * _GAP)
    sheet = Image.new("RGB", (legend.width, below + legend.height), _PAPER)
    sheet.paste(legend, (0, below))
    for position, strip in enumerate(strips):
        y, x = divmod(position, across)
        sheet.paste(strip, (x * (width + 3 * _GAP) + _GAP, y * (height + 3 * _GAP) + _GAP))
    return sheet


def _legend(cache: FaceCache, width: int) -> Image.Image:
    """What the colours of the panels in this cache are; as many lines as the width needs."""
    dots: list[tuple[str, tuple[int, ...] | None]] = [("landmarks", _LANDMARK)]
    if "heatmap" in cache.columns:
        scale = np.linspace(0, 255, 6 * _SWATCH).astype(np.uint8)[None]
        dots.append(("heatmap: where attention is wanted", None))
        regions = _REGION_COLOURS.astype(int).tolist()
        dots += [(name, tuple(c)) for name, c in zip(REGIONS, regions, strict=True)]
    if "visibility" in cache.columns:
        dots += [("visible", _VISIBLE), ("occluded", _HIDDEN), ("grey picture: unknown", _UNKNOWN)]
    font = ImageFont.load_default(13)
    places, x, y = [], _GAP, 0
    for text, colour in dots:
        swatch = _SWATCH if colour else scale.shape[1]
        length = swatch + 5 + int(font.getlength(text)) + 16
        if x > _GAP and x + length > width:
            x, y = _GAP, y + _LEGEND
        places.append((x, y + 4, swatch))
        x += length
    legend = Image.new("RGB", (width, y + _LEGEND + _GAP), _PAPER)
    draw = ImageDraw.Draw(legend)
    for (text, colour), (left, top, swatch) in zip(dots, places, strict=True):
        if colour:
            draw.rectangle((left, top, left + swatch - 1, top + _SWATCH - 1), fill=colour)
        else:
            bar = cv2.applyColorMap(np.repeat(scale, _SWATCH, axis=0), cv2.COLORMAP_INFERNO)
            legend.paste(Image.fromarray(bar[:, :, ::-1]), (left, top))
        draw.text((left + swatch + 5, top - 3), text, _INK, font)
    return legend


def _strip(cache: FaceCache, sample: dict[str, Any]) -> Image.Image:
    image = cv2.resize(sample["image"], (_PANEL, _PANEL), interpolation=cv2.INTER_AREA)
    size = sample["image"].shape[0]
    panels = [_with_landmarks(image, sample["landmarks"], size)]
    if "heatmap" in sample:
        panels.append(_with_heatmap(image, sample["heatmap"]))
        panels.append(_with_regions(image, sample["regions"]))
    if "visibility" in sample:
        panels.append(_with_visibility(image, sample["visibility"], bool(sample["known"])))
    width = len(panels) * (_PANEL + _GAP) - _GAP
    strip = Image.new("RGB", (width, _PANEL + _CAPTION), _PAPER)
    for position, panel in enumerate(panels):
        strip.paste(Image.fromarray(panel), (position * (_PANEL + _GAP), 0))
    _write(strip, _captions(cache, sample))
    return strip


def _captions(cache: FaceCache, sample: dict[str, Any]) -> list[str]:
    status, origin = STATUSES[sample["status"]], ORIGINS[sample["origin"]]
    if status != "ok":
        return [f"{sample['row']}  {sample['key']}", status]
    yaw, pitch, roll = (f"{angle:+.0f}°" for angle in sample["pose"])
    measured = sample.get("quality", np.nan)  # not every cache has it
    quality = "" if np.isnan(measured) else f"  quality {measured:.2f}"
    pose = f"yaw {yaw} pitch {pitch} roll {roll}"
    visible = (
        f"  visible {sample['visibility'].mean(dtype=float):.0%}" if sample.get("known") else ""
    )
    return [f"{sample['row']}  {sample['key']}", f"{status}  {origin}{quality}  {pose}{visible}"]


def _write(strip: Image.Image, lines: list[str]) -> None:
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(13)
    for number, line in enumerate(lines):
        text = printable(line)
        while draw.textlength(text, font) > strip.width and len(text) > 4:
            text = "…" + text[2:]
        draw.text((1, _PANEL + 1 + 16 * number), text, _INK, font)


def _with_landmarks(
    image: NDArray[np.uint8], landmarks: NDArray[np.float32], size: int
) -> NDArray[np.uint8]:
    out = image.copy()
    scale = _PANEL / size
    for x, y in landmarks[:, :2]:
        if np.isfinite(x) and np.isfinite(y):
            # Centre of the first pixel is 0 in the crop and in the enlarged panel.
            place = ((x * size + 0.5) * scale - 0.5, (y * size + 0.5) * scale - 0.5)
            if all(-1 < value < _PANEL for value in place):
                cv2.circle(out, (round(place[0]), round(place[1])), 0, _LANDMARK, -1)
    return out


def _blend(
    image: NDArray[np.uint8], colour: NDArray[np.float32], share: NDArray[np.float32]
) -> NDArray[np.uint8]:
    mixed = image * (1 - share) + colour * share
    return np.clip(np.rint(mixed), 0, 255).astype(np.uint8)


def _with_heatmap(image: NDArray[np.uint8], heatmap: NDArray[np.uint8]) -> NDArray[np.uint8]:
    large = cv2.resize(heatmap, (_PANEL, _PANEL), interpolation=cv2.INTER_LINEAR)
    colour = cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    return _blend(image, colour.astype(np.float32), np.full((1, 1, 1), 0.6, np.float32))


def _with_regions(image: NDArray[np.uint8], regions: NDArray[np.uint8]) -> NDArray[np.uint8]:
    out = image
    for region, colour in zip(regions, _REGION_COLOURS, strict=True):
        large = cv2.resize(region, (_PANEL, _PANEL), interpolation=cv2.INTER_NEAREST)
        out = _blend(out, colour, (large / 255 * 0.65)[:, :, None].astype(np.float32))
    return out


def _with_visibility(
    image: NDArray[np.uint8], visibility: NDArray[np.float16], known: bool
) -> NDArray[np.uint8]:
    if not known:
        out = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        cv2.putText(
            out, "unknown", (38, _PANEL // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1,
            cv2.LINE_AA,
        )  # fmt: skip
        return out.astype(np.uint8)
    large = cv2.resize(
        visibility.astype(np.float32), (_PANEL, _PANEL), interpolation=cv2.INTER_NEAREST
    )[:, :, None]
    # Green where the face can be seen, red where it is occluded.
    colour = large * np.array(_VISIBLE) + (1 - large) * np.array(_HIDDEN)
    return _blend(image, colour.astype(np.float32), np.full((1, 1, 1), 0.45, np.float32))
