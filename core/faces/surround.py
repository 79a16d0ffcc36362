"""One identity's face in another one's surround: hair, ears, neck and background swapped.

In tests a face is laid into the surround of another image (`face_in_surround`): two identities,
one surround, or one identity in two. For training it is turned round (`surround_behind_face`): the
surround moves behind the face, whose landmarks, masks and label stay exact. After "Noise or Signal"
(Xiao et al., 2021: foregrounds on swapped backgrounds), here by landmarks.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from faceguide.core.faces.face_oval import FACE_OVAL, blend_weight, oval_of
from faceguide.core.faces.mean_face import mean_landmarks

Image = NDArray[np.uint8]

# Outer corners of the eyes, tip of the nose, corners of the mouth: they weigh three times.
_INNER = (33, 263, 1, 61, 291)
_FITTED = np.array((*FACE_OVAL, *_INNER * 3))
_GAINS = (0.6, 1.6)  # of a colour's spread
_LEAST_SPREAD = 1e-3  # of Lab values, whose range is 100
NEAREST = 40  # donors in pose, among which one is chosen


def face_in_surround(
    face: Image,
    face_points: NDArray[np.floating],
    surround: Image,
    surround_points: NDArray[np.floating],
) -> Image:
    """X(f, s): the face of one image in the surround of another, in the latter's frame.

    The face moves by the affine map that fits the landmarks best, takes on the mean and spread of
    the other face's Lab colours, and is blended in where both ovals lie.

    Args:
        face, surround: (S, S, 3) RGB.
        face_points, surround_points: (478, ≥2) landmarks in pixels; a face with any that is not
            finite has the mean face's.

    Returns:
        (S, S, 3), the pixels of `surround` outside its oval.
    """
    size = len(surround)
    points, places = _points(face_points, size), _points(surround_points, size)
    own, other = oval_of(points, size), oval_of(places, size)
    to_surround = _affine(points, places)
    moved = _warp(_recoloured(face, own, surround, other), to_surround)
    both = np.minimum(other, oval_of(_apply(to_surround, points), size))
    return _blend(moved, _rgb(surround), blend_weight(both))


def surround_behind_face(
    face: Image,
    face_points: NDArray[np.floating],
    surround: Image,
    surround_points: NDArray[np.floating],
) -> Image:
    """A face in the surround of another image, which is moved and recoloured to fit it.

    Arguments as `face_in_surround`.

    Returns:
        (S, S, 3) in the frame of `face`, its pixels well inside its oval.
    """
    size = len(face)
    points, places = _points(face_points, size), _points(surround_points, size)
    own, other = oval_of(points, size), oval_of(places, size)
    moved = _warp(_recoloured(surround, other, face, own), _affine(places, points))
    return _blend(_rgb(face), moved, blend_weight(own))


class Donors:
    """Whose surround a face is given: another identity's, of nearly the same pose.

    With another pose the seam shows, and with the identity's own images the surround would tell
    something of the identity.

    Args:
        poses: (N, 3) yaw, pitch, roll in degrees; not finite counts as 0.
        labels: (N,) identities; below 0 = unknown, which counts as nobody else's.
    """

    def __init__(self, poses: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
        self._poses = np.nan_to_num(np.asarray(poses, np.float64), posinf=0.0, neginf=0.0)
        self._labels = np.asarray(labels, np.int64)
        self._tree = cKDTree(self._poses)

    def near(self, index: int) -> NDArray[np.int64]:
        """The up to 40 images of other identities nearest in pose, nearest first.

        The distance is the sum of the absolute differences of the three angles.
        """
        count, asked = len(self._poses), 2 * NEAREST
        while True:
            asked = min(asked, count)
            found = np.atleast_1d(self._tree.query(self._poses[index], asked, p=1)[1])
            label = self._labels[index]
            others = found[found != index] if label < 0 else found[self._labels[found] != label]
            if len(others) >= NEAREST or asked == count:
                return others[:NEAREST].astype(np.int64)
            asked *= 4

    def choose(self, index: int, uniform: NDArray[np.floating]) -> NDArray[np.int64]:
        """Different donors of an image, one for each of the (C,) numbers in [0, 1).

        Fewer where there are fewer other identities' images.
        """
        left = self.near(index).tolist()
        places = [float(number) for number in uniform[: len(left)]]
        # A float32 just below 1 times the count may round up to it.
        return np.array(
            [left.pop(min(int(u * len(left)), len(left) - 1)) for u in places], np.int64
        )


def _points(points: NDArray[np.floating], size: int) -> NDArray[np.float64]:
    """(478, 2) landmarks in pixels, the mean face's for a face without."""
    flat = np.asarray(points, np.float64)[:, :2]
    return flat if np.isfinite(flat).all() else mean_landmarks()[:, :2].astype(np.float64) * size


def _affine(points: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (2, 3) map that takes `points` to `target`, least squares over oval and inner points."""
    design = np.column_stack([points[_FITTED], np.ones(len(_FITTED))])
    return np.linalg.lstsq(design, target[_FITTED], rcond=None)[0].T


def _apply(matrix: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.float64]:
    return points @ matrix[:, :2].T + matrix[:, 2]


def _warp(image: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    size = (image.shape[1], image.shape[0])
    warped = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT
    )
    return np.asarray(warped, np.float32)


def _recoloured(
    image: Image, oval: NDArray[np.float32], like: Image, like_oval: NDArray[np.float32]
) -> NDArray[np.float32]:
    """`image` with the mean and the spread of its oval's Lab colours moved to those of `like`.

    (S, S, 3) RGB, 0 to 1.
    """
    lab, other = (
        np.asarray(cv2.cvtColor(_rgb(picture), cv2.COLOR_RGB2Lab), np.float32)
        for picture in (image, like)
    )
    mean, spread = _colours(lab, oval)
    mean_like, spread_like = _colours(other, like_oval)
    gain = np.clip(spread_like / np.maximum(spread, _LEAST_SPREAD), *_GAINS)
    moved = np.asarray((lab - mean) * gain + mean_like, np.float32)
    return np.asarray(cv2.cvtColor(moved, cv2.COLOR_Lab2RGB), np.float32)


def _rgb(image: Image) -> NDArray[np.float32]:
    return np.asarray(image, np.float32) / np.float32(255.0)


def _colours(
    lab: NDArray[np.float32], oval: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weighted mean and standard deviation of each channel; an empty oval counts as all."""
    weight = (oval if oval.any() else np.ones_like(oval)).ravel()
    weight = weight / weight.sum()
    values = lab.reshape(-1, 3)
    mean = weight @ values
    return mean, np.sqrt(weight @ (values - mean) ** 2)


def _blend(
    inside: NDArray[np.float32], outside: NDArray[np.float32], weight: NDArray[np.float32]
) -> Image:
    """(S, S, 3) 0 to 1 each → uint8."""
    mixed = outside + weight[..., None] * (inside - outside)
    return np.rint(np.clip(mixed, 0.0, 1.0) * 255.0).astype(np.uint8)
