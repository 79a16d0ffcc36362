"""A drawn niqab: cloth with folds, and where it covers the portrait of the demo photographs.

On another face it is laid by an affine map of both irises and the middle of the mouth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]

# The cloth is drawn on a square of the photograph's plane, finer than its pixels.
ORIGIN = (55, -60)  # top left pixel of the square
SIDE = 340  # photograph pixels
SCALE = 2  # cloth pixels per photograph pixel
# Where the irises (landmarks 468, 473) and the middle of the mouth (between 13 and 14) lie.
IRISES, MOUTH = ((203.5, 101.1), (246.6, 103.5)), (223.4, 144.0)

_COLOURS = (
    (30, 30, 34), (24, 30, 52), (62, 46, 38), (98, 100, 104), (168, 148, 122), (86, 30, 42),
    (66, 72, 52), (40, 62, 66),
)  # fmt: skip


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], x: Floats, y: Floats) -> Floats:
    """Random values on a lattice of `shape`, cubic in between, read at x and y in [0, 1]."""
    coarse = rng.normal(size=shape).astype(np.float32)
    lattice = cv2.resize(coarse, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    height, width = lattice.shape
    across, down = np.clip(x, 0, 1) * (width - 1), np.clip(y, 0, 1) * (height - 1)
    return cv2.remap(lattice, across, down, cv2.INTER_LINEAR)


def draw_niqab(seed: int | tuple[int, ...], light: Floats) -> tuple[Floats, Floats]:
    """A niqab over the unwarped portrait: everything of the head but a band at the eyes.

    Args:
        seed: of its colour, cut and folds.
        light: (3,) unit vector to the lamp.

    Returns:
        colour (C, C, 3) RGB in [0, 1] and cover (C, C) in [0, 1], where C is 680: the square of
        340 photograph pixels from (55, -60), drawn at twice the photograph's resolution.
    """
    rng = np.random.default_rng([*np.atleast_1d(seed).tolist(), 2])
    steps = (np.arange(SIDE * SCALE, dtype=np.float32) + 0.5) / SCALE - 0.5
    x, y = np.meshgrid(steps + ORIGIN[0], steps + ORIGIN[1])

    def cut(outline: Sequence[tuple[float, float]], rounding: float) -> Floats:
        """Signed roundish field of a polygon: 0 on its edge, slope about 1 per photograph pixel."""
        layer = np.zeros(x.shape, np.float32)
        pixels = (np.array(outline) - ORIGIN + 0.5) * SCALE - 0.5
        cv2.fillPoly(layer, [np.rint(pixels * 16).astype(np.int32)], (1.0,), cv2.LINE_AA, 4)
        blurred = cv2.GaussianBlur(layer, (0, 0), rounding * SCALE)
        return (blurred - 0.5) * rounding * 2.5

    crown, side, drape = rng.uniform((2, 6, 0), (7, 14, 22))
    outline = [
        (226, 10 - crown), (188, 18 - crown), (160 - side / 2, 40), (150 - side, 80),
        (148 - side, 120), (136 - side, 160), (104 - drape, 215), (60, 300), (60, 340), (392, 340),
        (392, 300), (346 + drape, 215), (314 + side, 160), (304 + side, 120), (304 + side, 80),
        (294 + side / 2, 40), (264, 18 - crown),
    ]  # fmt: skip
    top, bottom, reach, bow = rng.uniform((82, 112, 0, 0), (92, 119, 5, 5))
    slit = [
        (180 - reach, (top + bottom) / 2 - 3), (190, top + 2), (224, top - bow), (258, top + 4),
        (269 + reach, (top + bottom) / 2), (256, bottom + 1), (224, bottom + bow),
        (192, bottom - 1),
    ]  # fmt: skip
    opening = cut(slit, 5)
    cover = np.minimum(cut(outline, 9), -opening)

    angle = np.arctan2(x - 224, y - 40) / np.pi * 0.5 + 0.5
    reach_down = np.clip((y - 40) / 240, 0, 1)
    below = np.clip((y - 104) / 70, 0, 1)
    around = np.hypot((x - 226) / 95, (y - 98) / 105)
    turn = np.arctan2(x - 226, 98 - y) / np.pi * 0.5 + 0.5
    above = np.clip((128 - y) / 40, 0, 1) * np.clip(around * 2 - 0.9, 0, 1)

    def bump(cx: float, cy: float, rx: float, ry: float) -> Floats:
        return np.exp(-0.5 * (((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2))

    height = 62 * bump(226, 100, 55, 66) + 6 * bump(223, 124, 10, 15) + 6 * bump(222, 165, 20, 14)
    height += 4.6 * below * _smooth_noise(rng, (4, 56), angle, reach_down)
    height += 1.6 * below * _smooth_noise(rng, (6, 120), angle, reach_down)
    height += 2.6 * above * _smooth_noise(rng, (16, 6), turn, around / 1.6)
    height -= 1.5 * np.exp(-0.5 * ((opening + 3.5) / 0.8) ** 2)  # the seam around the opening
    slope_y, slope_x = np.gradient(cv2.GaussianBlur(height, (0, 0), 1.5), 1 / SCALE)
    facing = (light[2] - slope_x * light[0] - slope_y * light[1]) / np.sqrt(
        1 + slope_x**2 + slope_y**2
    )
    shade = 0.46 + 0.66 * np.clip(facing, 0, None)
    weave = cv2.GaussianBlur(rng.normal(size=x.shape).astype(np.float32), (0, 0), 0.8)
    base = np.array(_COLOURS[rng.integers(len(_COLOURS))]) / 255
    sheen = 0.05 * np.clip(facing, 0, 1) ** 3
    colour = base * (shade * (1 + 0.04 * weave))[..., None] + sheen[..., None]
    return np.clip(colour, 0, 1).astype(np.float32), np.clip(cover + 0.5, 0, 1)


def niqab_on(
    points: NDArray[np.floating], size: int, seed: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The niqab as it lies on an aligned face.

    Args:
        points: (478, 2) finite landmarks in pixels.
        seed: of colour, cut, folds and light.

    Returns:
        colour (size, size, 3) RGB 0 to 255, and the share of each pixel that it covers, 0 to 1.
    """
    rng = np.random.default_rng([*seed, 3])
    light = np.array([rng.uniform(-1, 1), rng.uniform(-0.8, 0.2), 1.0])
    colour, cover = draw_niqab(seed, light / np.linalg.norm(light))
    there = (np.array([*IRISES, MOUTH]) - ORIGIN + 0.5) * SCALE - 0.5
    here = np.array([points[468], points[473], (points[13] + points[14]) / 2])
    # (3, 2) points -> the (2, 3) map that takes each to its place
    matrix = np.linalg.solve(np.column_stack([there, np.ones(3)]), here).T
    shrinks = np.sqrt(abs(np.linalg.det(matrix[:, :2])))  # pixels per cloth pixel
    layers = np.dstack([colour * 255.0, cover]).astype(np.float32)
    blurred = cv2.GaussianBlur(layers, (0, 0), max(0.4 / shrinks, 0.1))
    warped = cv2.warpAffine(blurred, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    laid = np.asarray(warped, np.float32)
    return laid[..., :3], laid[..., 3].clip(0.0, 1.0)
