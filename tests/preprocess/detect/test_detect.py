"""The detection cascade on real photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import data

from faceguide.core.faces.align import five_points
from faceguide.preprocess.detect.cascade import (
    _face_in_box,
    find_face,
    mirror_disagreement,
    square_crop,
)
from faceguide.preprocess.detect.face_mesh import BoxDetector, FaceLandmarker, FaceMesh

# Read off the photograph by eye: both irises, nose tip, corners of the mouth.
ASTRONAUT = np.array([(203, 101), (246, 103), (223, 129), (202, 139), (245, 140)])


def small_in_a_scene(tilt: float = 0.0) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The astronaut's head, 17 pixels between the eyes, before a launch pad; her five points."""
    scale, place = 0.4, (320, 180)
    scene = data.rocket()
    matrix = cv2.getRotationMatrix2D((224.0, 120.0), tilt, scale)
    matrix = matrix + np.array([(0, 0, place[0] - 224), (0, 0, place[1] - 120)])
    photograph = cv2.GaussianBlur(data.astronaut(), (0, 0), 0.5 / scale)
    head = cv2.warpAffine(photograph, matrix, scene.shape[1::-1])
    y, x = np.indices(scene.shape[:2])
    inside = np.hypot(x - place[0], y - place[1]) < 100 * scale
    points = ASTRONAUT @ matrix[:, :2].T + matrix[:, 2]
    return np.where(inside[..., None], head, scene).astype(np.uint8), points


def read(path: Path) -> NDArray[np.uint8]:
    """A picture as RGB."""
    return np.ascontiguousarray(cv2.imread(str(path))[..., ::-1], np.uint8)


def test_the_first_pass(mesh: FaceMesh, boxes: BoxDetector) -> None:
    face = find_face(data.astronaut(), mesh, boxes)
    assert (face.origin, face.count, face.reason) == ("detected", 1, "")
    assert np.isnan(face.quality)
    assert face.landmarks is not None
    np.testing.assert_allclose(five_points(face.landmarks), ASTRONAUT, atol=3)


def test_check_all_measures_quality(mesh: FaceMesh, boxes: BoxDetector) -> None:
    image = data.astronaut()
    face = find_face(image, mesh, boxes, check_all=True)
    assert face.landmarks is not None
    assert face.quality == pytest.approx(1 - mirror_disagreement(face.landmarks, image, mesh))
    assert 0.9 < face.quality < 1
    # Landmarks next to the face disagree by that much: 21.5 pixels are half the eye distance.
    moved = face.landmarks + np.array([21.5, 0, 0], np.float32)
    assert mirror_disagreement(moved, image, mesh) == pytest.approx(0.5, abs=0.05)
    assert mirror_disagreement(moved, np.zeros_like(image), mesh) == float("inf")


def test_a_blank_image_has_no_face(mesh: FaceMesh, boxes: BoxDetector) -> None:
    for shape in ((200, 300), (1, 1), (5000, 2)):
        face = find_face(np.full((*shape, 3), 99, np.uint8), mesh, boxes, check_all=True)
        assert (face.landmarks, face.origin, face.count) == (None, "none", 0)
        assert face.reason == "no_face"
        assert np.isnan(face.quality)


@pytest.mark.parametrize("tilt", [-30, 0, 30])
def test_the_second_look_finds_a_small_face(
    mesh: FaceMesh, boxes: BoxDetector, tilt: float
) -> None:
    scene, points = small_in_a_scene(tilt=tilt)
    assert find_face(scene, mesh, None).reason == "no_face"
    face = find_face(scene, mesh, boxes)
    assert (face.origin, face.count, face.reason) == ("retried", 0, "")
    assert face.landmarks is not None
    np.testing.assert_allclose(five_points(face.landmarks), points, atol=2)
    assert 0.7 <= face.quality < 1


def test_a_contradicted_second_look_is_implausible(
    mesh: FaceMesh, boxes: BoxDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limits below what any face reaches, the same face is refused."""
    limits = [(reach, scale, 1e-6) for reach, scale in (("full", 1.8), ("full", 2.5))]
    monkeypatch.setattr("faceguide.preprocess.detect.cascade.SECOND_LOOKS", limits)
    face = find_face(small_in_a_scene()[0], mesh, boxes)
    assert (face.landmarks, face.origin, face.reason) == (None, "none", "implausible")


def test_a_mesh_beside_the_box_is_not_its_face(mesh: FaceMesh) -> None:
    image = data.astronaut()
    found = mesh(image)
    corner = np.array([30.0, 40.0], np.float32)
    centre = five_points(found[0]).mean(axis=0) + corner
    other = found + np.array([80, 0, 0], np.float32)
    both = np.concatenate([other, found])
    round_her = np.concatenate([centre - 40, centre + 40])
    inside = _face_in_box(both, round_her, corner)
    assert inside is not None
    np.testing.assert_array_equal(inside, found[0])
    assert _face_in_box(other, round_her, corner) is None
    assert _face_in_box(both[:0], round_her, corner) is None


def test_largest_and_central_of_two_faces(mesh: FaceMesh, boxes: BoxDetector) -> None:
    head = data.astronaut()[:256, 96:352]
    small = cv2.resize(head, (192, 192), interpolation=cv2.INTER_AREA)
    image = np.full((256, 600, 3), 90, np.uint8)
    image[:, :256] = head  # nose at 127
    image[32:224, 256:448] = small  # nose at 351, nearer to the middle at 300
    largest = find_face(image, mesh, boxes)
    central = find_face(image, mesh, boxes, choose="center")
    assert largest.count == central.count == 2
    assert largest.landmarks is not None
    assert central.landmarks is not None
    assert largest.landmarks[1, 0] == pytest.approx(127, abs=8)
    assert central.landmarks[1, 0] == pytest.approx(351, abs=8)
    # Mirroring the image must not change which of the two is measured.
    assert find_face(image, mesh, boxes, check_all=True).quality > 0.8
    with pytest.raises(ValueError, match="'largest' or 'center', not 'best'"):
        find_face(image, mesh, boxes, choose="best")  # type: ignore[arg-type]


def grid_of_nine(sides: list[int], blurred: int) -> NDArray[np.uint8]:
    """Nine times the astronaut in squares of 160 pixels; one of them out of focus."""
    head = data.astronaut()[45:180, 155:290]
    image = np.full((480, 480, 3), 90, np.uint8)
    for number, side in enumerate(sides):
        tile = cv2.resize(head, (side, side), interpolation=cv2.INTER_AREA)
        if number == blurred:
            tile = cv2.GaussianBlur(tile, (0, 0), 2.5)
        row, column = divmod(number, 3)
        y, x = row * 160 + (160 - side) // 2, column * 160 + (160 - side) // 2
        image[y : y + side, x : x + side] = tile
    return image


@pytest.mark.parametrize(
    ("choose", "sides", "blurred", "chosen"),
    [
        ("center", [140] * 9, 4, 4),
        ("center", [130] * 4 + [158] + [130] * 4, 4, 4),
        ("largest", [130] * 4 + [158] + [130] * 4, 4, 4),
        ("largest", [140] * 7 + [159] + [140], 7, 7),
    ],
)
def test_the_face_is_chosen_among_more_than_five(
    mesh: FaceMesh, boxes: BoxDetector, choose: Literal["center", "largest"],
    sides: list[int], blurred: int, chosen: int,
) -> None:  # fmt: skip
    """The detector is least sure of the face out of focus, which is the one that is asked for."""
    face = find_face(grid_of_nine(sides, blurred), mesh, boxes, choose=choose)
    assert face.count > 5
    assert face.landmarks is not None
    row, column = divmod(chosen, 3)
    nose = face.landmarks[1, :2]
    assert np.abs(nose - (column * 160 + 80, row * 160 + 95)).max() < 30


# Rows and columns of the photograph, and the side they are brought to.
CUTS = [
    ((0, 256, 96, 352), 256), ((0, 256, 96, 352), 384), ((20, 200, 130, 310), 112),
    ((20, 200, 130, 310), 384), ((40, 190, 150, 300), 256), ((0, 300, 70, 370), 384),
    ((0, 300, 70, 370), 1200),
]  # fmt: skip


@pytest.mark.parametrize(("cut", "side"), CUTS)
def test_a_face_upside_down_is_told_from_an_upright_one(
    mesh: FaceMesh, boxes: BoxDetector, cut: tuple[int, int, int, int], side: int
) -> None:
    top, bottom, left, right = cut
    image = cv2.resize(data.astronaut()[top:bottom, left:right], (side, side)).astype(np.uint8)
    assert find_face(image, mesh, boxes).origin == "detected"
    turned = np.ascontiguousarray(image[::-1, ::-1])
    assert len(mesh(turned)), "Face Mesh alone takes it for a face"
    face = find_face(turned, mesh, boxes)
    assert (face.landmarks, face.origin, face.reason) == (None, "none", "upside_down")
    # Without the detectors there is nothing to compare with.
    assert find_face(turned, mesh, None).origin == "detected"


def test_upright_and_inverted_faces_of_real_photographs(
    shared: Path, mesh: FaceMesh, boxes: BoxDetector
) -> None:
    paths = sorted((shared / "data/lfw112_dev/images").glob("*/*.jpg"))[::16]
    found = inverted = 0
    for path in paths:
        image = cv2.copyMakeBorder(read(path), 40, 40, 40, 40, cv2.BORDER_REFLECT)
        image = cv2.resize(image, (384, 384)).astype(np.uint8)
        assert find_face(image, mesh, boxes).reason != "upside_down", path.name
        face = find_face(np.ascontiguousarray(image[::-1, ::-1]), mesh, boxes)
        found += face.landmarks is not None
        inverted += face.reason == "upside_down"
    assert inverted > 10
    assert found <= 1


def test_the_task_model_sees_inverted_faces_too(shared: Path, boxes: BoxDetector) -> None:
    task = FaceLandmarker(shared / "data" / "mediapipe" / "face_landmarker.task")
    image = cv2.resize(data.astronaut()[:256, 96:352], (384, 384)).astype(np.uint8)
    turned = np.ascontiguousarray(image[::-1, ::-1])
    assert find_face(image, task, boxes).origin == "detected"
    assert find_face(turned, task, boxes).landmarks is None
    task.close()


def test_the_order_of_images_changes_no_bit(mesh: FaceMesh, boxes: BoxDetector) -> None:
    images = [
        data.astronaut(),
        small_in_a_scene()[0],
        np.zeros((64, 64, 3), np.uint8),
        small_in_a_scene(tilt=30)[0],
        np.ascontiguousarray(data.astronaut()[:, ::-1]),
    ]

    def run(order: list[int]) -> dict[int, tuple[str, float, bytes]]:
        faces = {i: find_face(images[i], mesh, boxes, check_all=True) for i in order}
        return {
            i: (f.origin, f.quality if f.landmarks is not None else -1.0, _bytes(f.landmarks))
            for i, f in faces.items()
        }

    first = run([0, 1, 2, 3, 4])
    assert [first[i][0] for i in range(5)] == [
        "detected", "retried", "none", "retried", "detected",
    ]  # fmt: skip
    assert first == run([3, 2, 4, 0, 1]) == run([4, 3, 2, 1, 0])


def _bytes(landmarks: NDArray[np.float32] | None) -> bytes:
    return b"" if landmarks is None else landmarks.tobytes()


@given(
    left=st.floats(-60, 120),
    top=st.floats(-60, 90),
    wide=st.floats(0, 80),
    high=st.floats(0, 80),
    scale=st.sampled_from([1.0, 1.8, 2.5]),
)
def test_a_square_crop_keeps_every_pixel_in_place(
    left: float, top: float, wide: float, high: float, scale: float
) -> None:
    y, x = np.indices((70, 100))
    image = np.stack([x + 1, y + 1, np.full_like(x, 255)], axis=2).astype(np.uint8)
    box = np.array([left, top, left + wide, top + high])
    crop, corner = square_crop(image, box, scale)
    side = len(crop)
    assert crop.shape == (side, side, 3)
    assert side <= 140
    assert abs(side - scale * max(wide, high)) <= 1 or side == 140
    centre = corner + (side - 1) / 2
    np.testing.assert_allclose(centre, (box[:2] + box[2:]) / 2, atol=1.1)
    rows, columns = np.nonzero(crop[..., 2])
    np.testing.assert_array_equal(crop[rows, columns, 0], columns + corner[0] + 1)
    np.testing.assert_array_equal(crop[rows, columns, 1], rows + corner[1] + 1)
    within = (np.arange(side) + corner[0] >= 0) & (np.arange(side) + corner[0] < 100)
    within_rows = (np.arange(side) + corner[1] >= 0) & (np.arange(side) + corner[1] < 70)
    assert len(rows) == within.sum() * within_rows.sum()


def test_masked_faces_are_found(shared: Path, mesh: FaceMesh, boxes: BoxDetector) -> None:
    """The drawn labels say where the face and its mask are."""
    folder = shared / "data" / "maskedface_seg_dev"
    paths = sorted(folder.glob("images/*.jpg"))[:10]
    for path in paths:
        image = read(path)
        label = read(folder / "masks" / f"{path.stem}_gt.png")
        face = find_face(image, mesh, boxes, check_all=True)
        assert face.landmarks is not None, path.name
        assert face.quality > 0.8, path.name
        head = label.any(axis=2)
        x, y = (
            (five_points(face.landmarks).T * (head.shape[1] / image.shape[1])).round().astype(int)
        )
        assert head[y.clip(0, len(head) - 1), x.clip(0, head.shape[1] - 1)].sum() >= 4, path.name
