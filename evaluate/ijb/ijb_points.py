"""Which images of IJB were found by their detector, and whether their five points are theirs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import EvaluationError

# The one source → crop transform of the product.
from faceguide.core.faces import align
from faceguide.evaluate.ijb.ijb_meta import IJBMeta

# A profile, whose points lie on a line, misses the template by 0.6; points in a mirrored order by
# more than 0.9.
_MOST_MISFIT = 0.85
_LEAST_EXTENT = 0.02  # of the larger side of a loose crop; a face fills about half of it
_MARGIN = 0.1  # of a side; points of a cut-off face may lie a little outside


def unusable(meta: IJBMeta, *, detector_score: bool) -> dict[int, str]:
    """Place → reason of the images that meta files themselves rule out.

    Args:
        detector_score: whether images that the detector did not find are ruled out.

    Raises:
        EvaluationError: when that concerns all images.
    """
    path = f"{meta.folder}/meta/{meta.name}_name_5pts_score.txt"
    images = np.unique(meta.image)
    points, scores = meta.points[images], meta.detector_score[images]
    if ((points >= 0) & (points <= 1)).all() and len(images):
        raise EvaluationError(
            f"{path}: all points lie in 0 … 1, expected pixels; multiply by width and height"
        )
    found: dict[int, str] = {}
    if detector_score:
        if not (scores > 0).any() and len(images):
            raise EvaluationError(
                f"{path}: no detector score is above 0; use --no-detector-score if there are none"
            )
        for place in images[scores <= 0].tolist():
            found[place] = "detector score of 0 or less"
    for place in images[_misfit(points) > _MOST_MISFIT].tolist():
        found.setdefault(place, "points miss the template, as in a mirrored order")
    return found


def misplaced(points: NDArray[np.float32], width: int, height: int) -> str | None:
    """Why the points cannot be of this image, or None.

    Args:
        points: (5, 2) x and y in pixels.
    """
    size = np.array([width, height])
    if np.ptp(points, axis=0).max() < _LEAST_EXTENT * size.max():
        return "points are too near each other for an image of this size"
    outside = ((points < -_MARGIN * size) | (points > (1 + _MARGIN) * size)).any(1)
    return "points lie outside the image" if outside.sum() > 2 else None


def _misfit(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N,) share of the template's spread that no similarity of the points reaches, 0 to 1."""
    target = align.template(112).astype(np.float64)
    target -= target.mean(0)
    source = points.astype(np.float64)
    source -= source.mean(1, keepdims=True)
    # Of a rotation and scale, as complex numbers: the part of the target that it explains.
    a, b = source[..., 0] + 1j * source[..., 1], target[:, 0] + 1j * target[:, 1]
    spread = (np.abs(a) ** 2).sum(1) * (np.abs(b) ** 2).sum()
    common = np.abs((a.conj() * b).sum(1)) ** 2
    explained = np.divide(common, spread, out=np.ones(len(a)), where=spread > 0)
    return np.sqrt(1 - explained.clip(0, 1))
