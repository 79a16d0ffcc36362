"""BlazeFace for short range in OpenCV: boxes of faces that fill the image.

Anchors, decoding and suppression as MediaPipe's short-range graphs set them (face_detection_short_
range.pbtxt, Apache-2.0); Bazarevsky et al. 2019, arXiv:1907.05047.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import FaceguideError
from faceguide.preprocess.detect.finders.task_model import TaskModel, load_network
from faceguide.preprocess.detect.square import Boxes, Image, Square, cut

_SIDE = 128  # pixels of the network's input
_LEAST = 0.5  # score
_OVERLAP = 0.3  # intersection over union of boxes that are one face


def _anchors() -> NDArray[np.float64]:
    """(896, 2) x and y as shares of the input: 2 in each of 16×16 cells, 6 in each of 8×8."""
    grids = []
    for cells, each in ((16, 2), (8, 6)):
        centres = (np.arange(cells) + 0.5) / cells
        y, x = np.meshgrid(centres, centres, indexing="ij")
        grids.append(np.repeat(np.stack([x, y], axis=-1).reshape(-1, 2), each, axis=0))
    return np.concatenate(grids)


_ANCHORS = _anchors()


class BlazeFace:
    """The detector of a .task file in OpenCV."""

    def __init__(self, model: TaskModel) -> None:
        self._model = model
        self._net = load_network(model, model.detector)
        self(np.zeros((8, 8, 3), np.uint8))

    def __call__(self, image: Image) -> Boxes:
        """Boxes of faces, as `Finder.boxes` gives them.

        Raises:
            FaceguideError: when the network is another one.
        """
        height, width = image.shape[:2]
        side = max(height, width)
        whole = Square(width / 2, height / 2, side, 0)
        pixels = cut(image, whole, _SIDE, border=cv2.BORDER_CONSTANT)
        self._net.setInput(cv2.dnn.blobFromImage(pixels, 1 / 127.5, mean=(127.5,) * 3))
        try:
            logits, values = self._net.forward(("classificators", "regressors"))
            scores = 1 / (1 + np.exp(-np.clip(logits.reshape(len(_ANCHORS)), -80, 80)))
            values = values.reshape(len(_ANCHORS), 8, 2).astype(np.float64)
        except (cv2.error, ValueError) as error:
            raise FaceguideError(
                f"{self._model.path}: its face detector is not BlazeFace for short range; --model "
                "takes MediaPipe's face_landmarker.task"
            ) from error
        kept = np.flatnonzero(scores >= _LEAST)
        kept = kept[np.argsort(-scores[kept], kind="stable")]
        # Centre, size, six points → corners and the eyes, as shares of the square.
        centre = values[kept, 0] / _SIDE + _ANCHORS[kept]
        half = values[kept, 1] / _SIDE / 2
        eyes = values[kept, 2:4] / _SIDE + _ANCHORS[kept, None]
        found = np.concatenate([(centre - half)[:, None], (centre + half)[:, None], eyes], axis=1)
        points, scores = _merged(found, scores[kept])
        points = points * side - np.array([(side - width) / 2, (side - height) / 2])
        return Boxes(
            points[:, :2].reshape(-1, 4).astype(np.float32),
            scores.astype(np.float32),
            points[:, 2:].astype(np.float32),
        )


def _merged(
    found: NDArray[np.float64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Overlapping boxes become their mean, weighted by score, with the best one's score.

    Args:
        found: (B, 4, 2) corners and eyes, the surest first.
        scores: (B,).
    """
    faces, best = [], []
    while len(found):
        low = np.maximum(found[0, 0], found[:, 0])
        high = np.minimum(found[0, 1], found[:, 1])
        common = np.clip(high - low, 0, None).prod(axis=1)
        areas = (found[:, 1] - found[:, 0]).prod(axis=1)
        same = common > _OVERLAP * (areas[0] + areas - common)
        same[0] = True
        faces.append(np.average(found[same], axis=0, weights=scores[same]))
        best.append(scores[0])
        found, scores = found[~same], scores[~same]
    return np.array(faces).reshape(-1, 4, 2), np.array(best)
