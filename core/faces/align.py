"""The only transform from source pixels to crop pixels.

Coordinates are pixels, x right, y down; the centre of the top left pixel is (0, 0). Image,
landmarks and masks of one face all go through the same 2×3 matrix, so that a landmark drawn on
the image stays on its pixel.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# The five points out of MediaPipe's 478: the irises at the left and the right of the image,
# the nose tip, the corners of the mouth at the left and the right of the image.
FIVE_POINTS = (468, 473, 1, 61, 291)

# The standard 112×112 template of ArcFace and AdaFace, in the same order.
TEMPLATE_112 = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)

Transform = NDArray[np.float64]

_CV2_SIDE = 32_767  # warpAffine takes no longer side


def template(size: int, margin: float = 0.0) -> NDArray[np.float64]:
    """The five template points in a crop of `size` pixels.

    Args:
        size: side of the square crop in pixels.
        margin: what is added on each side, as a share of the part that the template covers;
            0.1 shows 20 % more of the photograph in each direction.

    Returns:
        (5, 2) x and y in crop pixels.
    """
    scale = size / (112.0 * (1.0 + 2.0 * margin))
    # Pixel centres are at whole numbers, so the middle of 112 pixels is 55.5.
    return (TEMPLATE_112 - 55.5) * scale + (size - 1) / 2.0


def five_points(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """(…, 478, 2 or 3) landmarks → (…, 5, 2) alignment points, same unit."""
    return np.asarray(landmarks[..., FIVE_POINTS, :2], np.float64)


def similarity(points: NDArray[np.floating], target: NDArray[np.floating]) -> Transform:
    """The least-squares rotation, uniform scale and shift that takes `points` to `target`.

    Closed form over complex numbers: with centred z and w, the best factor is
    Σ conj(z)·w / Σ |z|².

    Args:
        points: (P, 2) in source pixels.
        target: (P, 2) in crop pixels.

    Returns:
        (2, 3) float64.

    Raises:
        ValueError: when all points coincide or any is not finite.
    """
    z = points[:, 0] + 1j * points[:, 1]
    w = target[:, 0] + 1j * target[:, 1]
    z_mean, w_mean = z.mean(), w.mean()
    z = z - z_mean
    spread = float(np.vdot(z, z).real)
    if not np.isfinite(spread) or spread < 1e-12:
        raise ValueError("the alignment points coincide or are not finite")
    factor = np.vdot(z, w - w_mean) / spread
    if not 1e-6 < abs(factor) < 1e6:
        raise ValueError("the alignment points do not fit the template")
    shift = w_mean - factor * z_mean
    return np.array(
        [
            [factor.real, -factor.imag, shift.real],
            [factor.imag, factor.real, shift.imag],
        ]
    )


def misfit(points: NDArray[np.floating]) -> tuple[float, float]:
    """How badly five points fit the template, and how far they are turned.

    Args:
        points: (5, 2) in pixels.

    Returns:
        Root mean square distance of the fitted points to the template's, in eye distances of the
        template, and the rotation that takes them there in degrees, −180 to 180.

    Raises:
        ValueError: as `similarity`.
    """
    target = template(112)
    transform = similarity(points, target)
    away = np.linalg.norm(apply(transform, points) - target, axis=1)
    residual = math.sqrt(float(np.mean(away**2))) / float(np.linalg.norm(target[1] - target[0]))
    return residual, math.degrees(math.atan2(transform[1, 0], transform[0, 0]))


def whole_image(width: int, height: int, size: int) -> Transform:
    """The transform of ``--align none``: the whole image, its aspect kept, centred in the crop."""
    scale = size / max(width, height)
    return np.array(
        [
            [scale, 0.0, (size - 1) / 2.0 - scale * (width - 1) / 2.0],
            [0.0, scale, (size - 1) / 2.0 - scale * (height - 1) / 2.0],
        ]
    )


def apply(transform: NDArray[np.floating], points: NDArray[np.floating]) -> NDArray[np.float64]:
    """Take x and y of (…, 2 or 3) points through `transform`; z is scaled by the same factor."""
    matrix = np.asarray(transform, np.float64)
    moved = points[..., :2] @ matrix[:, :2].T + matrix[:, 2]
    if points.shape[-1] == 2:
        return moved
    return np.concatenate([moved, points[..., 2:] * scale_of(matrix)], axis=-1)


def invert(transform: NDArray[np.floating]) -> Transform:
    """The 2×3 matrix from crop pixels back to source pixels."""
    square = np.vstack([np.asarray(transform, np.float64), (0.0, 0.0, 1.0)])
    return np.linalg.inv(square)[:2]


def scale_of(transform: NDArray[np.floating]) -> float:
    """Crop pixels per source pixel of a similarity transform."""
    return math.hypot(transform[0, 0], transform[1, 0])


def warp(image: NDArray[np.uint8], transform: NDArray[np.floating], size: int) -> NDArray[np.uint8]:
    """Cut the (size, size, 3) uint8 crop out of `image` (H, W, 3); outside the image is black.

    A face more than twice as large as its crop is reduced by area first, since bilinear
    sampling by itself would skip pixels.
    """
    matrix = np.asarray(transform, np.float64)
    scale = scale_of(matrix)
    if scale < 0.5 or max(image.shape[:2]) >= _CV2_SIDE:
        image, matrix = _window(image, matrix, size)
        if image.size == 0:
            return np.zeros((size, size, 3), np.uint8)
    if scale < 0.5:
        height, width = image.shape[:2]
        reduced = (max(1, round(width * scale * 1.5)), max(1, round(height * scale * 1.5)))
        # Pixel centres: x_reduced = (x + 0.5)·f − 0.5.
        fx, fy = reduced[0] / width, reduced[1] / height
        image = _as_uint8(cv2.resize(image, reduced, interpolation=cv2.INTER_AREA))
        back = np.array([[1 / fx, 0, 0.5 / fx - 0.5], [0, 1 / fy, 0.5 / fy - 0.5], [0, 0, 1]])
        matrix = matrix @ back
    return _as_uint8(cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR))


def _window(
    image: NDArray[np.uint8], matrix: Transform, size: int
) -> tuple[NDArray[np.uint8], Transform]:
    """The part of the image that the crop shows, and the transform from there.

    Spares the reduction of a whole scene for one face, and OpenCV's limit on sides.
    """
    corners = np.array([(-1, -1), (size, -1), (-1, size), (size, size)], np.float64)
    source = apply(invert(matrix), corners)
    # A border wide enough that reducing by area sees the same neighbours.
    border = 4 / scale_of(matrix)
    left, top = np.maximum(np.floor(source.min(0) - border), 0).astype(int)
    right, bottom = np.maximum(np.ceil(source.max(0) + border), 0).astype(int)
    shift = np.array([[1.0, 0, left], [0, 1.0, top], [0, 0, 1]])
    return image[top : bottom + 1, left : right + 1], matrix @ shift


def _as_uint8(image: NDArray[Any]) -> NDArray[np.uint8]:
    return image.astype(np.uint8, copy=False)
