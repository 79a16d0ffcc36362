"""The only transform from source pixels to crop pixels.

Coordinates are pixels, x right, y down; the centre of the top left pixel is (0, 0). Image,
landmarks and masks of one face all go through the same 2×3 matrix, so that a landmark drawn on
the image stays on its pixel.
"""

from __future__ import annotations

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
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    return np.concatenate([moved, points[..., 2:] * scale], axis=-1)


def invert(transform: NDArray[np.floating]) -> Transform:
    """The 2×3 matrix from crop pixels back to source pixels."""
    square = np.vstack([np.asarray(transform, np.float64), (0.0, 0.0, 1.0)])
    return np.linalg.inv(square)[:2]


def warp(image: NDArray[np.uint8], transform: NDArray[np.floating], size: int) -> NDArray[np.uint8]:
    """Cut the (size, size, 3) uint8 crop out of `image` (H, W, 3); outside the image is black.

    A face more than twice as large as its crop is reduced by area first, since bilinear
    sampling alone would skip pixels.
    """
    matrix = np.asarray(transform, np.float64)
    scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if scale < 0.5:
        height, width = image.shape[:2]
        reduced = (max(1, round(width * scale * 1.5)), max(1, round(height * scale * 1.5)))
        # Pixel centres: x_reduced = (x + 0.5)·f − 0.5.
        fx, fy = reduced[0] / width, reduced[1] / height
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
        back = np.array([[1 / fx, 0, 0.5 / fx - 0.5], [0, 1 / fy, 0.5 / fy - 0.5], [0, 0, 1]])
        matrix = matrix @ back
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR)
