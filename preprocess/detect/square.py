"""Where a face is in a photograph: a detector's boxes, and the square that a mesh is laid into.

Coordinates are pixels, x right, y down, the centre of the top left pixel at (0, 0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3) RGB
LARGEST_SIDE = 32_766  # pixels: OpenCV samples no larger image, and MediaPipe ends the process


@dataclass(frozen=True)
class Square:
    """A square, turned about its centre.

    Attributes:
        x, y: centre.
        side: in pixels, as x and y.
        angle: radians, clockwise as one sees it; 0 for an upright face.
    """

    x: float
    y: float
    side: float
    angle: float


@dataclass(frozen=True, eq=False)
class Boxes:
    """The faces that a detector sees, the surest first.

    Attributes:
        edges: (B, 4) float32 left, top, right, bottom; they may lie beyond the image.
        scores: (B,) float32 how sure the detector is, 0 to 1.
        eyes: (B, 2, 2) float32 x and y of the two eyes; of an upright face the one at the left of
            the image first.
    """

    edges: NDArray[np.float32]
    scores: NDArray[np.float32]
    eyes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.edges)

    def square(self, index: int, scale: float = 1.5) -> Square:
        """The square round a box, turned as its eyes are.

        Args:
            scale: its side over the longer side of the box. 1.5 is what MediaPipe takes round the
                boxes of its own detectors.
        """
        left, top, right, bottom = (float(edge) for edge in self.edges[index])
        across, down = (float(value) for value in self.eyes[index, 1] - self.eyes[index, 0])
        return Square(
            (left + right) / 2,
            (top + bottom) / 2,
            scale * max(right - left, bottom - top),
            math.atan2(down, across),
        )


# Outer corners of the eyes, which MediaPipe turns its tracking region by.
_CORNERS = (33, 263)


def tracked(landmarks: NDArray[np.floating]) -> Square:
    """Where MediaPipe looks for a face that it has just found: 1.5 times its landmarks' extent.

    Args:
        landmarks: (478, 2 or 3) in pixels.
    """
    plane = np.asarray(landmarks[:, :2], np.float64)
    across, down = plane[_CORNERS[1]] - plane[_CORNERS[0]]
    angle = math.atan2(down, across)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    along = plane @ turn.T
    low, high = along.min(axis=0), along.max(axis=0)
    x, y = turn.T @ ((low + high) / 2)
    return Square(float(x), float(y), 1.5 * float((high - low).max()), angle)


def cut(
    image: Image, square: Square, size: int, *, border: int = cv2.BORDER_REPLICATE
) -> NDArray[np.uint8]:
    """The square as (size, size, 3) pixels for a network, sampled as MediaPipe does.

    That is bilinear without reducing first; from edge to edge, so that the square's left edge is
    at x = 0, not −.5; and at places rounded to a 32nd of a pixel, which OpenCV's own warps do no
    longer from version 5 on: landmarks would move by up to .01 eye distances.

    Args:
        border: what lies outside the image, a border mode of OpenCV.
    """
    step = square.side / size
    across, down = step * math.cos(square.angle), step * math.sin(square.angle)
    at = np.arange(size) - size / 2
    height, width = image.shape[:2]
    x = np.add.outer(square.x - down * at, across * at)
    y = np.add.outer(square.y + across * at, down * at)
    x = np.rint(np.clip(x, -2, width + 1) * 32).astype(np.int32)
    y = np.rint(np.clip(y, -2, height + 1) * 32).astype(np.int32)
    whole = np.stack([x >> 5, y >> 5], axis=-1).astype(np.int16)
    rest = ((y & 31) * 32 + (x & 31)).astype(np.uint16)
    pixels = cv2.remap(image, whole, rest, cv2.INTER_LINEAR, borderMode=border)
    return pixels.astype(np.uint8, copy=False)
