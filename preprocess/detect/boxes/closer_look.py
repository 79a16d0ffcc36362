"""A detector of small faces proposes where, and one of large faces looks there again."""

from __future__ import annotations

import numpy as np

from faceguide.preprocess.detect.finders.finder import BoxDetector
from faceguide.preprocess.detect.square import Boxes, Image

_SCALES = (1.8, 2.5)  # side of the crop over the longer side of the proposed box
_PROPOSED = 3  # boxes that are looked at


class CloserLook:
    """Boxes of `near`, in crops round the boxes of `far`."""

    def __init__(self, far: BoxDetector, near: BoxDetector) -> None:
        self._far, self._near = far, near

    def __call__(self, image: Image) -> Boxes:
        """At most one box a proposal, the nearest to its centre; the surest first."""
        found = [self._nearest(image, edges) for edges in self._far(image).edges[:_PROPOSED]]
        seen = [boxes for boxes in found if boxes is not None]
        if not seen:
            return Boxes(*(np.empty(shape, np.float32) for shape in ((0, 4), 0, (0, 2, 2))))
        edges, scores, eyes = (
            np.concatenate([getattr(boxes, name) for boxes in seen])
            for name in ("edges", "scores", "eyes")
        )
        order = np.argsort(-scores, kind="stable")
        return Boxes(edges[order], scores[order], eyes[order])

    def _nearest(self, image: Image, edges: np.ndarray) -> Boxes | None:
        middle, side = (edges[:2] + edges[2:]) / 2, float((edges[2:] - edges[:2]).max())
        for scale in _SCALES:
            crop, corner = _square_crop(image, middle, scale * side)
            boxes = self._near(crop)
            centres = (boxes.edges[:, :2] + boxes.edges[:, 2:]) / 2 + corner
            away = np.linalg.norm(centres - middle, axis=1)
            if len(away) and away.min() <= side / 2:
                best = slice(int(away.argmin()), int(away.argmin()) + 1)
                shift = np.asarray(corner, np.float32)
                moved = boxes.edges[best] + np.tile(shift, 2)
                return Boxes(moved, boxes.scores[best], boxes.eyes[best] + shift)
        return None


def _square_crop(image: Image, middle: np.ndarray, side: float) -> tuple[Image, tuple[int, int]]:
    """A square on whole pixels, black outside the image, and x, y of its top left pixel.

    It is at most twice as large as the image's shorter side, which no face exceeds by much.
    """
    height, width = image.shape[:2]
    length = min(max(round(side), 1), 2 * min(height, width))
    x, y = (round(float(value) - length / 2) for value in middle)
    crop = np.zeros((length, length, 3), np.uint8)
    rows = slice(min(max(y, 0), height), min(max(y + length, 0), height))
    columns = slice(min(max(x, 0), width), min(max(x + length, 0), width))
    crop[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] = image[
        rows, columns
    ]
    return crop, (x, y)
