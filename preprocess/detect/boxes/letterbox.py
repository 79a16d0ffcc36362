"""An image inside a square of fixed side, and boxes found there brought back.

Networks in `cv2.dnn` keep memory of the size that they ran at first: CenterFace run at a second
size gives wrong boxes (its heat map is off by up to .93). So every network here sees one size.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.preprocess.detect.square import Boxes, Image

_OVERLAP = 0.3  # intersection over union from which two boxes are one face


def letterboxed(image: Image, side: int) -> tuple[Image, float]:
    """The image in the top left of a black (side, side, 3) square, and its scale there."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shrinking = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square = np.zeros((side, side, 3), np.uint8)
    square[: size[1], : size[0]] = cv2.resize(image, size, interpolation=shrinking)
    return square, scale


def boxes_in_image(
    edges: NDArray[np.floating],
    scores: NDArray[np.floating],
    eyes: NDArray[np.floating],
    scale: float,
    threshold: float,
) -> Boxes:
    """The best of overlapping boxes, in pixels of the image.

    Args:
        edges: (N, 4) left, top, right, bottom in the letterboxed square, 0 at its very edge.
        scores: (N,) 0 to 1.
        eyes: (N, 2, 2) in the same unit.
        scale: of the image in the square.
        threshold: lowest score that counts.
    """
    corners = np.column_stack([edges[:, :2], edges[:, 2:] - edges[:, :2]])
    kept = cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), threshold, _OVERLAP)
    best = np.asarray(kept, np.intp).reshape(-1)
    best = best[np.argsort(-scores[best], kind="stable")]
    # Pixel centres are at whole numbers: the image begins at -.5.
    return Boxes(
        (edges[best] / scale - 0.5).astype(np.float32),
        scores[best].astype(np.float32),
        (eyes[best] / scale - 0.5).astype(np.float32),
    )
