"""A detector of large faces asked about parts of the image, in which small ones are large."""

from __future__ import annotations

import math

import numpy as np

from faceguide.preprocess.detect.boxes.letterbox import boxes_in_image
from faceguide.preprocess.detect.finders.finder import BoxDetector
from faceguide.preprocess.detect.square import Boxes, Image

_SMALLEST = 64  # pixels of a tile's side: less shows no face
_LEAST = 0.5  # score


class Tiles:
    """Boxes of `near` in squares that overlap by half: as large as the image, and half of that."""

    def __init__(self, near: BoxDetector) -> None:
        self._near = near

    def __call__(self, image: Image) -> Boxes:
        """The best of overlapping boxes, the surest first."""
        edges, scores, eyes = ([np.empty(shape, np.float32)] for shape in ((0, 4), (0,), (0, 2, 2)))
        for x, y, side in _places(*image.shape[:2]):
            boxes = self._near(np.ascontiguousarray(image[y : y + side, x : x + side]))
            corner = np.array([x, y], np.float32)
            edges.append(boxes.edges + np.tile(corner, 2))
            scores.append(boxes.scores)
            eyes.append(boxes.eyes + corner)
        # Pixel centres are at whole numbers here, the edge is at 0 there.
        found = np.concatenate(edges) + 0.5, np.concatenate(scores), np.concatenate(eyes) + 0.5
        return boxes_in_image(*found, 1.0, _LEAST)


def _places(height: int, width: int) -> list[tuple[int, int, int]]:
    """x, y and side of every tile; the whole image is none."""
    found = []
    for side in (min(height, width), min(height, width) // 2):
        if side < _SMALLEST or (side, side) == (height, width):
            continue
        rows, columns = (
            np.linspace(0, length - side, math.ceil(2 * (length - side) / side) + 1).astype(int)
            for length in (height, width)
        )
        found += [(int(x), int(y), side) for y in rows for x in columns]
    return found
