"""The oval of a face: where it ends and its surround (hair, ears, neck, background) begins.

On an aligned 112×112 crop the oval covers about half, so about half of what a network sees is
surround.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
from numpy.typing import NDArray

# MediaPipe's FACE_OVAL, from the middle of the forehead clockwise as one sees it.
FACE_OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
_FINER = 4  # outlines are drawn at so many lines per pixel
_SHIFT = 4  # binary digits that OpenCV takes behind the point
_ERODED, _FEATHER = 5, 1.5  # pixels: side of the square, standard deviation


def filled(outline: NDArray[np.floating], size: int) -> NDArray[np.float32]:
    """Share of each pixel inside a polygon.

    Args:
        outline: (V, 2) finite x and y in pixels, pixel centres at whole numbers.

    Returns:
        (size, size) 0 to 1, in steps of 1/16.
    """
    layer = np.zeros((size * _FINER, size * _FINER), np.uint8)
    fine = (np.asarray(outline, np.float64) + 0.5) * _FINER - 0.5
    cv2.fillPoly(layer, [np.rint(fine * 2**_SHIFT).astype(np.int32)], (1,), cv2.LINE_8, _SHIFT)
    # Sums of slices: a mean over two axes takes forty times as long.
    rows = functools.reduce(np.add, [layer[line::_FINER] for line in range(_FINER)])
    counts = functools.reduce(np.add, [rows[:, line::_FINER] for line in range(_FINER)])
    return np.asarray(counts, np.float32) / np.float32(_FINER**2)


def oval_of(points: NDArray[np.floating], size: int) -> NDArray[np.float32]:
    """Share of each pixel inside the oval: (478, ≥2) landmarks in pixels → (size, size), 0 to 1."""
    return filled(points[list(FACE_OVAL), :2], size)


def blend_weight(oval: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much of a face shows where it is laid into another surround.

    The oval shrunk by two pixels on each side and feathered (Gaussian, σ 1.5 pixels), so that no
    edge shows; nothing outside the oval itself.

    Args:
        oval: (S, S) share of each pixel inside it.

    Returns:
        (S, S) 0 to 1: 0 outside the oval, 1 from about eight pixels inside its edge.
    """
    shrunk = cv2.erode(oval, np.ones((_ERODED, _ERODED), np.uint8))
    return np.minimum(cv2.GaussianBlur(shrunk, (0, 0), _FEATHER), oval)
