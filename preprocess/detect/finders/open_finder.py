"""Which finder: the one that is asked for, or the first that is installed and complete."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2

from faceguide.core.errors import FaceguideError
from faceguide.preprocess.detect.finders import mediapipe_package
from faceguide.preprocess.detect.finders.face_mesh import FaceMesh
from faceguide.preprocess.detect.finders.finder import Finder
from faceguide.preprocess.detect.finders.landmarker import Landmarker
from faceguide.preprocess.detect.finders.opencv_finder import OpencvFinder
from faceguide.preprocess.detect.finders.task_model import read_task
from faceguide.preprocess.detect.model_files import kept_model

_TASK = "face-landmarker"  # as `prep models` names it
_FETCH = f"`prep models --fetch {_TASK}` fetches it, or give --model FILE"
FinderName = Literal["face-mesh", "landmarker", "opencv", "auto"]


def chosen_finder(name: FinderName, model: Path | None) -> tuple[FinderName, Path | None]:
    """The finder's name and its model, once nothing is missing; loads no network.

    Args:
        name: "auto" for the first that is installed and complete.
        model: a face_landmarker.task, for all but face-mesh; None: the one in the models folder.

    Raises:
        FaceguideError: when something is missing; says what to install or to give.
    """
    bundled = mediapipe_package.bundled_models()
    if name == "auto":
        if model is None and bundled:
            return "face-mesh", None
        model = model or kept_model(_TASK)
        if model is None:
            raise FaceguideError(
                f"no finder is complete: {_FETCH}, or on Python 3.11 or 3.12 pip install "
                "mediapipe==0.10.21"
            )
        return ("opencv" if mediapipe_package.fault() else "landmarker"), model
    if name != "opencv" and (fault := mediapipe_package.fault()):
        raise FaceguideError(fault)
    if name == "face-mesh":
        if model is not None:
            raise FaceguideError(
                "--finder face-mesh has its own models; --model is for landmarker and opencv"
            )
        if not bundled:
            raise FaceguideError(
                f"mediapipe {mediapipe_package.version()} has no bundled Face Mesh models (0.10.21 "
                f"is the last with them): pip install mediapipe==0.10.21, or --finder landmarker"
            )
        return name, None
    model = model or kept_model(_TASK)
    if model is None:
        raise FaceguideError(f"--finder {name} needs MediaPipe's face_landmarker.task: {_FETCH}")
    return name, model


def finder_of(name: FinderName, model: Path | None) -> dict[str, str]:
    """What finds the faces, as it stands in the recipe of a cache; loads no network.

    Args:
        name, model: as `chosen_finder` returns them.

    Returns:
        tool (the name), version (of the engine) and model (hex sha256 of the models' files, its
        first 32 digits).

    Raises:
        FaceguideError: when the model cannot be read.
    """
    engine = f"mediapipe {mediapipe_package.version()}"
    return {
        "tool": name,
        "version": f"opencv {cv2.__version__}" if name == "opencv" else engine,
        "model": read_task(model).digest if model else mediapipe_package.bundled_digest(),
    }


def open_finder(name: FinderName, model: Path | None) -> Finder:
    """Load a finder's networks.

    Raises:
        FaceguideError: as `chosen_finder`, and when a network cannot be loaded.
    """
    name, model = chosen_finder(name, model)
    if model is None:
        return FaceMesh()
    return OpencvFinder(model) if name == "opencv" else Landmarker(model)
