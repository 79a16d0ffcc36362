"""The detection cascade on real photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from faceguide.core.faces.align import five_points
from faceguide.preprocess.detect import cascade
from faceguide.preprocess.detect.boxes.box_detectors import SecondLooks, second_looks
from faceguide.preprocess.detect.cascade import (
    Face,
    every_face,
    find_face,
    mirror_disagreement,
)
from faceguide.preprocess.detect.finders.finder import Finder, Limits
from faceguide.preprocess.detect.square import Boxes, tracked

# Read off the photograph by eye: both irises, nose tip, corners of the mouth.
ASTRONAUT = np.array([(203, 101), (246, 103), (223, 129), (202, 139), (245, 140)])


@pytest.fixture(scope="module")
def finder(face_mesh: Finder) -> Finder:
    return face_mesh


@pytest.fixture(scope="module")
def looks(finder: Finder) -> SecondLooks:
    """MediaPipe's detectors."""
    return second_looks(None, finder)


@pytest.fixture(scope="module")
def better(finder: Finder, centerface: Path) -> SecondLooks:
    """CenterFace."""
    return second_looks(centerface, finder)


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


def test_the_first_look(finder: Finder, looks: SecondLooks) -> None:
    face = find_face(data.astronaut(), finder, looks)
    assert (face.origin, face.count, face.reason) == ("detected", 1, "")
    assert np.isnan(face.quality)
    assert face.presence > 0.9
    assert face.score > 0.9
    assert face.landmarks is not None
    np.testing.assert_allclose(five_points(face.landmarks), ASTRONAUT, atol=3)


def test_the_tracked_square_is_turned_with_the_face(finder: Finder) -> None:
    landmarks = every_face(data.astronaut(), finder)[0]
    upright = tracked(landmarks)
    assert upright.side > 1.4 * np.ptp(landmarks[:, :2], axis=0).max()
    turn = np.array([(0.0, 1.0), (-1.0, 0.0)])  # a quarter counter-clockwise, as one sees it
    landmarks[:, :2] = landmarks[:, :2] @ turn.T
    turned = tracked(landmarks)
    assert turned.angle == pytest.approx(upright.angle - np.pi / 2, abs=1e-6)
    assert turned.side == pytest.approx(upright.side, rel=1e-5)
    np.testing.assert_allclose((turned.x, turned.y), turn @ (upright.x, upright.y), atol=1e-3)


def test_check_all_measures_quality(finder: Finder, looks: SecondLooks) -> None:
    image = data.astronaut()
    face = find_face(image, finder, looks, check_all=True)
    assert face.landmarks is not None
    assert face.quality == pytest.approx(1 - mirror_disagreement(face.landmarks, image, finder))
    assert 0.9 < face.quality < 1
    # A mesh beside the face finds back to it in the mirrored image.
    moved = face.landmarks + np.array([12, 0, 0], np.float32)
    assert mirror_disagreement(moved, image, finder) > 0.15


def test_a_blank_image_has_no_face(finder: Finder, looks: SecondLooks) -> None:
    for shape in ((200, 300), (1, 1), (5000, 2)):
        face = find_face(np.full((*shape, 3), 99, np.uint8), finder, looks, check_all=True)
        assert (face.landmarks, face.origin, face.count) == (None, "none", 0)
        assert face.reason == "no_face"
        assert np.isnan((face.quality, face.presence, face.score)).all()


@pytest.mark.parametrize("tilt", [-30, 0, 30])
def test_the_second_look_finds_a_small_face(
    finder: Finder, looks: SecondLooks, tilt: float
) -> None:
    scene, points = small_in_a_scene(tilt=tilt)
    assert not len(every_face(scene, finder))
    face = find_face(scene, finder, looks)
    assert (face.origin, face.count, face.reason) == ("retried", 0, "")
    assert face.landmarks is not None
    np.testing.assert_allclose(five_points(face.landmarks), points, atol=2)
    assert 0.7 <= face.quality < 1
    assert min(face.score, face.presence) > 0.4


@pytest.mark.parametrize("refused", ["presence", "mirror", "eyes"])
def test_a_second_look_that_misses_a_limit_is_refused(
    finder: Finder, looks: SecondLooks, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """With one limit beyond what any face reaches, the same face is refused."""
    limits = {"presence": 0.0, "mirror": 9.0, "eyes": 9.0}
    limits[refused] = 1.1 if refused == "presence" else 1e-6
    monkeypatch.setattr(type(finder), "limits", {"mediapipe": Limits(**limits)})
    face = find_face(small_in_a_scene()[0], finder, looks)
    assert (face.landmarks, face.origin) == (None, "none")
    assert face.reason == ("no_face" if refused == "presence" else "implausible")


@pytest.mark.parametrize(
    ("doubted", "origin"),
    [(None, "retried"), (Limits(0, 9.0, 9.0), "detected"), (Limits(0, 1e-6, 9.0), "retried"),
     (Limits(0, 9.0, 1e-6), "retried")],
)  # fmt: skip
def test_a_first_look_without_presence_has_to_agree(
    finder: Finder, looks: SecondLooks, monkeypatch: pytest.MonkeyPatch,
    doubted: Limits | None, origin: str,
) -> None:  # fmt: skip
    """Where no mesh is present enough, a finder that doubts itself takes one that agrees."""
    monkeypatch.setattr(cascade, "_PRESENT", 1.1)
    monkeypatch.setattr(type(finder), "doubted", doubted)
    face = find_face(data.astronaut(), finder, looks)
    assert face.origin == origin
    assert face.quality > 0.8  # measured in either case


@pytest.mark.parametrize(("score", "origin"), [(0.29, "none"), (0.31, "retried")])
def test_a_faint_box_is_none(finder: Finder, score: float, origin: str) -> None:
    scene, points = small_in_a_scene()
    middle = points.mean(axis=0)
    edges = np.array([[*(middle - 20), *(middle + 20)]], np.float32)
    boxes = Boxes(edges, np.array([score], np.float32), points[None, :2].astype(np.float32))
    looks = SecondLooks("centerface", (lambda image: boxes,), (1.25, 1.6))
    assert find_face(scene, finder, looks).origin == origin


def test_no_box_detector_is_asked_while_the_finder_is_sure(finder: Finder) -> None:
    def asked(image: NDArray[np.uint8]) -> None:
        raise AssertionError("a detector was asked")

    looks = SecondLooks("centerface", (asked,), (1.25,))  # type: ignore[arg-type]
    assert find_face(data.astronaut(), finder, looks).origin == "detected"
    with pytest.raises(AssertionError, match="a detector was asked"):
        find_face(small_in_a_scene()[0], finder, looks)


def test_largest_and_central_of_two_faces(finder: Finder, looks: SecondLooks) -> None:
    head = data.astronaut()[:256, 96:352]
    small = cv2.resize(head, (192, 192), interpolation=cv2.INTER_AREA)
    image = np.full((256, 600, 3), 90, np.uint8)
    image[:, :256] = head  # nose at 127
    image[32:224, 256:448] = small  # nose at 351, nearer to the middle at 300
    largest = find_face(image, finder, looks)
    central = find_face(image, finder, looks, choose="center")
    assert largest.count == central.count == 2
    assert largest.landmarks is not None
    assert central.landmarks is not None
    assert largest.landmarks[1, 0] == pytest.approx(127, abs=8)
    assert central.landmarks[1, 0] == pytest.approx(351, abs=8)
    # Mirroring the image must not change which of the two is measured.
    assert find_face(image, finder, looks, check_all=True).quality > 0.8
    with pytest.raises(ValueError, match="'largest' or 'center', not 'best'"):
        find_face(image, finder, looks, choose="best")  # type: ignore[arg-type]


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
    finder: Finder, looks: SecondLooks, choose: Literal["center", "largest"],
    sides: list[int], blurred: int, chosen: int,
) -> None:  # fmt: skip
    """The detector is least sure of the face out of focus, which is the one that is asked for."""
    face = find_face(grid_of_nine(sides, blurred), finder, looks, choose=choose)
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


def _turned(points: NDArray[np.floating], image: NDArray[np.uint8]) -> NDArray[np.floating]:
    """Points of an image in the one that is turned by 180 degrees."""
    return np.array(image.shape[1::-1]) - 1 - points[..., :2]


@pytest.mark.parametrize(("cut", "side"), CUTS)
def test_a_face_upside_down_is_found_where_it_is(
    finder: Finder, looks: SecondLooks, cut: tuple[int, int, int, int], side: int
) -> None:
    top, bottom, left, right = cut
    image = cv2.resize(data.astronaut()[top:bottom, left:right], (side, side)).astype(np.uint8)
    upright = find_face(image, finder, looks)
    assert upright.origin == "detected"
    assert upright.landmarks is not None
    turned = np.ascontiguousarray(image[::-1, ::-1])
    assert len(every_face(turned, finder)), "Face Mesh alone takes it for a face"
    face = find_face(turned, finder, looks)
    assert face.origin == "retried"
    assert face.landmarks is not None
    np.testing.assert_array_equal(
        face.landmarks[:, :2], _turned(upright.landmarks, image).astype(np.float32)
    )


@pytest.mark.parametrize("quarters", [1, 3])
def test_a_face_on_its_side_is_found_by_option(
    finder: Finder, better: SecondLooks, quarters: int
) -> None:
    image = data.astronaut()[:300, 70:340]
    upright = find_face(np.ascontiguousarray(image), finder, better)
    assert upright.landmarks is not None
    lying = np.ascontiguousarray(np.rot90(image, quarters))
    face = find_face(lying, finder, better, quarter_turns=True)
    assert face.landmarks is not None
    height, width = image.shape[:2]
    x, y = upright.landmarks[:, 0], upright.landmarks[:, 1]
    there = (y, width - 1 - x) if quarters == 1 else (height - 1 - y, x)
    np.testing.assert_allclose(face.landmarks[:, :2], np.stack(there, axis=1), atol=0.5)


def test_upright_and_inverted_faces_of_real_photographs(
    shared: Path, finder: Finder, looks: SecondLooks
) -> None:
    paths = sorted((shared / "data/lfw112_dev/images").glob("*/*.jpg"))[::32]
    right = 0
    for path in paths:
        image = cv2.copyMakeBorder(read(path), 40, 40, 40, 40, cv2.BORDER_REFLECT)
        image = cv2.resize(image, (384, 384)).astype(np.uint8)
        upright = find_face(image, finder, looks)
        assert upright.origin == "detected", path.name
        assert upright.landmarks is not None
        face = find_face(np.ascontiguousarray(image[::-1, ::-1]), finder, looks)
        if face.landmarks is not None:
            away = five_points(face.landmarks) - _turned(five_points(upright.landmarks), image)
            right += bool(np.abs(away).max() < 20)
    assert right > 0.6 * len(paths)  # with CenterFace all of them


def test_masked_faces_stay_upright(shared: Path, finder: Finder, looks: SecondLooks) -> None:
    """A detector that sees eyes over a mask may be surer of the turned picture."""
    paths = sorted((shared / "data/mfr2_dev/images").glob("*/*.png"))
    standing = []
    for path in paths:
        face = find_face(read(path), finder, looks)
        if face.landmarks is not None:
            eyes, mouth = five_points(face.landmarks)[:2], five_points(face.landmarks)[3:]
            standing.append(eyes[:, 1].mean() < mouth[:, 1].mean())
    assert len(standing) >= len(paths) - 1
    assert all(standing)


def test_the_turned_face_counts_unless_the_mesh_is_surer_of_the_upright_one() -> None:
    looks, better = SecondLooks("mediapipe", (), ()), SecondLooks("centerface", (), ())

    def face(presence: float) -> Face:
        return Face(np.zeros((478, 3), np.float32), "detected", presence=presence)

    assert cascade._surer(face(0.9999), face(0.995), looks)
    assert not cascade._surer(face(0.9999), face(0.995), better)
    assert not cascade._surer(face(0.99), face(0.99), looks)
    assert not cascade._surer(face(float("nan")), face(float("nan")), looks)
    assert not cascade._surer(None, None, looks)
    assert cascade._surer(face(0.9), None, looks)
    assert not cascade._surer(face(0.9), None, better)


def test_centerface_sees_what_face_mesh_overlooks(
    finder: Finder, looks: SecondLooks, better: SecondLooks
) -> None:
    """The head under a drawn hood that leaves a slit for the eyes."""
    image = data.astronaut()
    y, x = np.indices(image.shape[:2])
    hood = np.hypot((x - 226) / 95, (y - 98) / 114) < 1
    image[hood & (np.abs(y - 102) > 10)] = (30, 30, 34)
    assert find_face(image, finder, looks).landmarks is None
    face = find_face(image, finder, better)
    assert face.origin == "retried"
    assert face.landmarks is not None
    np.testing.assert_allclose(five_points(face.landmarks)[:2], ASTRONAUT[:2], atol=5)


def test_a_weak_find_that_centerface_does_not_confirm_is_dropped(
    shared: Path, finder: Finder, looks: SecondLooks, better: SecondLooks
) -> None:
    """A weak find stands without CenterFace, and with it only where that sees the eyes too."""
    scores = []
    for path in sorted((shared / "data/mfr2_dev/images").glob("*/*"))[::3]:
        face = find_face(read(path), finder, looks)
        if face.origin == "detected" and face.score < 0.8:
            scores.append(face.score)
            seen = better.detectors[0]
            assert seen is not None
            checked = find_face(read(path), finder, better)
            if not len(seen(read(path))):
                assert checked.origin != "detected", path.name
            elif checked.origin == "detected":
                assert checked.score == face.score
    assert scores


def test_the_order_of_images_changes_no_bit(finder: Finder, looks: SecondLooks) -> None:
    images = [
        data.astronaut(),
        small_in_a_scene()[0],
        np.zeros((64, 64, 3), np.uint8),
        small_in_a_scene(tilt=30)[0],
        np.ascontiguousarray(data.astronaut()[:, ::-1]),
    ]

    def run(order: list[int]) -> dict[int, tuple[str, float, bytes]]:
        faces = {i: find_face(images[i], finder, looks, check_all=True) for i in order}
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


def test_masked_faces_are_found(shared: Path, finder: Finder, looks: SecondLooks) -> None:
    """The drawn labels say where the face and its mask are."""
    folder = shared / "data" / "maskedface_seg_dev"
    paths = sorted(folder.glob("images/*.jpg"))[:10]
    for path in paths:
        image = read(path)
        label = read(folder / "masks" / f"{path.stem}_gt.png")
        face = find_face(image, finder, looks, check_all=True)
        assert face.landmarks is not None, path.name
        assert face.quality > 0.8, path.name
        head = label.any(axis=2)
        x, y = (
            (five_points(face.landmarks).T * (head.shape[1] / image.shape[1])).round().astype(int)
        )
        assert head[y.clip(0, len(head) - 1), x.clip(0, head.shape[1] - 1)].sum() >= 4, path.name
