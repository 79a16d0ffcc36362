"""From the bytes of an image to its aligned face: decode, find, one transform, crop."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceguide.core.faces import align
from faceguide.core.faces.decode import DecodeError, decode
from faceguide.core.faces.mean_face import mean_landmarks
from faceguide.preprocess.detect.boxes.box_detectors import SecondLooks, second_looks
from faceguide.preprocess.detect.cascade import find_face
from faceguide.preprocess.detect.finders.finder import Finder
from faceguide.preprocess.detect.finders.open_finder import open_finder
from faceguide.preprocess.detect.landmark_check import fault
from faceguide.preprocess.detect.landmark_index import lookup
from faceguide.preprocess.detect.landmark_text import read_at
from faceguide.preprocess.detect.square import LARGEST_SIDE
from faceguide.preprocess.face_settings import FaceSettings


@dataclass(frozen=True)
class Found:
    """One aligned face.

    Attributes:
        crop: (S, S, 3) uint8 RGB.
        landmarks: (478, 3) in source pixels.
        transform: (2, 3) source pixels → crop pixels.
        origin, quality, presence, score, faces: see docs/formats.md.
    """

    crop: NDArray[np.uint8]
    landmarks: NDArray[np.floating]
    transform: align.Transform
    size: tuple[int, int]
    origin: str
    quality: float
    presence: float
    score: float
    faces: int


class Failure(Exception):
    """This row has no face; status and reason say why."""

    def __init__(self, status: str, reason: str, size: tuple[int, int] = (0, 0)) -> None:
        super().__init__(reason)
        self.status, self.reason, self.size = status, reason, size


_own = threading.local()


def _finder(settings: FaceSettings) -> tuple[Finder, SecondLooks]:
    """The networks of this thread: loading them costs more than a hundred images.

    One of each per thread, since a Dask worker may have several and a graph serves one caller at a
    time.
    """
    wanted = (settings.finder, settings.model, settings.boxes)
    if getattr(_own, "wanted", ()) != wanted:
        finder = open_finder(settings.finder, settings.model)
        _own.networks = finder, second_looks(settings.boxes, finder)
        _own.wanted = wanted
    networks: tuple[Finder, SecondLooks] = _own.networks
    return networks


def find(data: bytes | NDArray[np.uint8] | Image.Image, settings: FaceSettings, key: str) -> Found:
    """Decode one image, find its face and cut it out.

    Raises:
        Failure: with the status and the reason to record.
    """
    try:
        image = decode(data)
    except DecodeError as error:
        raise Failure(error.reason, str(error)) from None
    height, width = image.shape[:2]
    size = (width, height)
    faces, quality, presence, score = 0, float("nan"), float("nan"), float("nan")
    landmarks: NDArray[np.floating] | None
    if settings.landmarks is not None:
        assert settings.landmark_index is not None
        at = lookup(settings.landmark_index, key)
        if at is None:
            raise Failure("no_landmarks", f"not in {settings.landmarks.name}", size)
        landmarks, origin, reason = read_at(settings.landmarks, at), "imported", ""
        wrong = fault(landmarks, width, height)
        if wrong:
            raise Failure("implausible", wrong, size)
    elif not settings.detect:
        landmarks, origin, reason = None, "template", "no_face"
    else:
        if max(size) > LARGEST_SIDE:
            reason = f"{width}×{height} pixels; faces are found in sides of up to {LARGEST_SIDE}"
            raise Failure("too_large", reason, size)
        finder, looks = _finder(settings)
        face = find_face(
            image, finder, looks,
            choose=settings.choose, check_all=settings.check_all,
            quarter_turns=settings.quarter_turns,
        )  # fmt: skip
        landmarks, origin, reason = face.landmarks, face.origin, face.reason
        quality, presence, score, faces = face.quality, face.presence, face.score, face.count
    if settings.align == "none":
        transform = align.whole_image(width, height, settings.size)
        if landmarks is None:
            crop_points = mean_landmarks().astype(np.float64) * settings.size
            landmarks = align.apply(align.invert(transform), crop_points)
            origin, quality = "template", 0.0
    elif landmarks is None:
        text = {
            "no_face": "no face was found",
            "implausible": "rejected: the mirrored image or the box detector saw a different face",
        }[reason]
        raise Failure(reason, text, size)
    else:
        target = align.template(settings.size, settings.margin)
        try:
            transform = align.similarity(align.five_points(landmarks), target)
        except ValueError as error:
            raise Failure("implausible", str(error), size) from None
    crop = align.warp(image, transform, settings.size)
    return Found(
        crop, landmarks, transform, size, origin, quality, presence, score, faces
    )  # fmt: skip
