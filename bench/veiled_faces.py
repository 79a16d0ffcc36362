"""Drawn veils over real faces, for bench/detect.py: the demo's niqab, laid on by the landmarks."""

from __future__ import annotations

import cv2
import numpy as np
from demo import portrait
from numpy.typing import NDArray

from faceguide.core.faces import align
from faceguide.train.data import niqab

Image = NDArray[np.uint8]

CUTS = ("colour", "black", "narrow", "lower")

# Where the five alignment points lie in the photograph that the niqab is drawn for.
_PORTRAIT = np.array(
    [portrait.LEFT_IRIS, portrait.RIGHT_IRIS, portrait.NOSE_TIP, *portrait.MOUTH_CORNERS]
)
_EYES = float(np.linalg.norm(_PORTRAIT[1] - _PORTRAIT[0]))


def veiled(image: Image, landmarks: NDArray[np.floating], cut: str, seed: int) -> Image:
    """A face under a niqab.

    Args:
        image: (H, W, 3) uint8 RGB.
        landmarks: (478, 3) pixels of the bare face.
        cut: ``colour`` as the demo draws it, ``black``, ``narrow``: a slit of less than half of an
            eye distance, ``lower``: forehead and hair are free.
        seed: of colour, folds, place, blur and light.
    """
    random = np.random.default_rng([seed, CUTS.index(cut)])
    light = np.array([random.uniform(-1, 1), random.uniform(-0.8, 0.2), 1.0])
    colour, cover = niqab.draw_niqab(seed, light / np.linalg.norm(light))
    if cut == "black":
        colour = colour / colour.mean() * random.uniform(0.03, 0.12)
    steps = (np.arange(niqab.SIDE * niqab.SCALE) + 0.5) / niqab.SCALE - 0.5
    x, y = steps + niqab.ORIGIN[0], (steps + niqab.ORIGIN[1])[:, None]
    eyes = _PORTRAIT[:2].mean(axis=0)
    if cut == "narrow":
        half = random.uniform(0.14, 0.22) * _EYES
        hood = np.hypot((x - 226) / 75, (y - 98) / 85) < 1
        cover = np.maximum(cover, hood & (np.abs(y - eyes[1]) > half))
    if cut == "lower":
        cover = np.where(y > eyes[1] + random.uniform(0.3, 0.5) * _EYES, cover, 0)

    points = align.five_points(landmarks)
    scale = float(np.linalg.norm(points[1] - points[0])) / _EYES
    points = points + random.normal(0, 0.02 * scale * _EYES, 2)
    there = (_PORTRAIT - niqab.ORIGIN + 0.5) * niqab.SCALE - 0.5
    transform = align.similarity(there, points)
    blur = 0.4 * niqab.SCALE / scale * random.uniform(1.0, 1.6)
    layers = cv2.GaussianBlur(np.dstack([colour, cover]).astype(np.float32), (0, 0), blur)
    height, width = image.shape[:2]
    warped = cv2.warpAffine(layers, transform, (width, height), flags=cv2.INTER_LINEAR)
    share = np.clip(warped[..., 3:], 0, 1)
    gamma = np.exp(random.uniform(-0.3, 0.3))
    mixed = image / 255 * (1 - share) + np.clip(warped[..., :3], 0, 1) ** gamma * share
    return np.rint(255 * np.clip(mixed, 0, 1)).astype(np.uint8)
