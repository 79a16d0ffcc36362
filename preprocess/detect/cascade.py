"""Find one face in an image: the finder's own look, then meshes in the boxes of other detectors.

A finder's own detector is for bare faces that fill the image; veils, masks and scenes defeat it.
The mesh copes with them, given the right square. So the second look takes squares from another
detector and lays the mesh there directly, and again where the first mesh says the face is. A mesh
found so has to reach a presence, to have its irises where the detector saw eyes, and to agree with
the one found on the mirrored image, because the network lays a mesh over an ear or a collar as
readily as over a face.

A mesh is upright even where the face is upside down, and nothing about it shows that. Detectors,
though, are surer of such a face once the image is turned.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.faces.align import five_points
from faceguide.preprocess.detect.boxes.box_detectors import SecondLooks
from faceguide.preprocess.detect.finders.finder import Finder
from faceguide.preprocess.detect.square import Boxes, Image, Square, tracked

# MediaPipe's own limit for the plain look.
_PRESENT = 0.5

# Plain hits on cloth, wheels and a logo had scores of .53 to .75: below _WEAK another detector has
# to see eyes there too, within _SEEN eye distances.
_WEAK, _SEEN = 0.8, 0.5
# Below this score, or the presence above, a find of a finder that doubts itself has to agree.
_DOUBTED = 0.65

# A candidate's score over that of the best box; so many are tried in order of preference first.
_LIKELY, _CANDIDATES = 0.6, 3
_FAINT = 0.3  # score below which a box is none: hair and lace beside faces have up to .296
_SMALLEST = 6.0  # pixels between the eyes
_STEEPEST = np.deg2rad(60.0)  # a box whose eyes are steeper is taken for upright

# Scores of the finder's detector from which a face is upright: no inverted one reached .88. Below,
# with CenterFace, the view counts whose best scores of both detectors add up to more by _HINT and
# reach _TOGETHER; they do not differ by more than _REACH about which way is up. Without it, the
# one whose score is higher by _SURE and reaches _ALONE, or _UPRIGHT where nothing is seen upright:
# YuNet is no judge of this under veils. Over a covered mouth these know little of it, so then the
# mesh must not be surer of the upright face. bench/detect.py counts what is mended and spoiled.
_UPRIGHT, _HINT, _TOGETHER, _SURE, _ALONE, _REACH = 0.88, 0.05, 1.0, 0.15, 0.7, 0.3

# Counterclockwise by quarters, as `np.rot90`.
_TURNS = {1: cv2.ROTATE_90_COUNTERCLOCKWISE, 2: cv2.ROTATE_180, 3: cv2.ROTATE_90_CLOCKWISE}

# What the five alignment points are called on a mirrored image: eyes and mouth corners swap.
_MIRRORED = (1, 0, 2, 4, 3)


@dataclass(frozen=True)
class Face:
    """What was found in one image.

    Attributes:
        landmarks: (478, 3) float32 x, y, z in pixels of the image, or None.
        origin: ``detected`` by the finder itself, ``retried``: by a second look or on the turned
            image, or ``none``.
        quality: 1 − disagreement with the mirrored image in eye distances, clipped to 0..1; NaN
            where it was not measured.
        presence: how sure the mesh is that there is a face, 0 to 1; NaN without landmarks.
        score: of the detector whose box it was found in, 0 to 1; NaN without landmarks.
        count: faces that the finder's own detector saw.
        reason: empty, or why there is no face: ``no_face``; ``implausible`` when a mesh was found
            that the detector's eyes or the mirrored image contradict.
    """

    landmarks: NDArray[np.float32] | None
    origin: Literal["detected", "retried", "none"]
    quality: float = float("nan")
    presence: float = float("nan")
    score: float = float("nan")
    count: int = 0
    reason: str = ""


class _View:
    """The image turned by quarters of a circle, and what detectors see in it, each asked once."""

    def __init__(self, image: Image, quarters: int, finder: Finder, looks: SecondLooks) -> None:
        self.quarters = quarters
        # By OpenCV, which turns a large photograph in a thirtieth of numpy's time.
        turned = cv2.rotate(image, _TURNS[quarters]) if quarters else image
        self.image = turned.astype(np.uint8, copy=False)
        self._finder, self._looks = finder, looks
        self._seen: dict[int, Boxes] = {}

    @cached_property
    def own(self) -> Boxes:
        """What the finder's detector sees."""
        return self._finder.boxes(self.image)

    def seen(self, look: int) -> Boxes:
        """What a detector of the second looks sees."""
        if look not in self._seen:
            self._seen[look] = self._looks.detectors[look](self.image)
        return self._seen[look]

    @cached_property
    def score(self) -> float:
        """How sure the finder's detector is of its best face."""
        return _best(self.own)

    def turned_back(self, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """Landmarks of this view in pixels of the image."""
        points = landmarks.copy()
        height, width = self.image.shape[:2]
        for _ in range(self.quarters):  # clockwise by a quarter, each time
            x = points[:, 0].copy()
            points[:, 0], points[:, 1] = height - 1 - points[:, 1], x
            height, width = width, height
        return points


def find_face(
    image: Image,
    finder: Finder,
    looks: SecondLooks,
    *,
    choose: Literal["largest", "center"] = "largest",
    check_all: bool = False,
    quarter_turns: bool = False,
) -> Face:
    """The landmarks of the one face that counts.

    Args:
        image: (H, W, 3) uint8 RGB.
        looks: detectors of the second looks.
        choose: among several faces, the largest or the one nearest to the image's centre.
        check_all: also measure the quality of what the finder itself found, for one more pass.
        quarter_turns: also look for faces that lie on their side.
    """
    if choose not in ("largest", "center"):
        raise ValueError(f"choose must be 'largest' or 'center', not {choose!r}")
    view = _View(image, 0, finder, looks)
    # Before any other image: a finder knows the squares of its last boxes to the last bit.
    face = _plain(view, finder, looks, choose, check_all)
    better = _turned(view, image, finder, looks, quarter_turns)
    if better is not None:
        other = _plain(better, finder, looks, choose, check_all)
        if not _surer(face, other, looks):
            view, face = better, other
    if face is None:
        face = _second(view, finder, looks, choose)
    landmarks = face.landmarks
    if landmarks is not None and view.quarters:
        return replace(face, landmarks=view.turned_back(landmarks), origin="retried")
    return face


def _turned(
    view: _View, image: Image, finder: Finder, looks: SecondLooks, quarter_turns: bool
) -> _View | None:
    """The turned image whose faces the detectors are surer of, if there is one."""
    best = view
    if view.score < _UPRIGHT:
        for quarters in (1, 2, 3) if quarter_turns else (2,):
            other = _View(image, quarters, finder, looks)
            if _shows_more(other, best, looks):
                best = other
    return None if best is view else best


def _shows_more(view: _View, other: _View, looks: SecondLooks) -> bool:
    """Whether the detectors are surer of the faces in `view` than of those in `other`."""
    gain = view.score - other.score
    if looks.kind != "centerface":
        return view.score >= (_ALONE if other.score else _UPRIGHT) and gain > _SURE
    if not view.score or gain <= -_REACH:
        return False  # the other detector is spared
    more = _best(view.seen(0))
    return view.score + more >= _TOGETHER and gain + more - _best(other.seen(0)) > _HINT


def _surer(upright: Face | None, turned: Face | None, looks: SecondLooks) -> bool:
    """Whether the mesh is surer of the upright face; NaN, where it does not say, is not."""
    if upright is None or looks.kind == "centerface":
        return False
    return turned is None or turned.presence < upright.presence


def _best(boxes: Boxes) -> float:
    return float(boxes.scores.max(initial=0))


def _plain(
    view: _View, finder: Finder, looks: SecondLooks, choose: str, check_all: bool
) -> Face | None:
    """The mesh in the finder's own boxes, or None for a second look."""
    limits = finder.doubted
    for index in _preferred(view, view.own, choose):
        landmarks, presence = finder.mesh(view.image, view.own.square(index))
        score, eyes = float(view.own.scores[index]), view.own.eyes[index]
        doubted = presence < _PRESENT or (limits is not None and score < _DOUBTED)
        if doubted and (limits is None or _away(landmarks, eyes) > limits.eyes):
            continue
        quality = float("nan")
        if check_all or doubted:
            disagreement = mirror_disagreement(landmarks, view.image, finder)
            if doubted and limits is not None and disagreement > limits.mirror:
                continue
            quality = _quality(disagreement)
        if _believed(view, landmarks, score, looks):
            return Face(landmarks, "detected", quality, presence, score, len(view.own))
    return None


def _second(view: _View, finder: Finder, looks: SecondLooks, choose: str) -> Face:
    """The first mesh in the boxes of other detectors that can be believed."""
    limits = finder.limits[looks.kind]
    reason = "no_face"
    for boxes, index, landmarks, presence in _meshes(view, finder, looks, choose):
        score = float(boxes.scores[index])
        if presence < limits.presence or _eye_distance(landmarks) < _SMALLEST:
            continue
        reason = "implausible"
        if _away(landmarks, boxes.eyes[index]) > limits.eyes:
            continue
        disagreement = mirror_disagreement(landmarks, view.image, finder)
        if disagreement <= limits.mirror:
            quality = _quality(disagreement)
            return Face(landmarks, "retried", quality, presence, score, len(view.own))
    return Face(None, "none", count=len(view.own), reason=reason)


def _meshes(
    view: _View, finder: Finder, looks: SecondLooks, choose: str
) -> Iterator[tuple[Boxes, int, NDArray[np.float32], float]]:
    """Boxes, the number of one, and the landmarks and presence in it, in the order of trial.

    The mesh in the box's square says where the face is, and that is where the mesh is laid again.
    In boxes of MediaPipe's detectors the first mesh is a proposal of its own.
    """
    for look in range(len(looks.detectors)):
        boxes = view.seen(look)
        for index in _candidates(view, boxes, choose):
            for scale in looks.scales:
                landmarks, presence = finder.mesh(view.image, _square(boxes, index, scale))
                if looks.kind == "mediapipe":
                    yield boxes, index, landmarks, presence
                yield boxes, index, *finder.mesh(view.image, tracked(landmarks))


def every_face(image: Image, finder: Finder) -> NDArray[np.float32]:
    """(F, 478, 3) the meshes in all boxes of the finder's own detector, without any check."""
    boxes = finder.boxes(image)
    meshes = [finder.mesh(image, boxes.square(index)) for index in range(len(boxes))]
    present = [points for points, presence in meshes if not presence < _PRESENT]
    return np.array(present, np.float32).reshape(-1, 478, 3)


def mirror_disagreement(landmarks: NDArray[np.float32], image: Image, finder: Finder) -> float:
    """How far the face moves when the image is mirrored.

    Args:
        landmarks: (478, 3) pixels, found by `finder` in `image`.
        image: (H, W, 3) uint8 RGB.

    Returns:
        Mean distance of the five alignment points to those found where the face is in the
        mirrored image, mirrored back, over the eye distance.
    """
    here, right = tracked(landmarks), image.shape[1] - 1
    there = Square(right - here.x, here.y, here.side, -here.angle)
    found, _ = finder.mesh(cv2.flip(image, 1).astype(np.uint8, copy=False), there)
    points, mirrored = five_points(landmarks), five_points(found)[_MIRRORED, :]
    mirrored[:, 0] = right - mirrored[:, 0]
    away = np.linalg.norm(mirrored - points, axis=1).mean()
    return float(away / max(_eye_distance(landmarks), 1e-6))


def _square(boxes: Boxes, index: int, scale: float) -> Square:
    square = boxes.square(index, scale)
    return square if abs(square.angle) <= _STEEPEST else replace(square, angle=0.0)


def _irises(landmarks: NDArray[np.float32]) -> NDArray[np.float64]:
    return five_points(landmarks)[:2]


def _eye_distance(landmarks: NDArray[np.float32]) -> float:
    left, right = _irises(landmarks)
    return float(np.linalg.norm(right - left))


def _away(landmarks: NDArray[np.float32], eyes: NDArray[np.float32]) -> float:
    """Mean distance of the irises from a detector's eyes, in eye distances of the mesh."""
    away = np.linalg.norm(_irises(landmarks) - eyes, axis=1).mean()
    return float(away / max(_eye_distance(landmarks), 1e-6))


def _believed(
    view: _View, landmarks: NDArray[np.float32], score: float, looks: SecondLooks
) -> bool:
    """Whether a find of the finder itself stands; in a turned image it has to be seen well."""
    if looks.kind == "centerface":
        return score >= _WEAK or _confirmed(landmarks, view.seen(0))
    return not view.quarters or score >= _ALONE


def _confirmed(landmarks: NDArray[np.float32], boxes: Boxes) -> bool:
    """Whether a detector sees eyes where the mesh has them."""
    return any(_away(landmarks, eyes) <= _SEEN for eyes in boxes.eyes)


def _preferred(view: _View, boxes: Boxes, choose: str) -> list[int]:
    """Boxes from the largest to the smallest, or from the image's centre outwards."""
    low, high = boxes.edges[:, :2], boxes.edges[:, 2:]
    if choose == "largest":
        return np.argsort(-(high - low).prod(axis=1), kind="stable").tolist()
    height, width = view.image.shape[:2]
    away = np.linalg.norm((low + high - (width - 1, height - 1)) / 2, axis=1)
    return np.argsort(away, kind="stable").tolist()


def _candidates(view: _View, boxes: Boxes, choose: str) -> Iterator[int]:
    """Likely boxes in the order that `choose` prefers, then a few that are less likely."""
    first = range(min(int((boxes.scores >= _FAINT).sum()), _CANDIDATES))
    likely = {i for i in first if boxes.scores[i] >= _LIKELY * boxes.scores[0]}
    yield from (i for i in _preferred(view, boxes, choose) if i in likely)
    yield from (i for i in first if i not in likely)


def _quality(disagreement: float) -> float:
    return min(max(1.0 - disagreement, 0.0), 1.0)
