"""Finders on real photographs: pixel frame, agreement with MediaPipe, determinism, errors."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from skimage import data

import faceguide as fg
from faceguide.cache import FaceCache
from faceguide.cache.schema import STATUSES
from faceguide.core.commands.console import Interrupted
from faceguide.core.errors import FaceguideError
from faceguide.core.faces.align import five_points
from faceguide.preprocess.cli import main
from faceguide.preprocess.detect.cascade import every_face
from faceguide.preprocess.detect.finders import mediapipe_package
from faceguide.preprocess.detect.finders.finder import Finder
from faceguide.preprocess.detect.finders.open_finder import (
    chosen_finder,
    finder_of,
    open_finder,
)
from faceguide.preprocess.detect.square import LARGEST_SIDE, Square

MIRRORED = [1, 0, 2, 4, 3]
# Read off the photograph by eye: both irises, nose tip, corners of the mouth.
ASTRONAUT = np.array([(203, 101), (246, 103), (223, 129), (202, 139), (245, 140)])


def photographs(shared: Path, step: int) -> list[NDArray[np.uint8]]:
    folders = ("mfr2_dev/images/*/*.png", "maskedface_seg_dev/images/*.jpg", "deepface_dev/*.jpg")
    paths = [path for folder in folders for path in sorted((shared / "data").glob(folder))[::step]]
    return [np.ascontiguousarray(cv2.imread(str(path))[..., ::-1], np.uint8) for path in paths]


def eye_distance(landmarks: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(landmarks[473, :2] - landmarks[468, :2]))


def test_landmarks_are_pixels_on_the_face(finder: Finder) -> None:
    image = data.astronaut()
    boxes = finder.boxes(image)
    assert len(boxes) == 1
    assert 0.8 < boxes.scores[0] <= 1
    left, top, right, bottom = boxes.edges[0]
    assert (left < ASTRONAUT[:, 0]).all()
    assert (right > ASTRONAUT[:, 0]).all()
    assert top < ASTRONAUT[0, 1]
    assert bottom > ASTRONAUT[3, 1]
    np.testing.assert_allclose(boxes.eyes[0], ASTRONAUT[:2], atol=8)
    landmarks, presence = finder.mesh(image, boxes.square(0))
    assert landmarks.shape == (478, 3)
    assert landmarks.dtype == np.float32
    assert not presence < 0.9
    np.testing.assert_allclose(five_points(landmarks), ASTRONAUT, atol=3)
    # z is about as large as x and y, and the nose is nearer to the camera than the ears.
    assert 40 < np.ptp(landmarks[:, 2]) < 160
    assert landmarks[1, 2] < landmarks[[234, 454], 2].min() - 40


def test_the_mesh_follows_any_square(finder: Finder) -> None:
    image = data.astronaut()
    own = finder.boxes(image).square(0)
    here, _ = finder.mesh(image, own)
    moved = Square(own.x + 4, own.y - 3, own.side * 1.1, own.angle + math.radians(10))
    there, presence = finder.mesh(image, moved)
    assert presence > 0.9
    away = np.linalg.norm((there - here)[:, :2], axis=1) / eye_distance(here)
    assert 0 < away.mean() < 0.05
    # The image turned about the square's centre, and the square with it: the same, turned.
    matrix = cv2.getRotationMatrix2D((own.x, own.y), -30, 1.0)
    tilted = cv2.warpAffine(image, matrix, (512, 512)).astype(np.uint8)
    turned, presence = finder.mesh(tilted, replace(own, angle=own.angle + math.radians(30)))
    assert presence > 0.9
    expected = five_points(here) @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(five_points(turned), expected, atol=1.5)
    _, presence = finder.mesh(data.rocket(), Square(120, 100, 150, 0))
    assert presence < 0.1


def test_face_mesh_repeats_mediapipe_bit_for_bit(shared: Path, face_mesh: Finder) -> None:
    from mediapipe.python.solutions.face_mesh import FaceMesh

    compared = 0
    with FaceMesh(static_image_mode=True, refine_landmarks=True, max_num_faces=5) as theirs:
        for image in photographs(shared, 4):
            height, width = image.shape[:2]
            found = theirs.process(image).multi_face_landmarks or []
            expected = np.array(
                [
                    [(p.x * width, p.y * height, p.z * width) for p in face.landmark]
                    for face in found
                ]
            ).reshape(-1, 478, 3)
            np.testing.assert_array_equal(
                every_face(image, face_mesh)[:5], expected.astype(np.float32)
            )
            compared += len(expected)
    assert compared > 40


def test_opencv_and_landmarker_agree(shared: Path, task: Path) -> None:
    """The same networks in two engines, in one or two squares that differ in no bit."""
    if mediapipe_package.fault():
        pytest.skip(mediapipe_package.fault())
    ours, theirs = open_finder("opencv", task), open_finder("landmarker", task)
    away, meshes = [], 0
    for image in photographs(shared, 8):
        boxes, same = ours.boxes(image), theirs.boxes(image)
        np.testing.assert_array_equal(boxes.edges, same.edges)
        for index in range(len(boxes)):
            landmarks, presence = ours.mesh(image, boxes.square(index))
            other, known = theirs.mesh(image, boxes.square(index))
            assert (presence >= 0.5) == math.isnan(known)  # MediaPipe's own, without a presence
            meshes += math.isnan(known)
            gap = np.linalg.norm((landmarks - other)[:, :2], axis=1)
            away.append(gap.mean() / eye_distance(landmarks))
    theirs.close()
    assert meshes > 20
    assert np.median(away) < 0.0003
    assert max(away) < 0.002


def test_several_faces_and_none(finder: Finder) -> None:
    head = data.astronaut()[:256, 96:352]
    found = every_face(np.hstack([head, head[:, ::-1]]), finder)
    assert found.shape == (2, 478, 3)
    left = found[np.argsort(found[:, 1, 0])]
    assert left[0, 1, 0] < 256 < left[1, 1, 0]
    for shape in ((1, 1), (2, 2), (1, 700), (3000, 2), (200, 300)):
        assert len(finder.boxes(np.full((*shape, 3), 127, np.uint8))) == 0
    assert len(every_face(data.astronaut(), finder)) == 1  # and it still works


def test_the_order_of_images_changes_no_bit(finder: Finder) -> None:
    image = data.astronaut()
    images = [image, image[:256, 96:352], np.zeros_like(image), image[:, ::-1]]
    forward = [every_face(one, finder).tobytes() for one in images]
    assert forward == [every_face(one, finder).tobytes() for one in reversed(images)][::-1]


@pytest.mark.parametrize("side", [56, 112])
def test_normalised_times_width_is_the_pixel_centre(
    face_mesh: Finder, shared: Path, side: int
) -> None:
    """A face and its mirror image meet at x + x′ = width − 1 + a share of the side.

    The share is the network's own bias, 0.005; a missing or needless half pixel would add 1.
    """
    sums = []
    for path in sorted((shared / "data" / "lfw112_dev" / "images").glob("A*/*_0001.jpg"))[:60]:
        resized = cv2.resize(cv2.imread(str(path)), (side, side), interpolation=cv2.INTER_AREA)
        image = np.ascontiguousarray(resized[..., ::-1], np.uint8)
        here, there = (every_face(one, face_mesh) for one in (image, image[:, ::-1]))
        if len(here) == len(there) == 1:
            both = five_points(here[0])[:, 0] + five_points(there[0])[MIRRORED, 0]
            sums.append(both.mean() - (side - 1) - 0.005 * side)
    assert len(sums) > 30
    assert np.mean(sums) == pytest.approx(0, abs=0.25)


def test_serialised_points_equal_the_attributes(face_mesh: Finder) -> None:
    from mediapipe.framework.formats.landmark_pb2 import NormalizedLandmarkList

    from faceguide.preprocess.detect.finders.landmark_message import points_from_message

    points = np.random.default_rng(0).random((478, 3), np.float32).astype(np.float64)
    message = NormalizedLandmarkList(landmark=[{"x": x, "y": y, "z": z} for x, y, z in points])
    np.testing.assert_array_equal(points_from_message(message.SerializeToString()), points)
    # A presence field makes the rows longer, a swapped field breaks the tags: attributes then.
    message.landmark[3].presence = 0.5
    np.testing.assert_array_equal(points_from_message(message.SerializeToString()), points)
    message.landmark[3].ClearField("presence")
    message.landmark[3].ClearField("x")
    message.landmark[3].visibility = 0.25
    points[3, 0] = 0
    np.testing.assert_array_equal(points_from_message(message.SerializeToString()), points)


def test_a_finder_is_named_by_tool_version_and_model(finder: Finder, task: Path) -> None:
    model = None if finder.name == "face-mesh" else task
    name, chosen = chosen_finder(finder.name, model)
    assert finder_of(name, chosen) == {
        "tool": finder.name,
        "version": finder.version,
        "model": finder.digest,
    }
    assert finder.version.startswith("opencv " if finder.name == "opencv" else "mediapipe ")
    assert len(finder.digest) == 32


def prep(photos: Path, cache: Path, *arguments: object) -> tuple[int, str]:
    command = ["landmarks", photos, "--flat", "--out", cache, "--jobs", 1, "--json", *arguments]
    result = CliRunner().invoke(main, [str(word) for word in command])
    assert not isinstance(result.exception, Interrupted)
    return result.exit_code, result.stderr


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "her.png"), data.astronaut()[..., ::-1])
    return folder


def test_a_cache_never_mixes_finders(photos: Path, tmp_path: Path, task: Path) -> None:
    assert prep(photos, tmp_path / "cache", "--finder", "opencv", "--model", task) == (0, "")
    recipe = FaceCache.open(tmp_path / "cache").recipe["finder"]
    assert recipe["tool"] == "opencv"
    assert recipe["version"] == f"opencv {cv2.__version__}"
    if mediapipe_package.fault():
        pytest.skip(mediapipe_package.fault())
    code, said = prep(photos, tmp_path / "cache", "--finder", "landmarker", "--model", task)
    assert code == 1
    assert "finder.tool: opencv there, landmarker wanted" in said
    assert said.count("\n") == 1
    code, said = prep(photos, tmp_path / "other", "--model", task)
    assert (code, said) == (0, f"Finder: landmarker (mediapipe {mediapipe_package.version()})\n")


@pytest.mark.parametrize("name", ["opencv", "landmarker"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "truncated or no archive"),
        (b"not a model", "truncated or no archive"),
        (None, "no item named 'face_landmarks_detector.tflite'"),
        ({"face_detector.tflite": b"x", "face_landmarks_detector.tflite": b"y"}, "is not"),
    ],
    ids=["empty", "foreign", "without mesh", "no networks"],
)
def test_a_wrong_model_is_one_line(
    photos: Path, tmp_path: Path, name: str, content: object, says: str
) -> None:
    model = tmp_path / "mine.task"
    if isinstance(content, bytes):
        model.write_bytes(content)
    else:
        with zipfile.ZipFile(model, "w") as archive:
            parts = content if isinstance(content, dict) else {"face_detector.tflite": b"x"}
            for inside, value in parts.items():
                archive.writestr(inside, value)
    code, said = prep(photos, tmp_path / "cache", "--finder", name, "--model", model)
    assert code == 1
    assert says in said
    assert str(model) in said
    assert "face_landmarker.task" in said
    assert said.count("\n") == 1, said


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_model_is_one_line(
    photos: Path, tmp_path: Path, task: Path, share: float
) -> None:
    model = tmp_path / "short.task"
    content = task.read_bytes()
    model.write_bytes(content[: int(share * len(content))])
    code, said = prep(photos, tmp_path / "cache", "--finder", "opencv", "--model", model)
    assert code == 1
    assert said.count("\n") == 1, said
    assert f"{model} is not MediaPipe's face_landmarker.task" in said


def test_networks_in_the_wrong_place(photos: Path, tmp_path: Path, task: Path) -> None:
    """Both can be read, but the mesh is the detector."""
    model = tmp_path / "swapped.task"
    with zipfile.ZipFile(task) as source, zipfile.ZipFile(model, "w") as archive:
        for name in ("face_detector.tflite", "face_landmarks_detector.tflite"):
            archive.writestr(name, source.read("face_detector.tflite"))
    code, said = prep(photos, tmp_path / "cache", "--finder", "opencv", "--model", model)
    assert code == 1
    assert str(model) in said
    assert said.count("\n") == 1, said


def test_what_is_missing_is_named(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FaceguideError, match="has its own models"):
        chosen_finder("face-mesh", task)
    with pytest.raises(FaceguideError, match="prep models --fetch face-landmarker"):
        chosen_finder("opencv", None)
    # As on a machine without mediapipe.
    monkeypatch.setattr(mediapipe_package, "version", lambda: "")
    assert chosen_finder("auto", task) == ("opencv", task)
    with pytest.raises(FaceguideError, match=r"pip install 'faceguide\[prep\]'"):
        open_finder("landmarker", task)
    with pytest.raises(FaceguideError, match="no finder is complete: `prep models"):
        open_finder("auto", None)


def test_a_system_without_egl_is_told_the_package(
    task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mediapipe_package, "bundled_models", lambda: [])
    monkeypatch.setattr(mediapipe_package, "version", lambda: "1.2.3")
    monkeypatch.setattr(mediapipe_package, "_LIBRARIES", {"libAbsent.so.1": "libabsent1"})
    with pytest.raises(FaceguideError, match=r"needs libAbsent\.so\.1: apt-get install libabsent1"):
        chosen_finder("landmarker", task)
    with pytest.raises(FaceguideError, match=r"apt-get install libabsent1"):
        mediapipe_package.load()
    assert chosen_finder("auto", task) == ("opencv", task)


def test_an_image_beyond_opencv_is_one_row_that_failed(tmp_path: Path, task: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    cv2.imwrite(str(folder / "long.png"), np.zeros((20, LARGEST_SIDE + 1, 3), np.uint8))
    code, _ = prep(folder, tmp_path / "cache", "--finder", "opencv", "--model", task)
    assert code == 3
    cache = FaceCache.open(tmp_path / "cache")
    assert STATUSES[cache.read([0], ["status"])["status"][0]] == "too_large"


def test_importing_does_not_import_mediapipe_and_a_run_is_silent(task: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from skimage import data;"
        "from faceguide.preprocess.detect import cascade;"
        "from faceguide.preprocess.detect.finders import mediapipe_package as p, open_finder as o;"
        "assert 'mediapipe' not in sys.modules;"
        f"task = Path({str(task)!r});"
        "names = ['opencv', *['landmarker'] * (not p.fault())];"
        "names += ['face-mesh'] * bool(p.bundled_models());"
        "open_one = lambda n: o.open_finder(n, None if n == 'face-mesh' else task);"
        "found = [len(cascade.every_face(data.astronaut(), open_one(n))) for n in names];"
        "assert found == [1] * len(names); print('after', file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == "after\n"  # its own words still arrive


def test_workers_end_in_silence(photos: Path, tmp_path: Path, task: Path) -> None:
    """mediapipe 1.x, left to the interpreter's end, writes a traceback from each worker."""
    if mediapipe_package.fault():
        pytest.skip(mediapipe_package.fault())
    cv2.imwrite(str(photos / "mirrored.png"), data.astronaut()[:, ::-1, ::-1])
    command = [sys.executable, "-m", "faceguide", "prep", "landmarks", str(photos), "--flat"]
    command += ["--out", str(tmp_path / "cache"), "--finder", "landmarker", "--model", str(task)]
    command += ["--jobs", "2", "--shard-rows", "1", "--json"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["finder"] == "landmarker"


def test_the_front_door_takes_the_same_finders(task: Path) -> None:
    face = fg.align(data.astronaut(), finder="opencv", model=task)
    assert face.source_landmarks is not None
    np.testing.assert_allclose(five_points(face.source_landmarks), ASTRONAUT, atol=3)
    with pytest.raises(FaceguideError, match="--model is for landmarker and opencv"):
        fg.align(data.astronaut(), finder="face-mesh", model=task)
