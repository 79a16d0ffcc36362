"""MediaPipe's detector for small faces, which mediapipe 0.10.21 carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from faceguide.preprocess.detect.finders import mediapipe_package
from faceguide.preprocess.detect.square import Boxes, Image

_MODEL = "modules/face_detection/face_detection_full_range_sparse.tflite"


def has_full_range() -> bool:
    """Whether the installed mediapipe carries the detector; imports nothing."""
    spec = importlib.util.find_spec("mediapipe")
    return spec is not None and (Path(spec.origin or "").parent / _MODEL).exists()


class FullRange:
    """`mediapipe.solutions.face_detection` with its full-range model, for scores of .5 and more."""

    def __init__(self) -> None:
        detection = mediapipe_package.load("mediapipe.python.solutions.face_detection")
        with mediapipe_package.quiet():
            self._graph = detection.FaceDetection(model_selection=1)
            self._graph.process(np.zeros((64, 64, 3), np.uint8))

    def __call__(self, image: Image) -> Boxes:
        """Boxes of faces, which may be small in the image."""
        found = self._graph.process(np.ascontiguousarray(image)).detections or []
        found = sorted(found, key=lambda detection: -detection.score[0])
        places = [detection.location_data for detection in found]
        shares = [
            (box.xmin, box.ymin, box.xmin + box.width, box.ymin + box.height, a.x, a.y, b.x, b.y)
            for place in places
            for box in (place.relative_bounding_box,)
            for a, b in (place.relative_keypoints[:2],)
        ]
        height, width = image.shape[:2]
        points = np.array(shares, np.float64).reshape(-1, 4, 2) * (width, height)
        scores = np.array([detection.score[0] for detection in found], np.float32)
        points = points.astype(np.float32)
        return Boxes(points[:, :2].reshape(-1, 4), scores, points[:, 2:])
