"""MediaPipe's face_landmarker.task: the networks inside, and its mesh in any square."""

from __future__ import annotations

import hashlib
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import FaceguideError
from faceguide.core.faces import LANDMARKS
from faceguide.preprocess.detect.finders.finder import Limits
from faceguide.preprocess.detect.square import Image, Square, cut

_DETECTOR, _MESH = "face_detector.tflite", "face_landmarks_detector.tflite"
_LARGEST = 64 << 20  # bytes of a network; the mesh has 2.6 million
_SIDE = 256  # pixels of the mesh's input

# Under veils the presence of this mesh collapses, in the finder's own boxes too; eyes and mirror
# decide. Chosen by the tuning half of bench/detect.py.
TASK_DOUBTED = Limits(presence=0.0, mirror=0.15, eyes=0.3)
TASK_LIMITS = {
    "centerface": Limits(presence=0.005, mirror=0.2, eyes=0.35),
    "yunet": Limits(presence=0.005, mirror=0.1, eyes=0.35),
    "mediapipe": Limits(presence=0.005, mirror=0.15, eyes=0.3),
}


@dataclass(frozen=True)
class TaskModel:
    """The content of a face_landmarker.task.

    Attributes:
        detector: BlazeFace's short-range network, as TensorFlow Lite.
        mesh: the network of the 478 landmarks, as TensorFlow Lite.
        digest: hex sha256 of the file, its first 32 digits.
    """

    path: Path
    detector: bytes
    mesh: bytes
    digest: str


def read_task(path: Path) -> TaskModel:
    """Read the two networks out of the archive that a .task file is.

    Raises:
        FaceguideError: when the file cannot be read, is no such archive, or is damaged.
    """
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
        with zipfile.ZipFile(path) as archive:
            large = [i.filename for i in archive.infolist() if i.file_size > _LARGEST]
            if large:
                raise FaceguideError(f"{_wrong(path)}: {large[0]} is too large for one")
            detector, mesh = archive.read(_DETECTOR), archive.read(_MESH)
    except OSError as error:
        raise FaceguideError(
            f"cannot read the face landmarker model {path}: {error.strerror or error}; "
            "--model takes MediaPipe's face_landmarker.task"
        ) from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise FaceguideError(f"{_wrong(path)}: it is truncated or no archive ({error})") from error
    except KeyError as error:
        raise FaceguideError(f"{_wrong(path)}: {error.args[0]}") from error
    return TaskModel(path, detector, mesh, digest)


def _wrong(path: Path) -> str:
    return f"{path} is not MediaPipe's face_landmarker.task, which --model takes"


def load_network(model: TaskModel, network: bytes) -> cv2.dnn.Net:
    """One of the networks in OpenCV, for one input size and a batch of one.

    Raises:
        FaceguideError: when OpenCV cannot read it.
    """
    try:
        return cv2.dnn.readNetFromTFLite(np.frombuffer(network, np.uint8))
    except (cv2.error, AttributeError) as error:
        raise FaceguideError(
            f"{_wrong(model.path)}: OpenCV {cv2.__version__} cannot read its networks"
        ) from error


class TaskMesh:
    """The mesh of a .task in OpenCV; MediaPipe's task has no way to say where the face is.

    Where it has, its landmarks differ by .0002 eye distances.
    """

    def __init__(self, model: TaskModel) -> None:
        self._model = model
        self._net = load_network(model, model.mesh)
        self(np.zeros((8, 8, 3), np.uint8), Square(4, 4, 8, 0))

    def __call__(self, image: Image, square: Square) -> tuple[NDArray[np.float32], float]:
        """Landmarks and presence, as `Finder.mesh` gives them.

        Raises:
            FaceguideError: when the network is another one.
        """
        pixels = cut(image, square, _SIDE)
        self._net.setInput(cv2.dnn.blobFromImage(pixels, 1 / 255))
        names = ("Identity", "Identity_1")
        try:
            values, (logit,) = (np.ravel(found) for found in self._net.forward(names))
            points = values.reshape(LANDMARKS, 3).astype(np.float64)
        except (cv2.error, ValueError) as error:
            raise FaceguideError(f"{_wrong(self._model.path)}: its mesh is another") from error
        points *= square.side / _SIDE
        x, y = (points[:, :2] - square.side / 2).T
        cos, sin = math.cos(square.angle), math.sin(square.angle)
        points[:, 0] = square.x + cos * x - sin * y
        points[:, 1] = square.y + sin * x + cos * y
        return points.astype(np.float32), 1 / (1 + math.exp(-float(logit)))
