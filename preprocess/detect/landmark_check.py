"""Whether imported landmarks can belong to their images: as such, and compared with detection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import FaceguideError
from faceguide.core.faces import align
from faceguide.core.faces.decode import DecodeError, decode
from faceguide.preprocess.detect.cascade import every_face
from faceguide.preprocess.detect.finders.finder import Finder
from faceguide.preprocess.detect.landmark_index import index_file, lookup, without_irises
from faceguide.preprocess.detect.landmark_text import SHARES, LandmarkTextError, read_at
from faceguide.preprocess.detect.square import Image
from faceguide.preprocess.sources.image_sources import ReadError, Source

COMPARED = 32  # images in which detection finds a face
_LOOKED_AT = 96  # images, to find as many
_LISTED = 20_000  # rows, to find as many that the table names

# In eye distances. Of 2,217 detected faces (LFW, MFR2, ORL, scenes, masked faces) the five points
# miss the template by .26 at most; with x and y swapped, mirrored or counted upwards by .6.
MISFIT = 0.4
_TURNED = 135.0  # degrees
# Mean distance to the points of a detected face. Two models of MediaPipe differ by .05 at most.
_ELSEWHERE, _TOOLS = 0.2, 0.06
_FEW = 5  # other images, to tell what is near by chance
_SAME_FACE = 0.04  # what two meshes of one face differ by, once one is laid over the other


def fault(landmarks: NDArray[np.floating], width: int, height: int) -> str:
    """Why landmarks cannot be those of a face in an image of this size; "" if they can.

    Args:
        landmarks: (478, 2 or 3) in pixels.
    """
    plane = np.asarray(landmarks[:, :2], np.float64)
    if np.abs(plane).max() <= SHARES:
        return "the points are shares of the image, not pixels: multiply by width and height"
    five = align.five_points(landmarks)
    try:
        residual, turned = align.misfit(five)
        if residual > MISFIT:
            mirrored, turned = align.misfit(five * (-1, 1))
            if mirrored > MISFIT:
                return f"the points miss the shape of a face by {residual:.2f} eye distances"
            if abs(turned) < 45:
                return "the points are those of the mirrored image"
            if abs(turned) > _TURNED:
                return "the points stand upside down, mirrored: y has to count downwards"
            return "the points have x and y swapped"
    except ValueError as error:
        return str(error)
    if abs(turned) > _TURNED:
        return "the points stand upside down"
    outside = ((plane < -0.5) | (plane > np.array([width, height]) - 0.5)).any(axis=1)
    if outside.mean() > 0.5:
        return f"more than half of the points lie outside the image of {width}×{height} pixels"
    return ""


class _Compared:
    """One image: what the table has for it, and the faces that were found."""

    def __init__(
        self, key: str, points: NDArray[np.floating], image: Image, finder: Finder
    ) -> None:
        self.key = key
        self.points = np.asarray(points[:, :2], np.float64)
        self.size = np.array(image.shape[1::-1], np.float64)
        self.found = every_face(image, finder)[:, :, :2].astype(np.float64)
        if len(self.found) and self.away(self.points) > _ELSEWHERE:
            # The table may mean a face that detection overlooks in the whole image.
            low, high = self.points.min(axis=0), self.points.max(axis=0)
            middle, half = (low + high) / 2, (high - low).max()
            left, top = np.clip(middle - half, 0, self.size).astype(int)
            right, bottom = np.clip(middle + half, 0, self.size).astype(int)
            if right > left and bottom > top:
                near = np.ascontiguousarray(image[top:bottom, left:right])
                closer = every_face(near, finder)[:, :, :2] + (left, top)
                self.found = np.concatenate([self.found, closer])

    def away(self, points: NDArray[np.floating]) -> float:
        """Mean distance of points to those of the nearest face, in its eye distances."""
        distances = np.linalg.norm(self.found - points, axis=2).mean(axis=1)
        return float((distances / self.eyes()).min(initial=np.inf))

    def eyes(self) -> NDArray[np.float64]:
        """Eye distance of each face."""
        return np.linalg.norm(self.found[:, 473] - self.found[:, 468], axis=1)

    def relation(self) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """The scale and the shift of x and y that lay the points over the likest face, and what
        remains, in eye distances of that face."""
        best = (np.ones(2), np.zeros(2), np.inf)
        here = self.points - self.points.mean(axis=0)
        for face in self.found:
            middle = face.mean(axis=0)
            scale = (here * (face - middle)).sum(axis=0) / (here**2).sum(axis=0)
            away = np.linalg.norm(here * scale + middle - face, axis=1).mean()
            rest = float(away / np.linalg.norm(face[473] - face[468]))
            if rest < best[2]:
                best = (scale, middle - scale * self.points.mean(axis=0), rest)
        return best


def checked_index(
    table: Path,
    index: Path,
    rows: Iterable[tuple[str, int]],
    source: Source,
    open_it: Callable[[], Finder],
) -> Doubts:
    """Index a landmark table and compare it with what detection finds in a sample of the images.

    Args:
        rows: key and place of the images, as `source.read` takes them, in random order.
        open_it: opens what detects them.

    Returns:
        What is doubtful about single rows, or that nothing could be compared.

    Raises:
        LandmarkTextError: when the table cannot be read, or most of its faces lie elsewhere than
            detection finds them; says what was found.
    """
    faces = index_file(table, index)
    doubts = Doubts()
    doubts.add("derived_irises", count=without_irises(index))
    try:
        finder = open_it()
    except FaceguideError:
        doubts.add("unchecked_landmarks", count=faces)
        return doubts
    sample: list[_Compared] = []
    plausible, looked_at = False, 0
    for listed, (key, place) in enumerate(rows):
        if len(sample) == COMPARED or looked_at == _LOOKED_AT or listed == _LISTED:
            break
        at = lookup(index, key)
        if at is None:
            continue
        try:
            image = decode(source.read(key, place))
        except (ReadError, DecodeError):
            continue
        looked_at += 1
        points = read_at(table, at)
        if fault(points, image.shape[1], image.shape[0]):
            continue
        plausible = True
        compared = _Compared(key, points, image, finder)
        if len(compared.found):
            sample.append(compared)
    finder.close()
    if not sample:
        if plausible:
            doubts.add("unchecked_landmarks", count=faces)
        return doubts
    wrong = [one for one in sample if _is_elsewhere(one, sample)]
    # For a single image, detection may be what is wrong.
    if len(wrong) > max(1, len(sample) // 2):
        raise LandmarkTextError(
            f"{table}: in {len(wrong)} of {len(sample)} images its points lie elsewhere than the "
            f"face that detection finds: {_explained(table, index, wrong)}"
        )
    # Two tools disagree about a face in thirty now and then.
    if len(wrong) > len(sample) // 16:
        doubts.add("landmarks_elsewhere", wrong[0].key, len(wrong))
    return doubts


def _is_elsewhere(one: _Compared, sample: list[_Compared]) -> bool:
    """Whether the points belong to no face of the image, or as well to any other image."""
    own = one.away(one.points)
    if own > _ELSEWHERE:
        return True
    # Aligned crops have their faces in one place: there the points of another image lie near.
    others = [one.away(other.points) for other in sample if other is not one]
    return own > _TOOLS and len(others) >= _FEW and own > float(np.quantile(others, 0.25))


def _explained(table: Path, index: Path, wrong: list[_Compared]) -> str:
    """What most of the faces that lie elsewhere have in common."""
    return Counter(_cause(table, index, one, wrong) for one in wrong).most_common(1)[0][0]


def _cause(table: Path, index: Path, one: _Compared, wrong: list[_Compared]) -> str:
    for lines, where in ((1, "below"), (-1, "above")):
        at = lookup(index, one.key, lines)
        if at is not None and one.away(read_at(table, at)[:, :2]) <= _TOOLS:
            return f"those of each image are in the line {where}: shifted by a line"
    (right, bottom), (x, y) = one.size - 1, one.points.T
    for turned in ((right - y, x), (y, bottom - x)):
        if one.away(np.stack(turned, axis=1)) <= _TOOLS:
            return "they are the points of the images before EXIF turns them; turn them too"
    scale, shift, rest = one.relation()
    others = [other.away(one.points) for other in wrong if other is not one]
    if rest > _SAME_FACE or min(others, default=np.inf) <= _TOOLS:
        return "they are the points of other images"
    if np.linalg.norm(shift) > 0.5 * one.eyes()[0]:
        return "they are the points of crops; take them back to the whole images"
    if abs(scale[0] / scale[1] - 1) < 0.03:
        return f"they are the points of images of another size; multiply them by {scale.mean():.3g}"
    across, down = one.size / scale
    return (
        f"they are the points of images resized to {across:.0f}×{down:.0f}; "
        "divide x by that width and y by that height, then multiply by width and height"
    )
