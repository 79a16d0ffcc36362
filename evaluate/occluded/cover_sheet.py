"""Examples of covered faces, to look at."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.evaluate.occluded.laid_covers import LaidCovers
from faceguide.train.distil.alterations import Alterations

_FACES = 10


def cover_sheet(
    cache: FaceCache, rows: NDArray[np.int64], covers: LaidCovers, strengths: tuple[float, ...]
) -> bytes:
    """A PNG of some of these faces: a line each, without a cover and at each strength."""
    rows = np.unique(rows)
    rows = rows[np.linspace(0, len(rows) - 1, min(_FACES, len(rows))).astype(np.int64)]
    altered, places = Alterations(cache, rows, (), covers.seed), np.arange(len(rows))
    images = altered.clean(places)
    points = altered.points(places) * images.shape[1]
    lines = [
        np.hstack([image, *(covers.over(image, p, int(row), s)[0] for s in strengths)])
        for image, p, row in zip(images, points, rows, strict=True)
    ]
    bgr = cv2.cvtColor(np.vstack(lines), cv2.COLOR_RGB2BGR)
    return cv2.imencode(".png", bgr)[1].tobytes()
