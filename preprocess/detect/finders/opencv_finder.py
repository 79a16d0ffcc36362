"""The finder `opencv`: the networks of face_landmarker.task in OpenCV, without mediapipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2

from faceguide.preprocess.detect.finders.blaze_face import BlazeFace
from faceguide.preprocess.detect.finders.finder import Limits
from faceguide.preprocess.detect.finders.task_model import (
    TASK_DOUBTED,
    TASK_LIMITS,
    TaskMesh,
    read_task,
)


class OpencvFinder:
    """BlazeFace and the mesh of a .task file, both in OpenCV.

    Raises:
        FaceguideError: when the model cannot be read.
    """

    name = "opencv"
    limits: Mapping[str, Limits] = TASK_LIMITS
    doubted: Limits | None = TASK_DOUBTED

    def __init__(self, model: Path) -> None:
        task = read_task(model)
        self.version = f"opencv {cv2.__version__}"
        self.digest = task.digest
        self.boxes = BlazeFace(task)
        self.mesh = TaskMesh(task)

    def close(self) -> None:
        """Nothing to release."""
