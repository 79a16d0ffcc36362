"""The mean frontal face: what stands in where a face has no landmarks of its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MEAN_FILE = Path(__file__).with_name("mean_landmarks.npy")


@cache
def mean_landmarks() -> NDArray[np.float32]:
    """The mean frontal face, (478, 3) float32, read only.

    x and y in crop pixels of the 112×112 ArcFace crop divided by 112, z in the same unit, symmetric
    about a vertical line. Written by ``bench/mean_landmarks.py``.
    """
    points: NDArray[np.float32] = np.load(MEAN_FILE, allow_pickle=False)
    points.setflags(write=False)
    return points
