"""MediaPipe's face landmarks and face boxes in pixels: the only module that imports mediapipe.

Coordinates are pixels, x right, y down, the centre of the top left pixel at (0, 0), as in
`align`. MediaPipe's normalised coordinate times the width is already in that frame: it samples
its input window without a half-pixel shift. (Shown with mirrored LFW faces enlarged to sides
of 56 to 896 pixels: x + x′ − width = −1 + 0.005·side. The −1 is what pixel centres at whole
numbers give; the rest belongs to the network, half a pixel of its own 192×192 input.)
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from faceguide.core.commands.console import undisturbed
from faceguide.core.errors import FaceguideError
from faceguide.preprocess.detect.mediapipe_values import (
    boxes_in_pixels,
    faces_in_pixels,
    points_from_message,
)

MAX_FACES = 64  # more than the detector separates in one image; each costs a mesh

_MISSING = "finding faces needs mediapipe: pip install 'faceguide[prep]'"

# Smallest image that makes every network load and run once.
_BLANK = np.zeros((64, 64, 3), np.uint8)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop what native code writes to stderr.

    MediaPipe, absl and TensorFlow Lite log a dozen lines per process while a graph loads; no
    environment variable of theirs stops them. The descriptor is shared, so this wraps no more
    than the loading of a graph.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with undisturbed():
            yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _mediapipe() -> Any:
    try:
        with undisturbed():
            import mediapipe
    except ImportError as error:
        raise FaceguideError(f"{_MISSING} ({error})") from error
    return mediapipe


def _has_solutions() -> bool:
    """Whether this mediapipe carries the bundled models; they went after 0.10.21."""
    return hasattr(_mediapipe(), "solutions")


def _require_solutions(what: str, otherwise: str = "") -> None:
    if not _has_solutions():
        raise FaceguideError(
            f"mediapipe {_mediapipe().__version__} has no bundled {what} (0.10.21 is the last with "
            f"them): pip install mediapipe==0.10.21{otherwise}"
        )


def _face_mesh_graph() -> Any:
    """`mediapipe.solutions.face_mesh.FaceMesh`, which also reports what its detector saw."""
    from mediapipe.python.solution_base import SolutionBase

    return SolutionBase(
        binary_graph_path="mediapipe/modules/face_landmark/face_landmark_front_cpu.binarypb",
        side_inputs={"num_faces": MAX_FACES, "with_attention": True, "use_prev_landmarks": False},
        outputs=["multi_face_landmarks", "face_detections"],
    )


class FaceMesh:
    """The Face Mesh that mediapipe up to 0.10.21 carries, with refined eyes and lips.

    Each image is independent: landmarks do not depend on the images before it. Not safe to
    share between threads or to send to another process; build one per worker.

    Raises:
        FaceguideError: when mediapipe is missing or has no bundled models.
    """

    def __init__(self) -> None:
        _require_solutions("Face Mesh models", ", or give --model face_landmarker.task")
        with _quiet():
            self._graph = _face_mesh_graph()
            self._graph.process(_BLANK)
        self._met_a_face = False

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Landmarks of all faces.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (F, 478, 3) x, y and z in pixels, F = 0 without a face. z grows away from the
            camera and is 0 near the middle of the head.
        """
        return self.look(image)[0]

    def look(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Landmarks, as `__call__` gives them, and what the detector saw before them.

        Returns:
            (F, 478, 3), and (B, 5) boxes with their scores, as `BoxDetector.scored` gives them.
        """
        # The part of the graph behind a found face logs once more, when it runs first.
        with contextlib.nullcontext() if self._met_a_face else _quiet():
            found = self._graph.process(image)
        messages = found.multi_face_landmarks or []
        self._met_a_face = self._met_a_face or bool(messages)
        points = [points_from_message(message) for message in messages]
        return faces_in_pixels(points, image), boxes_in_pixels(found.face_detections or [], image)

    def close(self) -> None:
        """Release the graph."""
        self._graph.close()


class FaceLandmarker:
    """The same 478 points from a ``face_landmarker.task`` file, in any mediapipe.

    Its points differ from those of `FaceMesh` by a few hundredths of the eye distance, so one
    cache never holds both: `finder_of` is part of the recipe.

    Raises:
        FaceguideError: when mediapipe is missing or `model` cannot be loaded.
    """

    def __init__(self, model: Path) -> None:
        mediapipe = _mediapipe()
        from mediapipe.tasks.python import BaseOptions, vision

        content = _read_model(model)
        self._image = mediapipe.Image
        self._rgb = mediapipe.ImageFormat.SRGB
        try:
            with _quiet():
                self._task = vision.FaceLandmarker.create_from_options(
                    vision.FaceLandmarkerOptions(
                        base_options=BaseOptions(model_asset_buffer=content), num_faces=MAX_FACES
                    )
                )
                # mediapipe 1.x stumbles when its clean-up is left to the interpreter's end.
                self._close = weakref.finalize(self, self._task.close)
                self(_BLANK)
        except (RuntimeError, ValueError) as error:
            raise FaceguideError(
                f"{model} is not a face landmarker model that mediapipe {mediapipe.__version__} "
                f"can load ({str(error).splitlines()[0]}); --model takes face_landmarker.task"
            ) from error

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Landmarks of all faces; as `FaceMesh.__call__`."""
        pixels = np.ascontiguousarray(image)
        found = self._task.detect(self._image(image_format=self._rgb, data=pixels))
        faces = [np.array([(p.x, p.y, p.z) for p in face]) for face in found.face_landmarks]
        return faces_in_pixels(faces, image)

    def look(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], None]:
        """Landmarks only: the task reports nothing of its detector."""
        return self(image), None

    def close(self) -> None:
        """Release the graph."""
        self._close()


class BoxDetector:
    """MediaPipe's two face detectors, for a second look at images in which no mesh was found.

    Raises:
        FaceguideError: when mediapipe is missing or has no bundled models.
    """

    def __init__(self) -> None:
        _require_solutions("face detectors")
        self._build = _mediapipe().solutions.face_detection.FaceDetection
        self._graphs: dict[str, Any] = {}

    def _graph(self, reach: Literal["short", "full"]) -> Any:
        """Loaded when first needed, which for many sources is never."""
        if reach not in self._graphs:
            with _quiet():
                graph = self._build(model_selection=int(reach == "full"))
                graph.process(_BLANK)
            self._graphs[reach] = graph
        return self._graphs[reach]

    def __call__(
        self, image: NDArray[np.uint8], reach: Literal["short", "full"]
    ) -> NDArray[np.float32]:
        """Boxes of faces; as `scored`, without the scores."""
        return self.scored(image, reach)[:, :4]

    def scored(
        self, image: NDArray[np.uint8], reach: Literal["short", "full"]
    ) -> NDArray[np.float32]:
        """Boxes of faces and how sure of them the detector is.

        Args:
            image: (H, W, 3) uint8 RGB.
            reach: ``full`` sees small faces in scenes, ``short`` faces that fill the image.

        Returns:
            (B, 5) left, top, right, bottom in pixels and a score of .5 to 1, the surest first;
            boxes may reach beyond the image.
        """
        return boxes_in_pixels(self._graph(reach).process(image).detections or [], image)


# The networks that `FaceMesh` and `BoxDetector` run, inside the package mediapipe.
_BUNDLED = (
    "face_landmark/face_landmark_with_attention.tflite",
    "face_detection/face_detection_short_range.tflite",
    "face_detection/face_detection_full_range_sparse.tflite",
)


def finder_of(model: Path | None) -> dict[str, str]:
    """What finds the faces, as it stands in the recipe of a cache; loads no network.

    Returns:
        tool ("face-mesh" or "landmarker"), version (of mediapipe) and model (hex sha256 of the
        networks' files, its first 32 digits).

    Raises:
        FaceguideError: when mediapipe is missing or the model cannot be read.
    """
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or spec.origin is None:
        raise FaceguideError(_MISSING)
    version = importlib.metadata.version("mediapipe")
    if model is not None:
        content = _read_model(model)
    else:
        modules = Path(spec.origin).parent / "modules"
        # Of a mediapipe that carries none of them, opening the mesh says so.
        paths = [path for name in _BUNDLED if (path := modules / name).exists()]
        content = b"".join(path.read_bytes() for path in paths)
    return {
        "tool": "face-mesh" if model is None else "landmarker",
        "version": f"mediapipe {version}",
        "model": hashlib.sha256(content).hexdigest()[:32],
    }


def _read_model(model: Path) -> bytes:
    try:
        return model.read_bytes()
    except OSError as error:
        raise FaceguideError(
            f"cannot read the face landmarker model {model}: {error.strerror}; "
            "--model takes MediaPipe's face_landmarker.task"
        ) from error


def open_mesh(model: Path | None) -> FaceMesh | FaceLandmarker:
    """The bundled Face Mesh, or the Tasks API with `model`.

    Raises:
        FaceguideError: when mediapipe is missing or the model cannot be loaded.
    """
    return FaceMesh() if model is None else FaceLandmarker(model)


def open_boxes() -> BoxDetector | None:
    """The face detectors, or None where this mediapipe has none: then nothing is retried.

    Raises:
        FaceguideError: when mediapipe is missing.
    """
    return BoxDetector() if _has_solutions() else None
