"""Head pose in degrees out of the landmarks.

The angles are those of a rigid mean head (`mean_landmarks`) turned until its points lie on the
landmarks. In the frame x right, y down, z away from the camera the rotation is

    R = Rz(roll) · Ry(−yaw) · Rx(−pitch)

so the head nods, then turns, then tilts in the image plane; turning the photograph changes only
roll. Signs: yaw > 0, the nose points to the right of the image; pitch > 0, it points up;
roll > 0, the head is tilted clockwise as one sees it. All three are 0 for the mean head, which is
the mean of frontal photographs made symmetric.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from faceguide.core.faces.mean_face import mean_landmarks

# Points that move little with the mouth, the jaw, the brows and the lids: forehead, corners of
# the eyes, bridge, tip and wings of the nose, temples and cheekbones. Left and right in pairs, so
# that the set itself does not pull to a side.
RIGID_POINTS = (
    *(10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 19, 94, 2),  # the middle line, from the top down
    *(109, 338, 67, 297, 103, 332, 54, 284, 21, 251),  # upper edge of the face
    *(162, 389, 127, 356, 234, 454),  # temples
    *(33, 263, 133, 362),  # corners of the eyes
    *(122, 351, 193, 417, 48, 278, 98, 327),  # bridge and wings of the nose
    *(116, 345, 117, 346, 50, 280),  # cheekbones
)


def head_pose(landmarks: NDArray[np.floating]) -> NDArray[np.float32]:
    """Yaw, pitch and roll of each face.

    With z: the rotation of the least-squares similarity between mean head and landmarks in three
    dimensions (Kabsch 1976, Umeyama 1991). Without: the least-squares affine map of the mean
    head to x and y, and the nearest rotation rows under one scale (scaled orthography).

    Args:
        landmarks: (N, 478, 3) or (478, 3), x, y and z in any one unit, x right, y down, z away
            from the camera; z may be NaN.

    Returns:
        (N, 3) or (3,) float32 yaw, pitch, roll in degrees; pitch and roll within ±180, yaw within
        ±90. NaN where an x or y is NaN or all points coincide.

    Raises:
        ValueError: when the shape is another.
    """
    if landmarks.ndim not in (2, 3) or landmarks.shape[-2:] != (478, 3):
        raise ValueError(f"expected landmarks (N, 478, 3) or (478, 3), found {landmarks.shape}")
    points = np.asarray(landmarks, np.float64).reshape(-1, 478, 3)[:, RIGID_POINTS]  # (N, P, 3)
    angles = np.full((len(points), 3), np.nan, np.float32)
    extent = np.ptp(points[..., :2], axis=1)  # (N, 2)
    flat = np.isfinite(extent).all(axis=1) & (extent > 0).any(axis=1)
    deep = flat & np.isfinite(points[..., 2]).all(axis=1)
    model = mean_landmarks()[list(RIGID_POINTS)].astype(np.float64)
    model -= model.mean(axis=0)
    if deep.any():
        angles[deep] = _angles(_rotations_3d(points[deep], model))
    if (flat & ~deep).any():
        angles[flat & ~deep] = _angles(_rotations_2d(points[flat & ~deep, :, :2], model))
    return angles.reshape(*landmarks.shape[:-2], 3)


def _rotations_3d(points: NDArray[np.float64], model: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, P, 3) points and a centred (P, 3) model → (N, 3, 3)."""
    centred = points - points.mean(axis=1, keepdims=True)
    u, _, vt = np.linalg.svd(np.swapaxes(centred, 1, 2) @ model)  # (N, 3, 3) each
    # A reflection may fit better than any rotation; its least certain axis is turned over.
    u[..., 2] *= np.linalg.det(u @ vt)[:, None]
    return u @ vt


def _rotations_2d(points: NDArray[np.float64], model: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, P, 2) points and a centred (P, 3) model → (N, 3, 3)."""
    centred = points - points.mean(axis=1, keepdims=True)
    affine = np.swapaxes(centred, 1, 2) @ model @ np.linalg.inv(model.T @ model)  # (N, 2, 3)
    u, _, vt = np.linalg.svd(affine, full_matrices=False)  # (N, 2, 2), (N, 2), (N, 2, 3)
    rows = u @ vt
    return np.concatenate([rows, np.cross(rows[:, :1], rows[:, 1:])], axis=1)


def _angles(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, 3, 3) rotations → (N, 3) yaw, pitch, roll in degrees; the inverse of `rotation`."""
    yaw = np.arcsin(np.clip(rotations[:, 2, 0], -1, 1))
    pitch = -np.arctan2(rotations[:, 2, 1], rotations[:, 2, 2])
    roll = np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0])
    return np.rad2deg(np.stack([yaw, pitch, roll], axis=1))
