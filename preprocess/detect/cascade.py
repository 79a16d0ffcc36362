"""Find one face in an image: Face Mesh, and a second look where it sees nothing.

Face Mesh brings a detector for faces that fill the image; veils, masks and scenes defeat it. The
second look cuts a square round the box of a detector for small faces (then one for large faces)
and asks Face Mesh again. A mesh found there has to agree with the one found on the mirrored
crop, because Face Mesh lays a mesh over an ear or a collar as readily as over a face.

It also lays an upright mesh over a face that stands upside down, and nothing about that mesh shows
it. Its detector, though, is surer of such a face once the image is turned by 180 degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from faceguide.core.faces.align import five_points
from faceguide.preprocess.detect.face_mesh import BoxDetector, FaceLandmarker, FaceMesh

Image = NDArray[np.uint8]
Mesh = FaceMesh | FaceLandmarker


# (detector, side of the crop over the longer side of its box, largest disagreement accepted), in
# the order of trial. On 201 second looks at wild photographs of masked people, labelled by eye,
# .30 on the first crop kept 132 of 143 right meshes and 1 of 11 wrong ones; half of what later
# crops find is wrong, so they have to agree better.
SECOND_LOOKS: tuple[tuple[Literal["full", "short"], float, float], ...] = (
    ("full", 1.8, 0.30),
    ("short", 1.8, 0.15),
    ("full", 2.5, 0.15),
)

# A face stands upside down when turning the image by 180 degrees raises its score by more than
# _SURE, or by more than _HINT while less than _BETTER of its disagreement with the mirror image is
# left. That is true of none of 2,217 upright images (LFW, MFR2, ORL, scenes, masked faces; the
# nearest one wears a mask and gains .10), and of 525 of the 602 faces that MFR2, ORL, the scenes,
# the masked faces and a quarter of LFW show upside down. Those missed mostly wear masks. Scores of
# _UPRIGHT and more, which few inverted faces reach, are spared the second look.
_UPRIGHT, _SURE, _HINT, _BETTER = 0.8, 0.15, 0.05, 0.5
_TURNED_SIDE = 512  # pixels; the detector itself reduces every image to 128

# What the five alignment points are called on a mirrored image: eyes and mouth corners swap.
_MIRRORED = (1, 0, 2, 4, 3)


@dataclass(frozen=True)
class Face:
    """What was found in one image.

    Attributes:
        landmarks: (478, 3) float32 x, y, z in pixels of the image, or None.
        origin: ``detected`` by the first pass, ``retried``: by a second look, or ``none``.
        quality: 1 − disagreement with the mirrored image in eye distances, clipped to 0..1; NaN
            where it was not measured.
        count: faces that the first pass saw.
        reason: empty, or why there is no face: ``no_face``; ``implausible`` when a second look
            found a mesh that its mirror image contradicts; ``upside_down``.
    """

    landmarks: NDArray[np.float32] | None
    origin: Literal["detected", "retried", "none"]
    quality: float
    count: int
    reason: str


def find_face(
    image: Image,
    mesh: Mesh,
    boxes: BoxDetector | None,
    *,
    choose: Literal["largest", "center"] = "largest",
    check_all: bool = False,
) -> Face:
    """The landmarks of the one face that counts.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: detectors for the second look and for faces upside down; None leaves both out.
        choose: among several faces, the largest or the one nearest to the image's centre.
        check_all: also measure the quality of what the first pass found, for one more pass.
    """
    height, width = image.shape[:2]
    found, seen_by_mesh = mesh.look(image)
    if len(found):
        landmarks = found[0]
        if len(found) > 1:
            plane = found[:, :, :2]
            extents = np.concatenate([plane.min(axis=1), plane.max(axis=1)], axis=1)
            landmarks = found[_preferred(extents, width, height, choose)]
        if boxes is not None and _upside_down(landmarks, seen_by_mesh, image, mesh, boxes):
            return Face(None, "none", float("nan"), len(found), "upside_down")
        quality = float("nan")
        if check_all:
            quality = _quality(mirror_disagreement(landmarks, image, mesh))
        return Face(landmarks, "detected", quality, len(found), "")
    if boxes is None:
        return Face(None, "none", float("nan"), 0, "no_face")

    reason = "no_face"
    seen: dict[str, NDArray[np.float32]] = {}
    for reach, scale, limit in SECOND_LOOKS:
        if reach not in seen:
            seen[reach] = boxes(image, reach)
        if not len(seen[reach]):
            continue
        box = seen[reach][_preferred(seen[reach], width, height, choose)]
        crop, corner = square_crop(image, box, scale)
        found, seen_by_mesh = mesh.look(crop)
        inside = _face_in_box(found, box, corner)
        if inside is None:
            continue
        disagreement = mirror_disagreement(inside, crop, mesh)
        if disagreement <= limit:
            if _upside_down(inside, seen_by_mesh, crop, mesh, boxes):
                return Face(None, "none", float("nan"), 0, "upside_down")
            inside[:, :2] += corner
            return Face(inside, "retried", _quality(disagreement), 0, "")
        reason = "implausible"
    return Face(None, "none", float("nan"), 0, reason)


def mirror_disagreement(landmarks: NDArray[np.float32], image: Image, mesh: Mesh) -> float:
    """How far the face moves when the image is mirrored.

    Args:
        landmarks: (478, 3) pixels, found by `mesh` in `image`.
        image: (H, W, 3) uint8 RGB.

    Returns:
        Mean distance of the five alignment points to those of the nearest face in the mirrored
        image, mirrored back, over the eye distance; infinite when there is none.
    """
    found = mesh(np.ascontiguousarray(image[:, ::-1]))
    points = five_points(landmarks)
    eye_distance = float(np.linalg.norm(points[1] - points[0]))
    if not len(found) or eye_distance == 0:
        return float("inf")
    mirrored = five_points(found)[:, _MIRRORED]  # (F, 5, 2)
    mirrored[..., 0] = image.shape[1] - 1 - mirrored[..., 0]
    distances = np.linalg.norm(mirrored - points, axis=-1).mean(axis=-1)  # (F,)
    return float(distances.min()) / eye_distance


def _upside_down(
    landmarks: NDArray[np.float32],
    seen: NDArray[np.float32] | None,
    image: Image,
    mesh: Mesh,
    boxes: BoxDetector,
) -> bool:
    """Whether the image shows a face better when it is turned by 180 degrees.

    Args:
        landmarks: (478, 3) pixels, found by `mesh` in `image`.
        seen: (B, 5) boxes and scores that the mesh was found by; None: to be asked of `boxes`.
    """
    score = _best_score(boxes.scored(image, "short") if seen is None else seen)
    if score >= _UPRIGHT:
        return False
    height, width = image.shape[:2]
    step = max(1, max(height, width) // _TURNED_SIDE)
    small = np.ascontiguousarray(image[::-step, ::-step])
    gain = _best_score(boxes.scored(small, "short")) - score
    if gain <= _HINT or gain > _SURE:
        return gain > _SURE
    turned = np.ascontiguousarray(image[::-1, ::-1])
    found = mesh(turned)
    if not len(found):
        return False
    middle = np.array([width - 1, height - 1]) - landmarks[:, :2].mean(axis=0)
    away = np.linalg.norm(found[:, :, :2].mean(axis=1) - middle, axis=1)
    after = mirror_disagreement(found[away.argmin()], turned, mesh)
    return after < _BETTER * mirror_disagreement(landmarks, image, mesh)


def _best_score(seen: NDArray[np.float32]) -> float:
    return float(seen[:, 4].max(initial=0.0))


def square_crop(
    image: Image, box: NDArray[np.floating], scale: float
) -> tuple[Image, NDArray[np.float32]]:
    """Cut a square round a box, on whole pixels; what lies outside the image is black.

    Args:
        image: (H, W, 3) uint8.
        box: left, top, right, bottom in pixels.
        scale: side of the square over the longer side of the box. The square is at most twice
            as large as the image's shorter side, which no face exceeds by much.

    Returns:
        The crop (S, S, 3) uint8, and x, y of its top left pixel in the image.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = (float(edge) for edge in box)
    side = round(scale * max(right - left, bottom - top))
    side = min(max(side, 1), 2 * min(height, width))
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    crop = np.zeros((side, side, 3), np.uint8)
    rows = slice(min(max(y, 0), height), min(max(y + side, 0), height))
    columns = slice(min(max(x, 0), width), min(max(x + side, 0), width))
    crop[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] = image[
        rows, columns
    ]
    return crop, np.array([x, y], np.float32)


def _preferred(boxes: NDArray[np.floating], width: int, height: int, choose: str) -> int:
    """Index of the largest of (B, 4) boxes, or of the one nearest to the image's centre."""
    if choose == "largest":
        return int(np.argmax((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])))
    if choose == "center":
        centre = np.array([width - 1, height - 1]) / 2
        return int(np.argmin(np.linalg.norm((boxes[:, :2] + boxes[:, 2:]) / 2 - centre, axis=1)))
    raise ValueError(f"choose must be 'largest' or 'center', not {choose!r}")


def _face_in_box(
    found: NDArray[np.float32], box: NDArray[np.floating], corner: NDArray[np.floating]
) -> NDArray[np.float32] | None:
    """Of the faces found in a crop, the one nearest to the box's centre, if it is in the box."""
    if not len(found):
        return None
    centres = five_points(found).mean(axis=1) + corner  # (F, 2)
    nearest = int(np.argmin(np.linalg.norm(centres - (box[:2] + box[2:]) / 2, axis=1)))
    centre = centres[nearest]
    if not ((box[:2] <= centre) & (centre <= box[2:])).all():
        return None
    return found[nearest]


def _quality(disagreement: float) -> float:
    return min(max(1.0 - disagreement, 0.0), 1.0)
