"""MediaPipe on real photographs: shapes, pixel frame, determinism, errors, silence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

import faceguide.preprocess.detect.face_mesh as module
from faceguide.core.errors import FaceguideError
from faceguide.core.faces.align import five_points
from faceguide.preprocess.detect.face_mesh import (
    BoxDetector,
    FaceLandmarker,
    FaceMesh,
    finder_of,
    open_boxes,
    open_mesh,
)
from faceguide.preprocess.detect.mediapipe_values import points_from_message

MIRRORED = [1, 0, 2, 4, 3]


@pytest.fixture(scope="module")
def landmarker(shared: Path) -> Iterator[FaceLandmarker]:
    landmarker = FaceLandmarker(shared / "data" / "mediapipe" / "face_landmarker.task")
    yield landmarker
    landmarker.close()


def test_landmarks_are_pixels_on_the_face(mesh: FaceMesh) -> None:
    found = mesh(data.astronaut())
    assert found.shape == (1, 478, 3)
    assert found.dtype == np.float32
    # Read off the photograph by eye: both irises, nose tip, corners of the mouth.
    by_eye = [(203, 101), (246, 103), (223, 129), (202, 139), (245, 140)]
    np.testing.assert_allclose(five_points(found[0]), by_eye, atol=3)
    # z is about as large as x and y, and the nose is nearer to the camera than the ears.
    assert 40 < np.ptp(found[0, :, 2]) < 160
    assert found[0, 1, 2] < found[0, [234, 454], 2].min() - 40


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 700), (3000, 2), (200, 300)])
def test_images_without_a_face_give_no_rows(mesh: FaceMesh, shape: tuple[int, int]) -> None:
    blank = np.full((*shape, 3), 127, np.uint8)
    assert mesh(blank).shape == (0, 478, 3)
    assert len(mesh(data.astronaut())) == 1  # and the graph still works


def test_several_faces(mesh: FaceMesh) -> None:
    head = data.astronaut()[:256, 96:352]
    found = mesh(np.hstack([head, head[:, ::-1]]))
    assert found.shape == (2, 478, 3)
    left = found[np.argsort(found[:, 1, 0])]
    assert left[0, 1, 0] < 256 < left[1, 1, 0]


def test_the_order_of_images_changes_no_bit(mesh: FaceMesh) -> None:
    image = data.astronaut()
    images = [image, image[:256, 96:352].copy(), np.zeros_like(image), image[:, ::-1].copy()]
    forward = [mesh(one).tobytes() for one in images]
    backward = [mesh(one).tobytes() for one in reversed(images)]
    rebuilt = FaceMesh()
    assert forward == backward[::-1] == [rebuilt(one).tobytes() for one in images]
    rebuilt.close()


def test_serialised_points_equal_the_attributes(mesh: FaceMesh) -> None:
    message = mesh._graph.process(data.astronaut()).multi_face_landmarks[0]
    points = np.array([(p.x, p.y, p.z) for p in message.landmark])
    np.testing.assert_array_equal(points_from_message(message), points)
    # A presence field makes the rows longer, a swapped field breaks the tags: attributes then.
    message.landmark[3].presence = 0.5
    np.testing.assert_array_equal(points_from_message(message), points)
    message.landmark[3].ClearField("presence")
    message.landmark[3].ClearField("x")
    message.landmark[3].visibility = 0.25
    points[3, 0] = 0
    np.testing.assert_array_equal(points_from_message(message), points)


@pytest.mark.parametrize("side", [56, 112])
def test_normalised_times_width_is_the_pixel_centre(
    mesh: FaceMesh, shared: Path, side: int
) -> None:
    """A face and its mirror image meet at x + x′ = width − 1 + a share of the side.

    The share is the network's own bias, 0.005; a missing or needless half pixel would add 1.
    """
    sums = []
    for path in sorted((shared / "data" / "lfw112_dev" / "images").glob("A*/*_0001.jpg"))[:60]:
        resized = cv2.resize(cv2.imread(str(path)), (side, side), interpolation=cv2.INTER_AREA)
        image = np.ascontiguousarray(resized[..., ::-1], np.uint8)
        here, there = mesh(image), mesh(np.ascontiguousarray(image[:, ::-1]))
        if len(here) == len(there) == 1:
            both = five_points(here[0])[:, 0] + five_points(there[0])[MIRRORED, 0]
            sums.append(both.mean() - (side - 1) - 0.005 * side)
    assert len(sums) > 30
    assert np.mean(sums) == pytest.approx(0, abs=0.25)


def test_the_landmarker_finds_nearly_the_same_points(
    mesh: FaceMesh, landmarker: FaceLandmarker
) -> None:
    image = data.astronaut()
    one, other = mesh(image), landmarker(image)
    assert other.shape == (1, 478, 3)
    assert other.dtype == np.float32
    distances = np.linalg.norm(one[0, :, :2] - other[0, :, :2], axis=1)
    assert 0 < distances.mean() < 0.1 * 43  # 43 pixels between the eyes
    np.testing.assert_array_equal(landmarker(image[:, ::-1][:, ::-1]), other)
    assert landmarker(np.zeros((9, 5, 3), np.uint8)).shape == (0, 478, 3)


def test_a_finder_is_named_by_tool_version_and_model(tmp_path: Path) -> None:
    bundled = finder_of(None)
    assert bundled["tool"] == "face-mesh"
    assert bundled["version"].startswith("mediapipe 0.10.")
    found = []
    for content in (b"one", b"two"):
        (tmp_path / "face_landmarker.task").write_bytes(content)
        found.append(finder_of(tmp_path / "face_landmarker.task"))
    assert {one["tool"] for one in found} == {"landmarker"}
    assert len({one["model"] for one in [bundled, *found]}) == 3


def test_boxes_lie_round_the_face(mesh: FaceMesh, boxes: BoxDetector) -> None:
    image = data.astronaut()
    nose = mesh(image)[0, 1, :2]
    for found in (boxes(image, "full"), boxes(image, "short")):
        assert found.shape == (1, 4)
        assert found.dtype == np.float32
        left, top, right, bottom = found[0]
        assert left < nose[0] < right
        assert top < nose[1] < bottom
        assert 50 < right - left < 160
    assert boxes(np.zeros((40, 30, 3), np.uint8), "full").shape == (0, 4)


def test_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FaceguideError, match=r"cannot read .*no\.task: No such file"):
        open_mesh(tmp_path / "no.task")


def test_broken_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.task"
    path.write_bytes(b"not a model")
    with pytest.raises(FaceguideError, match=r"broken\.task is not a face landmarker model"):
        open_mesh(path)


def test_missing_mediapipe_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(FaceguideError, match=r"pip install 'faceguide\[prep\]'"):
        open_mesh(None)


def test_a_mediapipe_without_bundled_models(monkeypatch: pytest.MonkeyPatch) -> None:
    newer: Any = SimpleNamespace(__version__="1.2.3")
    monkeypatch.setattr(module, "_mediapipe", lambda: newer)
    assert open_boxes() is None
    with pytest.raises(FaceguideError, match=r"1\.2\.3 has no bundled Face Mesh.*--model"):
        open_mesh(None)
    with pytest.raises(FaceguideError, match=r"mediapipe 1\.2\.3 has no bundled face detectors"):
        BoxDetector()


def test_importing_does_not_import_mediapipe_and_a_run_is_silent() -> None:
    code = (
        "import sys; from faceguide.preprocess.detect import cascade, face_mesh;"
        "assert 'mediapipe' not in sys.modules;"
        "from skimage import data; mesh, boxes = face_mesh.FaceMesh(), face_mesh.open_boxes();"
        "face = cascade.find_face(data.astronaut(), mesh, boxes); assert face.count == 1;"
        "boxes(data.astronaut(), 'full'); print('after', file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == "after\n"  # its own words still arrive
