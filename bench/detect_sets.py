"""The pictures of bench/detect.py and where their faces are, in two halves.

Identities, photographs and random seeds of the half `tune` are apart from those of `confirm`.
Photographs are developed as they are; those of LFW, which end at the face, get a border.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from veiled_faces import Image, veiled

from faceguide.core.faces import align
from faceguide.core.faces.align import FIVE_POINTS

PATCHES = {"tune": 1200, "confirm": 300}
GRIDS = 20
HALVES = ("tune", "confirm")

# (478, 3) landmarks of the only face in a picture, or None.
Mesh = Callable[[Image], NDArray[np.floating] | None]


@dataclass(frozen=True)
class Sample:
    """One picture.

    Attributes:
        name: of the picture.
        image: (H, W, 3) uint8 RGB.
        truth: (478, 3) landmarks of the face that should be found; None: not known.
        choose: what `--face` says.
    """

    name: str
    image: Image
    truth: NDArray[np.floating] | None = None
    choose: str = "largest"


@dataclass(frozen=True)
class Where:
    """Where the pictures come from.

    Attributes:
        data: the folder with all sets.
        half: ``tune`` or ``confirm``.
        every: only each so manieth picture of large sets.
        mesh: what finds the truth.
    """

    data: Path
    half: str
    every: int
    mesh: Mesh


def read(path: Path, enlarge: int = 1) -> Image:
    """A picture as RGB."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if enlarge != 1:
        image = cv2.resize(image, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(image[..., ::-1], np.uint8)


def _number(name: str) -> int:
    return zlib.crc32(name.encode())


def _half(name: str) -> str:
    return HALVES[_number(name) % 2]


def _framed(path: Path) -> Image:
    """An aligned crop with a border of its own pixels, twice as large."""
    image = cv2.copyMakeBorder(read(path), 40, 40, 40, 40, cv2.BORDER_REFLECT)
    return cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC).astype(np.uint8)


def bare_faces(where: Where) -> Iterator[tuple[str, Image]]:
    """Photographs of one unoccluded face: one of each LFW identity that has several, MFR2 without
    mask, and scenes, whose identities are not known: they are all in `confirm`."""
    found: list[tuple[str, Path]] = []
    for folder in sorted((where.data / "lfw112_dev/images").glob("*")):
        files = sorted(folder.glob("*.jpg"))
        if len(files) >= 4 and _half(folder.name) == where.half:
            found.append((f"lfw/{files[0].name}", files[0]))
    labels = where.data / "mfr2_dev/labels.csv"
    if labels.exists():
        with labels.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["mask"] == "no-mask" and _half(row["identity"]) == where.half:
                    stem = f"{row['identity']}_{int(row['number']):04d}"
                    folder = where.data / "mfr2_dev/images" / row["identity"]
                    found += [(f"mfr2/{path.name}", path) for path in folder.glob(f"{stem}.*")]
    if where.half == "confirm":
        scenes = sorted((where.data / "deepface_dev").glob("*.jpg"))
        found += [(f"scene/{path.name}", path) for path in scenes]
    for name, path in found[:: where.every]:
        yield name, _framed(path) if name.startswith("lfw") else read(path)


def veils(where: Where, cut: str) -> Iterator[Sample]:
    """Every bare face under a drawn veil of its own; truth is the mesh of the bare face."""
    for name, image in bare_faces(where):
        truth = where.mesh(image)
        if truth is not None:
            seed = 2 * (_number(name) // 2) + HALVES.index(where.half)
            yield Sample(f"{name} {cut}", veiled(image, truth, cut, seed), truth)


def small_faces(where: Where) -> Iterator[Sample]:
    """Bare faces reduced to 14 to 40 pixels between the eyes, tilted by up to 45°, in a
    photograph of a rocket; every second one under a veil."""
    from skimage import data as photographs

    scene = photographs.rocket()
    height, width = scene.shape[:2]
    for number, (name, image) in enumerate(bare_faces(where)):
        truth = where.mesh(image)
        if truth is None:
            continue
        random = np.random.default_rng([_number(name), HALVES.index(where.half)])
        if number % 2:
            image = veiled(image, truth, "colour", int(random.integers(2**31)))
        points = align.five_points(truth)
        eyes = random.uniform(14, 40)
        scale = eyes / float(np.linalg.norm(points[1] - points[0]))
        tilt = np.deg2rad(random.uniform(-45, 45))
        turn = scale * np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        place = random.uniform((120, 120), (width - 120, height - 120))
        transform = np.column_stack([turn, place - turn @ points.mean(axis=0)])
        smooth = cv2.GaussianBlur(image, (0, 0), 0.5 / scale) if scale < 0.5 else image
        pasted = cv2.warpAffine(smooth, transform, (width, height))
        there = cv2.warpAffine(np.ones(image.shape[:2], np.float32), transform, (width, height))
        y, x = np.indices((height, width))
        there[np.hypot(x - place[0], y - place[1]) > 3.2 * eyes] = 0
        mixed = np.where(there[..., None] > 0.5, pasted, scene).astype(np.uint8)
        yield Sample(name, mixed, align.apply(transform, truth))


def _photographs(where: Where) -> list[Path]:
    folders = ("deepface_dev", "maskedface_seg_dev/images")
    paths = [path for folder in folders for path in (where.data / folder).glob("*.jpg")]
    return [path for path in sorted(paths) if _half(path.stem) == where.half]


def patches(where: Where) -> Iterator[Sample]:
    """Squares of photographs of people, beside their face."""
    paths = _photographs(where)
    random = np.random.default_rng([3, HALVES.index(where.half)])
    found = number = 0
    faces: dict[Path, tuple[Image, NDArray[np.floating] | None]] = {}
    while paths and found < PATCHES[where.half]:
        path = paths[number % len(paths)]
        number += 1
        if path not in faces:
            image = read(path)
            faces[path] = image, where.mesh(image)
        image, face = faces[path]
        side = int(random.integers(64, min(image.shape[:2]) // 2))
        y, x = (int(random.integers(0, edge - side + 1)) for edge in image.shape[:2])
        if face is None:
            continue
        low, high = face[:, :2].min(axis=0), face[:, :2].max(axis=0)
        if not ((high < (x, y)) | (low > (x + side, y + side))).any():
            continue
        found += 1
        patch = np.ascontiguousarray(image[y : y + side, x : x + side])
        yield Sample(f"{number} {path.name}", patch)


def as_they_are(where: Where, pattern: str, every: int = 1) -> Iterator[Sample]:
    """The pictures of a set; where their faces are is not known."""
    for path in sorted(where.data.glob(pattern))[::every]:
        yield Sample(path.name, read(path))


def one_face(where: Where) -> Iterator[Sample]:
    """Photographs with one face, masked ones too, and the mesh that is right in them."""
    lfw = sorted((where.data / "lfw112_dev/images").glob("*/*.jpg"))[:: 7 * where.every]
    mfr2 = sorted((where.data / "mfr2_dev/images").glob("*/*"))[:: where.every]
    for path in (*lfw, *mfr2):
        if _half(path.parent.name) == where.half:
            yield from _known(path.name, _framed(path) if path in lfw else read(path), where)
    for path in _photographs(where)[:: where.every]:
        yield from _known(path.name, read(path), where)


def _known(name: str, image: Image, where: Where) -> Iterator[Sample]:
    truth = where.mesh(image)
    if truth is not None:
        yield Sample(name, image, truth)


def half_covered(sample: Sample) -> Sample:
    """The face below the eyes under one colour, as under a mask that fits."""
    assert sample.truth is not None
    points = sample.truth[:, :2].astype(np.float64)
    left, right, _, *mouth = points[list(FIVE_POINTS)]
    down = (mouth[0] + mouth[1] - left - right) / 2
    below = (points - (left + right) / 2) @ down / (down @ down)  # 0 at the eyes, 1 at the mouth
    image = sample.image.copy()
    hull = cv2.convexHull(np.rint(points[below > 0.25]).astype(np.int32))
    colour = np.random.default_rng(list(sample.name.encode())).integers(0, 256, 3).tolist()
    cv2.fillConvexPoly(image, hull, colour)
    return Sample(sample.name, image, sample.truth, sample.choose)


def turned(sample: Sample, quarters: int) -> Sample:
    """The picture turned counter-clockwise by quarters of a circle, with its truth."""
    image = np.ascontiguousarray(np.rot90(sample.image, quarters))
    height, width = sample.image.shape[:2]
    truth = None if sample.truth is None else np.array(sample.truth, np.float64)
    for _ in range(quarters if truth is not None else 0):
        assert truth is not None
        x = truth[:, 0].copy()
        truth[:, 0], truth[:, 1] = truth[:, 1], width - 1 - x
        height, width = width, height
    return Sample(sample.name, image, truth, sample.choose)


def grids(where: Where, choose: str) -> Iterator[Sample]:
    """Nine faces, one of them larger by a fifth than the next; truth is what `choose` means."""
    paths = sorted((where.data / "lfw112_dev/images").glob("*/*.jpg"))
    random = np.random.default_rng(9)
    for number in range(GRIDS if paths else 0):
        image = np.full((600, 600, 3), 90, np.uint8)
        sides = random.permutation([*np.linspace(110, 155, 8), 190]).astype(int)
        wanted = 4 if choose == "center" else int(sides.argmax())
        truth = None
        for place, side in enumerate(sides):
            path = paths[int(random.integers(len(paths)))]
            tile = cv2.resize(read(path), (int(side), int(side)), interpolation=cv2.INTER_CUBIC)
            row, column = divmod(place, 3)
            y, x = row * 200 + (200 - side) // 2, column * 200 + (200 - side) // 2
            image[y : y + side, x : x + side] = tile
            if place == wanted:
                around = np.full((200, 200, 3), 90, np.uint8)
                inset = (200 - side) // 2
                around[inset : inset + side, inset : inset + side] = tile
                found = where.mesh(around)
                if found is not None:
                    truth = np.add(found, (column * 200, row * 200, 0))
        yield Sample(f"grid {number}", image, truth, choose)
