"""CenterFace: boxes of faces, small and covered ones too, from one heat map.

Xu, Yan, Sun, Hu, Du: CenterFace: Joint Face Detection and Alignment Using Face as Point (2019),
https://github.com/Star-Clouds/CenterFace. A cell of the heat map is 4 pixels wide; beside it lie
the logarithm of the box's sides, the offset of its centre, and five points as shares of the box.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.preprocess.detect.boxes.letterbox import boxes_in_image, letterboxed
from faceguide.preprocess.detect.square import Boxes, Image

OUTPUTS = ("537", "538", "539", "540")  # heat map, sides, offset, points
_CHANNELS = (1, 2, 2, 10)
_CELL = 4  # pixels
_THRESHOLD = 0.2
_SIDES = (-10.0, 8.0)  # what the exponent is clipped to; foreign pixels may make it overflow


class CenterFace:
    """CenterFace at one input size; another size needs another one.

    Raises:
        ValueError: when the network gives something else than CenterFace for this size.
        cv2.error: when it cannot be loaded or run.
    """

    def __init__(self, content: bytes, side: int) -> None:
        self._net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        self._side = side
        cells = side // _CELL
        expected = [(1, channels, cells, cells) for channels in _CHANNELS]
        found = [output.shape for output in self._run(np.zeros((side, side, 3), np.uint8))]
        if found != expected:
            raise ValueError(f"its outputs are {found}, not {expected}")

    def __call__(self, image: Image) -> Boxes:
        """Boxes with scores of .2 and more, tight from brow to chin."""
        square, scale = letterboxed(image, self._side)
        return boxes_in_image(*decoded(*self._run(square)), scale, _THRESHOLD)

    def _run(self, square: Image) -> list[NDArray[np.float32]]:
        self._net.setInput(cv2.dnn.blobFromImage(square))  # RGB, 0 to 255
        return [np.asarray(output, np.float32) for output in self._net.forward(OUTPUTS)]


def decoded(
    heat: NDArray[np.float32],
    sides: NDArray[np.float32],
    offset: NDArray[np.float32],
    points: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Boxes, scores and eyes of all cells that reach the threshold, overlapping ones included.

    Args:
        heat: (1, 1, S, S); sides, offset: (1, 2, S, S) down, across; points: (1, 10, S, S)
            down, across of eyes, nose and corners of the mouth.

    Returns:
        (N, 4) left, top, right, bottom, (N,) and (N, 2, 2) in pixels of the input.
    """
    rows, columns = np.nonzero(heat[0, 0] >= _THRESHOLD)
    cells = np.stack([rows, columns])  # (2, N) down, across, as everything here
    size = np.exp(np.clip(sides[0][:, rows, columns], *_SIDES)) * _CELL
    centre = (cells + offset[0][:, rows, columns] + 0.5) * _CELL
    corner = centre - size / 2
    edges = np.concatenate([corner[::-1], (corner + size)[::-1]]).T
    eyes = points[0][:4, rows, columns].reshape(2, 2, -1) * size + corner  # (eye, axis, N)
    return (
        edges.astype(np.float32),
        heat[0, 0, rows, columns],
        np.moveaxis(eyes[:, ::-1], 2, 0).astype(np.float32),
    )
