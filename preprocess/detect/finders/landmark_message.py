"""The landmarks out of MediaPipe's message."""

from __future__ import annotations

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


def points_from_message(data: bytes) -> NDArray[np.float64]:
    """The normalised x, y, z of a serialised NormalizedLandmarkList, (478, 3).

    Read from the bytes, which takes a tenth of the time of the attributes. They are trusted only
    when every tag is where it is expected; else the message is parsed.
    """
    if len(data) == LANDMARKS * _POINT.itemsize:
        raw = np.frombuffer(data, np.uint8).reshape(LANDMARKS, _POINT.itemsize)
        if (raw[:, _TAG_PLACES] == _TAGS).all():
            rows, points = np.frombuffer(data, _POINT), np.empty((LANDMARKS, 3))
            points[:, 0], points[:, 1], points[:, 2] = rows["x"], rows["y"], rows["z"]
            return points
    from mediapipe.framework.formats.landmark_pb2 import NormalizedLandmarkList

    message = NormalizedLandmarkList.FromString(data)
    return np.array([(point.x, point.y, point.z) for point in message.landmark], np.float64)
