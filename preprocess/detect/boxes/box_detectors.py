"""Where second looks take their boxes from: the best detector that is there."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from faceguide.core.errors import FaceguideError
from faceguide.preprocess.detect.boxes import center_face, yunet
from faceguide.preprocess.detect.boxes.closer_look import CloserLook
from faceguide.preprocess.detect.boxes.full_range import FullRange, has_full_range
from faceguide.preprocess.detect.boxes.tiles import Tiles
from faceguide.preprocess.detect.finders.finder import BoxDetector, Finder
from faceguide.preprocess.detect.finders.mediapipe_package import quiet
from faceguide.preprocess.detect.model_files import kept_model
from faceguide.preprocess.detect.square import Boxes, Image

Kind = Literal["centerface", "yunet", "mediapipe"]

_DIGESTS: dict[str, Kind] = {
    "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc": "centerface",
    "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4": "yunet",
    "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10": "yunet",  # int8
}
_OUTPUTS: dict[Kind, tuple[str, ...]] = {"centerface": center_face.OUTPUTS, "yunet": yunet.OUTPUTS}
_SIDES = {"centerface": (320, 448), "yunet": (320, 160, 640)}  # pixels, in the order of trial
_BUILD: dict[str, Callable[[bytes, int], BoxDetector]] = {
    "centerface": center_face.CenterFace,
    "yunet": yunet.YuNet,
}
_TAKES = "--boxes takes centerface.onnx or YuNet of 2023 (`prep models` says where they are)"


@dataclass(frozen=True)
class SecondLooks:
    """How second looks are taken.

    Attributes:
        kind: what the boxes come from; a finder has limits for each.
        detectors: in the order of trial.
        scales: side of the mesh's square over the longer side of a box, in the order of trial.
    """

    kind: Kind
    detectors: tuple[BoxDetector, ...]
    scales: tuple[float, ...]


class _Lazy:
    """A detector that is loaded when it is first asked, which for many sources is never."""

    def __init__(self, open_it: Callable[[], BoxDetector]) -> None:
        self._open = open_it
        self._detector: BoxDetector | None = None

    def __call__(self, image: Image) -> Boxes:
        if self._detector is None:
            self._detector = self._open()
        return self._detector(image)


def best_kept() -> Path | None:
    """The best box detector in the models folder, or None."""
    return kept_model("centerface") or kept_model("yunet")


def second_looks(path: Path | None, finder: Finder) -> SecondLooks:
    """Second looks by the detector in a file, recognised by its digest or by what it gives.

    Args:
        path: of CenterFace or YuNet; None for MediaPipe's detectors: the one for small faces where
            it is installed, except for the finder `opencv`, which needs no mediapipe; the finder's
            own in a closer look; and, but for face-mesh, the same in parts of the image.

    Raises:
        FaceguideError: when the file cannot be read or holds no detector that can be used here.
    """
    if path is not None:
        kind, _, content = _recognised(path)
        builds = [functools.partial(_built, path, content, kind, side) for side in _SIDES[kind]]
        return SecondLooks(kind, tuple(map(_Lazy, builds)), (1.25, 1.6))
    detectors: list[BoxDetector] = [CloserLook(finder.boxes, finder.boxes)]
    if _has_full_range(finder.name):
        detectors.insert(0, CloserLook(_Lazy(FullRange), finder.boxes))
    if finder.name != "face-mesh":  # its mesh takes cloth in such boxes for faces
        detectors.append(Tiles(finder.boxes))
    return SecondLooks("mediapipe", tuple(detectors), (1.5,))


def boxes_recipe(path: Path | None, finder: str) -> dict[str, str]:
    """What second looks take their boxes from, as it stands in the recipe of a cache.

    Raises:
        FaceguideError: as `second_looks`.
    """
    if path is not None:
        kind, digest, _ = _recognised(path)
        return {"tool": kind, "model": digest[:32]}
    return {"tool": "mediapipe", "model": "full range" if _has_full_range(finder) else ""}


def _has_full_range(finder: str) -> bool:
    return finder != "opencv" and has_full_range()


def _recognised(path: Path) -> tuple[Kind, str, bytes]:
    """What a file holds, its sha256 and its content."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FaceguideError(
            f"cannot read the box detector {path}: {error.strerror}; {_TAKES}"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    return _DIGESTS.get(digest) or _kind_of(path, content), digest, content


def _kind_of(path: Path, content: bytes) -> Kind:
    """What a network of unknown digest is; it is tried at every size that it will be used at."""
    try:
        with quiet():  # OpenCV would log a line of its own
            net = cv2.dnn.readNetFromONNX(np.frombuffer(content, np.uint8))
        outputs = set(net.getUnconnectedOutLayersNames())
    except cv2.error as error:
        raise FaceguideError(
            f"OpenCV {cv2.__version__} cannot read the network {path} (truncated, or not ONNX: "
            f"{_cause(error)}); {_TAKES}"
        ) from None
    for kind, expected in _OUTPUTS.items():
        if outputs == set(expected):
            for side in _SIDES[kind]:
                _built(path, content, kind, side)
            return kind
    raise FaceguideError(f"{path} is neither CenterFace nor YuNet of 2023; {_TAKES}")


def _built(path: Path, content: bytes, kind: Kind, side: int) -> BoxDetector:
    try:
        with quiet():
            return _BUILD[kind](content, side)
    except (cv2.error, ValueError) as error:
        raise FaceguideError(
            f"{path} is a {kind} network that does not work at {side}×{side} pixels "
            f"({_cause(error)}); {_TAKES}"
        ) from None


def _cause(error: Exception) -> str:
    """What went wrong, without the place in OpenCV's source."""
    return (str(getattr(error, "err", "") or error).splitlines() or [type(error).__name__])[0]
