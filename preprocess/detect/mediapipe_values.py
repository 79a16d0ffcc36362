"""What MediaPipe gives, in pixels: landmarks and boxes come as shares of the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.faces import LANDMARKS

# One landmark in a serialised NormalizedLandmarkList: a tag, the length of the message, then
# x, y and z, each a tag and a little-endian float32.
_POINT = np.dtype(
    [
        ("tag", "u1"),
        ("length", "u1"),
        ("x_tag", "u1"),
        ("x", "<f4"),
        ("y_tag", "u1"),
        ("y", "<f4"),
        ("z_tag", "u1"),
        ("z", "<f4"),
    ]
)
_TAG_PLACES = np.array([0, 1, 2, 7, 12])
_TAGS = np.array([0x0A, 15, 0x0D, 0x15, 0x1D], np.uint8)


def points_from_message(message: Any) -> NDArray[np.float64]:
    """The normalised x, y, z of a NormalizedLandmarkList, (478, 3).

    Read from the serialised bytes, which takes a tenth of the time of the attributes. The bytes
    are trusted only when every tag is where it is expected; else the attributes are read.
    """
    data = message.SerializeToString()
    if len(data) == LANDMARKS * _POINT.itemsize:
        raw = np.frombuffer(data, np.uint8).reshape(LANDMARKS, _POINT.itemsize)
        if (raw[:, _TAG_PLACES] == _TAGS).all():
            rows, points = np.frombuffer(data, _POINT), np.empty((LANDMARKS, 3))
            points[:, 0], points[:, 1], points[:, 2] = rows["x"], rows["y"], rows["z"]
            return points
    return np.array([(point.x, point.y, point.z) for point in message.landmark], np.float64)


def faces_in_pixels(
    faces: list[NDArray[np.float64]], image: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Normalised faces → (F, 478, 3) pixels; MediaPipe scales z by the width, like x."""
    if not faces:
        return np.empty((0, LANDMARKS, 3), np.float32)
    height, width = image.shape[:2]
    return (np.stack(faces) * (width, height, width)).astype(np.float32)


def boxes_in_pixels(detections: list[Any], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Detections → (B, 5) left, top, right, bottom in pixels and score, the surest first."""
    found = sorted(detections, key=lambda detection: -detection.score[0])
    shares = [(d.location_data.relative_bounding_box, d.score[0]) for d in found]
    boxes = [(b.xmin, b.ymin, b.xmin + b.width, b.ymin + b.height, s) for b, s in shares]
    height, width = image.shape[:2]
    scaled = np.array(boxes, np.float64).reshape(-1, 5) * (width, height, width, height, 1)
    return scaled.astype(np.float32)
