"""YuNet: boxes of faces by `cv2.FaceDetectorYN`.

Wu, Peng, Yu: YuNet: A Tiny Millisecond-level Face Detector (2023), of opencv_zoo.
"""

from __future__ import annotations

import cv2
import numpy as np

from faceguide.preprocess.detect.boxes.letterbox import boxes_in_image, letterboxed
from faceguide.preprocess.detect.square import Boxes, Image

# What the version of March 2023 gives, the only one that opencv reads since 4.8.
OUTPUTS = tuple(f"{kind}_{cell}" for kind in ("cls", "obj", "bbox", "kps") for cell in (8, 16, 32))
_THRESHOLD = 0.3
_MANY = 5000  # boxes before overlapping ones are dropped


class YuNet:
    """YuNet at one input size.

    Raises:
        cv2.error: when the network cannot be loaded or run.
    """

    def __init__(self, content: bytes, side: int) -> None:
        network = np.frombuffer(content, np.uint8)
        self._side = side
        self._net = cv2.FaceDetectorYN.create(
            "onnx", network, np.empty(0, np.uint8), (side, side), _THRESHOLD, 0.3, _MANY
        )
        self(np.zeros((side, side, 3), np.uint8))

    def __call__(self, image: Image) -> Boxes:
        """Boxes with scores of .3 and more."""
        square, scale = letterboxed(image, self._side)
        found = self._net.detect(np.ascontiguousarray(square[..., ::-1]))[1]
        rows = np.empty((0, 15)) if found is None else np.asarray(found, np.float64)
        edges = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1)
        eyes = rows[:, 4:8].reshape(-1, 2, 2)
        return boxes_in_image(edges, rows[:, 14], eyes, scale, _THRESHOLD)
