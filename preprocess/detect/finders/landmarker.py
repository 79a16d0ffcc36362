"""The finder `landmarker`: face_landmarker.task in MediaPipe's Tasks API, in any mediapipe."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import FaceguideError
from faceguide.preprocess.detect.finders import mediapipe_package
from faceguide.preprocess.detect.finders.blaze_face import BlazeFace
from faceguide.preprocess.detect.finders.finder import Limits
from faceguide.preprocess.detect.finders.task_model import (
    TASK_DOUBTED,
    TASK_LIMITS,
    TaskMesh,
    read_task,
)
from faceguide.preprocess.detect.square import Boxes, Image, Square

MAX_FACES = 64  # more than the detector separates in one image; each costs a mesh


class Landmarker:
    """MediaPipe's FaceLandmarker, and where it cannot be asked its networks in OpenCV.

    The task lays its mesh only into boxes of its own, and says neither these nor how sure it is.
    So boxes come from its detector in OpenCV; landmarks in these boxes are MediaPipe's, of unknown
    presence; those in other squares come from its mesh in OpenCV, .0002 eye distances away.

    Raises:
        FaceguideError: when mediapipe is missing or `model` cannot be loaded.
    """

    name = "landmarker"
    limits: Mapping[str, Limits] = TASK_LIMITS
    doubted: Limits | None = TASK_DOUBTED

    def __init__(self, model: Path) -> None:
        task = read_task(model)
        package = mediapipe_package.load()
        tasks = mediapipe_package.load("mediapipe.tasks.python")
        vision = mediapipe_package.load("mediapipe.tasks.python.vision")
        self.version = f"mediapipe {mediapipe_package.version()}"
        self.digest = task.digest
        self._detector, self._mesh = BlazeFace(task), TaskMesh(task)
        self._image, self._format = package.Image, package.ImageFormat.SRGB
        try:
            with mediapipe_package.quiet():
                self._task = vision.FaceLandmarker.create_from_options(
                    vision.FaceLandmarkerOptions(
                        base_options=tasks.BaseOptions(model_asset_buffer=model.read_bytes()),
                        num_faces=MAX_FACES,
                    )
                )
                self.close = weakref.finalize(self, _close, self._task)
                self._faces(np.zeros((64, 64, 3), np.uint8))
        except (OSError, RuntimeError, ValueError) as error:
            raise FaceguideError(
                f"{model} is not a face landmarker model that {self.version} can load "
                f"({str(error).splitlines()[0]}); --model takes face_landmarker.task"
            ) from error
        self._seen: tuple[Image | None, frozenset[Square]] = (None, frozenset())
        self._found: NDArray[np.float32] | None = None

    def boxes(self, image: Image) -> Boxes:
        """Faces that BlazeFace sees; see `Finder`."""
        boxes = self._detector(image)
        self._seen = (image, frozenset(map(boxes.square, range(len(boxes)))))
        self._found = None
        return boxes

    def mesh(self, image: Image, square: Square) -> tuple[NDArray[np.float32], float]:
        """The landmarks in a square; see `Finder`."""
        seen, own = self._seen
        if image is seen and square in own:
            if self._found is None:
                self._found = self._faces(image)
            away = np.linalg.norm(self._found[:, :, :2].mean(axis=1) - (square.x, square.y), axis=1)
            if len(away) and away.min() < square.side / 4:
                return self._found[away.argmin()], float("nan")
        return self._mesh(image, square)

    def _faces(self, image: Image) -> NDArray[np.float32]:
        """(F, 478, 3) what the task finds."""
        pixels = np.ascontiguousarray(image)
        found = self._task.detect(self._image(image_format=self._format, data=pixels))
        faces = [[(p.x, p.y, p.z) for p in face] for face in found.face_landmarks]
        height, width = image.shape[:2]
        return (np.array(faces).reshape(-1, 478, 3) * (width, height, width)).astype(np.float32)


def _close(task: Any) -> None:
    """Release a task, unless the process ends: mediapipe 1.x needs a thread that is gone by then.

    Left to itself it would say so in a traceback, and another one when it is deleted.
    """
    try:
        task.close()
    except RuntimeError:
        task._handle = None
