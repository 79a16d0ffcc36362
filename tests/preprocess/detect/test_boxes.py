"""Box detectors: decoding by hand, real networks on a real photograph, and files that are none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import data

from faceguide.core.errors import FaceguideError
from faceguide.preprocess.detect.boxes.box_detectors import boxes_recipe, second_looks
from faceguide.preprocess.detect.boxes.center_face import CenterFace, decoded
from faceguide.preprocess.detect.boxes.closer_look import CloserLook
from faceguide.preprocess.detect.boxes.full_range import has_full_range
from faceguide.preprocess.detect.boxes.letterbox import boxes_in_image, letterboxed
from faceguide.preprocess.detect.boxes.tiles import Tiles
from faceguide.preprocess.detect.boxes.yunet import YuNet
from faceguide.preprocess.detect.finders.finder import Finder
from faceguide.preprocess.detect.square import Boxes

# Read off the photograph by eye: both irises; the head from brow to chin and ear to ear.
EYES = np.array([(203, 101), (246, 103)])
HEAD = np.array([180, 65, 270, 180])


def test_one_cell_of_centerface_by_hand() -> None:
    """Row 3, column 5 of an 8×8 map: a box of 16×24 pixels, centre a tenth of a cell off."""
    heat = np.zeros((1, 1, 8, 8), np.float32)
    sides, offset = np.zeros((1, 2, 8, 8), np.float32), np.zeros((1, 2, 8, 8), np.float32)
    points = np.zeros((1, 10, 8, 8), np.float32)
    heat[0, 0, 3, 5] = 0.7
    sides[0, :, 3, 5] = np.log([24 / 4, 16 / 4])
    offset[0, :, 3, 5] = 0.1, -0.1
    points[0, :4, 3, 5] = 0.4, 0.25, 0.5, 0.75  # down and across, of each eye
    edges, scores, eyes = decoded(heat, sides, offset, points)
    across, down = (5 - 0.1 + 0.5) * 4, (3 + 0.1 + 0.5) * 4
    left, top = across - 8, down - 12
    np.testing.assert_allclose(edges, [(left, top, across + 8, down + 12)], rtol=1e-6)
    np.testing.assert_allclose(scores, [0.7], rtol=1e-6)
    first, second = (left + 4, top + 9.6), (left + 12, top + 12)
    np.testing.assert_allclose(eyes, [(first, second)], rtol=1e-6)


def test_an_exponent_that_overflows_gives_a_large_box() -> None:
    heat = np.full((1, 1, 1, 1), 0.9, np.float32)
    sides = np.full((1, 2, 1, 1), 500, np.float32)
    zero = np.zeros((1, 2, 1, 1), np.float32)
    edges, _, _ = decoded(heat, sides, zero, np.zeros((1, 10, 1, 1), np.float32))
    assert np.isfinite(edges).all()


@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    side=st.sampled_from([32, 320]),
    place=st.tuples(st.floats(0, 0.6), st.floats(0, 0.6)),
)
def test_a_box_in_the_square_is_brought_back_to_the_image(
    height: int, width: int, side: int, place: tuple[float, float]
) -> None:
    square, scale = letterboxed(np.full((height, width, 3), 255, np.uint8), side)
    rows, columns = np.nonzero(square[..., 0])
    assert square.shape == (side, side, 3)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == side
    assert abs((np.ptp(rows) + 1) / scale - height) <= 1 / scale
    wanted = np.array([*place, place[0] + 0.3, place[1] + 0.2]) * (width, height, width, height)
    eyes = wanted[:2] + np.array([(1, 1), (2, 1)])
    inside, there = (wanted + 0.5) * scale, (eyes + 0.5) * scale
    found = boxes_in_image(inside[None], np.array([0.9]), there[None], scale, 0.5)
    np.testing.assert_allclose(found.edges, wanted[None], atol=1e-3)
    np.testing.assert_allclose(found.eyes, eyes[None], atol=1e-3)


def test_of_overlapping_boxes_the_best_stays_and_weak_ones_go() -> None:
    edges = np.array([(0, 0, 10, 10), (1, 0, 11, 10), (20, 0, 30, 10), (40, 0, 50, 10)], float)
    scores = np.array([0.6, 0.8, 0.9, 0.4])
    found = boxes_in_image(edges, scores, np.zeros((4, 2, 2)), 1.0, 0.5)
    np.testing.assert_allclose(found.scores, [0.9, 0.8], rtol=1e-6)
    np.testing.assert_allclose(found.edges, edges[[2, 1]] - 0.5)
    none = boxes_in_image(edges[:0], scores[:0], np.zeros((0, 2, 2)), 1.0, 0.5)
    assert none.edges.shape == (0, 4)
    assert none.eyes.shape == (0, 2, 2)


def _sees_her(found: Boxes) -> None:
    assert len(found) == 1
    assert found.scores[0] > 0.8
    np.testing.assert_allclose(found.eyes[0], EYES, atol=8)
    np.testing.assert_allclose(found.edges[0], HEAD, atol=20)


def test_centerface_at_two_sizes_in_turn(centerface: Path) -> None:
    """A network of cv2.dnn that has run at another size gives other boxes; ours keep apart."""
    content, photograph = centerface.read_bytes(), data.astronaut()
    small, large = CenterFace(content, 320), CenterFace(content, 448)
    first = small(photograph)
    _sees_her(first)
    _sees_her(large(photograph))
    again = small(photograph)
    np.testing.assert_array_equal(again.edges, first.edges)
    np.testing.assert_array_equal(again.eyes, first.eyes)


def test_yunet_sees_a_face(yunet: Path) -> None:
    for side in (320, 160, 640):
        _sees_her(YuNet(yunet.read_bytes(), side)(data.astronaut()))


def test_a_file_is_recognised_and_loaded_when_it_is_first_asked(
    face_mesh: Finder, centerface: Path, yunet: Path, tmp_path: Path
) -> None:
    for path, kind, many in ((centerface, "centerface", 2), (yunet, "yunet", 3)):
        copy = tmp_path / "any name"
        copy.write_bytes(path.read_bytes())
        digest = hashlib.sha256(copy.read_bytes()).hexdigest()[:32]
        assert boxes_recipe(copy, "face-mesh") == {"tool": kind, "model": digest}
        looks = second_looks(copy, face_mesh)
        copy.unlink()  # what was read counts, not what lies there later
        assert (looks.kind, len(looks.detectors)) == (kind, many)
        _sees_her(looks.detectors[0](data.astronaut()))


def test_mediapipes_small_faces_are_for_finders_that_need_mediapipe() -> None:
    assert boxes_recipe(None, "opencv") == {"tool": "mediapipe", "model": ""}
    bundled = "full range" if has_full_range() else ""
    assert boxes_recipe(None, "face-mesh") == {"tool": "mediapipe", "model": bundled}


@given(
    left=st.floats(-60, 120),
    top=st.floats(-60, 90),
    side=st.floats(1, 80),
    place=st.tuples(st.floats(0.1, 0.6), st.floats(0.1, 0.6)),
)
def test_a_closer_look_gives_pixels_of_the_image(
    left: float, top: float, side: float, place: tuple[float, float]
) -> None:
    """`near` is asked about a crop whose pixels say where they are in the image."""
    y, x = np.indices((70, 100))
    image = np.stack([x + 1, y + 1, np.full_like(x, 255)], axis=2).astype(np.uint8)
    edges = np.array([(left, top, left + side, top + side)], np.float32)

    def far(_: NDArray[np.uint8]) -> Boxes:
        return Boxes(edges, np.array([0.6], np.float32), np.zeros((1, 2, 2), np.float32))

    crops = []

    def near(crop: NDArray[np.uint8]) -> Boxes:
        """A box of two pixels round a pixel that lies in the image, if there is one."""
        crops.append(crop)
        rows, columns = np.nonzero(crop[..., 2])
        at = int(place[0] * len(rows))
        here = np.array([(columns[at], rows[at])] if len(rows) else np.empty((0, 2)), np.float32)
        box = np.concatenate([here - 1, here + 1], axis=1)
        return Boxes(box, np.full(len(here), 0.9, np.float32), np.stack([here, here], axis=1))

    found = CloserLook(far, near)(image)
    for crop in crops:
        assert crop.shape == (len(crop), len(crop), 3)
        assert len(crop) <= 140
    for box, eyes in zip(found.edges, found.eyes, strict=True):
        crop = crops[-1]
        rows, columns = np.nonzero(crop[..., 2])
        at = int(place[0] * len(rows))
        marked = crop[rows[at], columns[at], :2].astype(float) - 1
        np.testing.assert_array_equal(eyes, [marked, marked])
        np.testing.assert_array_equal(box, [*(marked - 1), *(marked + 1)])
        assert np.abs(marked - (left + side / 2, top + side / 2)).max() <= side / 2 + 1e-4


def _network(path: Path, channels: tuple[int, ...], cells: int) -> Path:
    """An ONNX file with CenterFace's output names, for one input size."""
    onnx = pytest.importorskip("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    nodes, outputs, constants = [], [], []
    for name, depth in zip(("537", "538", "539", "540"), channels, strict=True):
        weights: NDArray[np.float32] = np.zeros((depth, 3, 4, 4), np.float32)
        constants.append(onnx.numpy_helper.from_array(weights, f"w{name}"))
        nodes.append(
            helper.make_node(
                "Conv", ["in", f"w{name}"], [name], strides=[4, 4], kernel_shape=[4, 4]
            )
        )
        outputs.append(helper.make_tensor_value_info(name, float32, [1, depth, cells, cells]))
    source = helper.make_tensor_value_info("in", float32, [1, 3, 4 * cells, 4 * cells])
    graph = helper.make_graph(nodes, "net", [source], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(path))
    return path


@given(st.integers(64, 300), st.integers(64, 300), st.floats(0, 1), st.floats(0, 1))
def test_tiles_see_what_lies_anywhere_whole(
    height: int, width: int, down: float, across: float
) -> None:
    """A white square of a sixth of the shorter side is seen whole, where it lies."""
    side = min(height, width) // 6
    y, x = round(down * (height - side)), round(across * (width - side))
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + side, x : x + side] = 255

    def near(tile: NDArray[np.uint8]) -> Boxes:
        """What is white, surer the more of it there is."""
        assert tile.shape[0] == tile.shape[1] >= 64
        rows, columns = np.nonzero(tile[..., 0])
        if not len(rows):
            return Boxes(*(np.empty(shape, np.float32) for shape in ((0, 4), 0, (0, 2, 2))))
        low = np.array([columns.min(), rows.min()], np.float32)
        high = np.array([columns.max(), rows.max()], np.float32)
        score = 0.5 + 0.5 * len(rows) / side**2
        return Boxes(
            np.array([[*low, *high]], np.float32),
            np.array([score], np.float32),
            np.array([[low, high]], np.float32),
        )

    found = Tiles(near)(image)
    if height == width < 128:
        assert not len(found)  # the finder has seen all of it
        return
    np.testing.assert_array_equal(found.edges[0], [x, y, x + side - 1, y + side - 1])
    np.testing.assert_array_equal(found.eyes[0], found.edges[0].reshape(2, 2))
    assert found.scores[0] == 1


def test_a_network_that_gives_other_shapes_is_refused(tmp_path: Path) -> None:
    path = _network(tmp_path / "other.onnx", (1, 2, 2, 8), 80)
    with pytest.raises(FaceguideError, match=r"centerface network that does not work at 320×320"):
        boxes_recipe(path, "opencv")


def test_files_that_hold_no_detector(tmp_path: Path, centerface: Path) -> None:
    cases = {
        "missing": (None, "cannot read the box detector"),
        "empty": (b"", "cannot read the network"),
        "text": (b"hello", "cannot read the network"),
        "truncated": (centerface.read_bytes()[:1_000_000], "cannot read the network"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(FaceguideError, match=message) as caught:
            boxes_recipe(path, "face-mesh")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "--boxes takes" in str(caught.value)


def test_a_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    info = [onnx.helper.make_tensor_value_info(n, 1, [1, 3, 8, 8]) for n in ("a", "b")]
    node = onnx.helper.make_node("Relu", ["a"], ["b"])
    graph = onnx.helper.make_graph([node], "net", info[:1], info[1:])
    path = tmp_path / "relu.onnx"
    opset = [onnx.helper.make_opsetid("", 13)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(path))
    with pytest.raises(FaceguideError, match="neither CenterFace nor YuNet"):
        boxes_recipe(path, "face-mesh")
