"""The demo photo set: the same bytes, exact masks, no folded faces, and faces that are found."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from bench.demo.photos import (
    Capture,
    Rendering,
    draw_capture,
    render,
    sampling_field,
    write_demo_photos,
)
from bench.demo.portrait import (
    LEFT_IRIS,
    MOUTH_CORNERS,
    NOSE_TIP,
    RIGHT_IRIS,
    Bump,
    Identity,
    displace,
    draw_identity,
    load_portrait,
    paint,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from faceguide.core.errors import FaceguideError
from faceguide.train.data import niqab

pytest.importorskip("skimage", reason="scikit-image ships the portrait")

FIVE_POINTS = np.array([LEFT_IRIS, RIGHT_IRIS, NOSE_TIP, *MOUTH_CORNERS])


def jacobian(field: np.ndarray) -> np.ndarray:
    """The (H, W) signed area that each step of one pixel covers in the source of (H, W, 2) `field`.

    Positive everywhere: nothing is folded or torn.
    """
    along_y, along_x = np.gradient(field, axis=(0, 1))
    return along_x[..., 0] * along_y[..., 1] - along_x[..., 1] * along_y[..., 0]


def files(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def drawn(index: int, image: int, size: int = 256) -> tuple[Identity, Capture, Rendering]:
    portrait, identity, capture = (
        load_portrait(),
        draw_identity(index, 12, 0),
        draw_capture(index, image, 0),
    )
    return identity, capture, render(portrait, paint(portrait, identity), identity, capture, size)


def positions(identity: Identity, capture: Capture, size: int) -> np.ndarray:
    """(5, 2) pixels of the rendered image that show the five points, the left one first."""
    field = sampling_field(identity, capture, size)
    distance = np.linalg.norm(field[:, :, None] - FIVE_POINTS, axis=-1)
    nearest = [np.unravel_index(distance[..., k].argmin(), (size, size)) for k in range(5)]
    found = np.array([(x, y) for y, x in nearest], float)
    if identity.mirrored:
        found[:, 0] = size - 1 - found[:, 0]
        found = found[[1, 0, 2, 4, 3]]
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "set"
    write_demo_photos(folder, identities=3, images=4, size=96, seed=5)
    return folder


def test_layout(small: Path) -> None:
    people = ["person_00", "person_01", "person_02"]
    photos = {f"photos/{who}/{who}_0{image}.jpg" for who in people for image in range(4)}
    masks = {f"masks/{who}/{who}_02_mask.png" for who in people}
    assert set(files(small)) == photos | masks | {"pairs.csv", "ATTRIBUTION.txt"}
    for name in photos:
        with Image.open(small / name) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (96, 96))
            # The first entry of a standard luminance table is 16 at quality 50: here 16 % of it.
            assert image.quantization[0][0] == round(16 * (200 - 2 * 92) / 100)
    for name in masks:
        mask = np.array(Image.open(small / name))
        assert mask.shape == (96, 96)
        assert set(np.unique(mask)) == {0, 255}


def test_attribution_names_the_photograph(small: Path) -> None:
    text = (small / "ATTRIBUTION.txt").read_text(encoding="utf-8")
    for words in ("Eileen Collins", "NASA", "public domain", "scikit-image", "no real people"):
        assert words in text


def test_same_seed_same_bytes(small: Path, tmp_path: Path) -> None:
    write_demo_photos(tmp_path, identities=3, images=4, size=96, seed=5)
    assert files(tmp_path) == files(small)
    write_demo_photos(tmp_path, identities=3, images=4, size=96, seed=5)  # over itself
    assert files(tmp_path) == files(small)


def test_other_seed_other_photos(small: Path, tmp_path: Path) -> None:
    write_demo_photos(tmp_path, identities=3, images=4, size=96, seed=6)
    one, other = files(tmp_path), files(small)
    assert one.keys() == other.keys()
    assert all(one[name] != other[name] for name in one if name != "ATTRIBUTION.txt")


def test_pairs_are_balanced_and_true(tmp_path: Path) -> None:
    write_demo_photos(tmp_path, identities=4, images=6, size=64)  # 60 pairs of one identity
    with (tmp_path / "pairs.csv").open(encoding="utf-8", newline="") as file:
        assert file.readline() == "fold,a,b,same\n"
        rows = list(csv.reader(file))
    assert Counter(row[0] for row in rows) == {str(fold): 12 for fold in range(10)}
    assert Counter((row[0], row[3]) for row in rows) == {
        (str(fold), flag): 6 for fold in range(10) for flag in "01"
    }
    for _, a, b, same in rows:
        assert (tmp_path / "photos" / a).is_file()
        assert (tmp_path / "photos" / b).is_file()
        assert (a.split("/")[0] == b.split("/")[0]) == (same == "1")
    assert len({frozenset(row[1:3]) for row in rows}) == len(rows)
    assert all(a != b for _, a, b, _ in rows)


@pytest.mark.parametrize("index", [0, 1, 2, 5])  # mirrored and not
def test_outside_the_mask_nothing_is_veiled(index: int) -> None:
    identity, capture, image = drawn(index, 2)
    assert image.visible is not None
    visible = image.visible == 255
    np.testing.assert_array_equal(image.photo[visible], image.bare[visible])
    changed = (image.photo != image.bare).any(axis=-1)
    assert changed[~visible].mean() > 0.95
    assert 0.1 < visible.mean() < 0.7
    x, y = np.rint(positions(identity, capture, 256)).astype(int).T
    assert visible[y, x].tolist() == [True, True, False, False, False]  # irises; nose and mouth


def test_the_written_mask_is_the_drawn_one(tmp_path: Path) -> None:
    write_demo_photos(tmp_path, identities=12, images=3, size=256)
    mask = cv2.imread(str(tmp_path / "masks/person_07/person_07_02_mask.png"), cv2.IMREAD_UNCHANGED)
    photo = np.array(Image.open(tmp_path / "photos/person_07/person_07_02.jpg"), int)
    _, _, image = drawn(7, 2)
    np.testing.assert_array_equal(mask, image.visible)
    assert np.abs(photo - image.photo).mean() < 3


def test_every_third_image_is_veiled() -> None:
    assert [image for image in range(16) if draw_capture(0, image, 0).veil is not None] == [
        *(2, 5, 8, 11, 14)
    ]


def test_cloth_covers_the_head_but_a_band() -> None:
    colour, cover = niqab.draw_niqab(3, np.array([0.0, 0.0, 1.0]))
    side = niqab.SIDE * niqab.SCALE
    assert (colour.shape, cover.shape) == ((side, side, 3), (side, side))
    assert 0 <= colour.min() < colour.max() <= 1
    crown, chin, left_ear, right_ear = (226, 16), (221, 180), (172, 125), (281, 128)
    for x, y in [*FIVE_POINTS[2:], crown, chin, left_ear, right_ear]:
        column, row = np.rint((np.array((x, y)) - niqab.ORIGIN) * niqab.SCALE).astype(int)
        assert cover[row, column] == 1
    count, _ = cv2.connectedComponents((cover[200:460] == 0).astype(np.uint8))
    assert count == 4  # cloth, the opening, the backdrop on either side


def test_a_bump_moves_and_grows_its_middle_only() -> None:
    points = np.array([(50.0, 60.0), (51.0, 60.0), (50.0, 61.0), (150.0, 60.0)])
    middle, right, below, far = displace(points, [Bump((50, 60), (8, 8), (1.25, 0.8), (3, -2))])
    np.testing.assert_allclose(middle, (47, 62), atol=1e-5)
    np.testing.assert_allclose((right - middle)[0], 1 / 1.25, atol=0.03)
    np.testing.assert_allclose((below - middle)[1], 1 / 0.8, atol=0.03)
    np.testing.assert_allclose(far, points[3], atol=1e-5)


def test_jacobian_sees_a_fold() -> None:
    grid = np.stack(np.meshgrid(np.arange(64.0), np.arange(64.0)), axis=-1)
    np.testing.assert_allclose(jacobian(grid * (2, 3)), 6)
    assert jacobian(displace(grid, [Bump((32, 32), (5, 5), move=(20, 0))])).min() < 0


def least_area(index: int, identities: int, image: int, seed: int) -> float:
    """The smallest area of the photograph that a pixel shows, 1 for no warp at all."""
    identity, capture = draw_identity(index, identities, seed), draw_capture(index, image, seed)
    unwarped = np.linalg.det(capture.view[:, :2]) / 128**2
    return float(jacobian(sampling_field(identity, capture, 128)).min() / unwarped)


def test_no_face_of_the_default_set_is_folded() -> None:
    areas = [least_area(index, 12, image, 0) for index in range(12) for image in range(16)]
    assert min(areas) > 0.3


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 50), st.integers(0, 100), st.data())
def test_no_face_of_any_seed_is_folded(
    seed: int, identities: int, image: int, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, identities - 1))
    assert least_area(index, identities, image, seed) > 0.05


def test_identities_differ_in_shape_and_tone() -> None:
    steps = np.linspace(0, 1, 24)
    grid = np.stack(np.meshgrid(170 + 110 * steps, 70 + 110 * steps), axis=-1)  # the face
    people = [draw_identity(index, 12, 0) for index in range(12)]
    shapes = [displace(grid, person.shape) for person in people]
    for one, other in combinations(range(12), 2):
        apart = np.sqrt(((shapes[one] - shapes[other]) ** 2).sum(-1).mean())
        assert apart > 1.5, (one, other)
    lightness = np.sort([person.skin[0] for person in people])
    assert lightness[0] < 40
    assert lightness[-1] > 68
    assert len({tuple(person.hair) for person in people}) >= 5


def test_face_mesh_finds_the_faces_where_they_were_drawn() -> None:
    pytest.importorskip("mediapipe.python", reason="needs the models of mediapipe 0.10.21")
    import mediapipe

    five = [468, 473, 1, 61, 291]
    found, errors = 0, []
    with mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, refine_landmarks=True, max_num_faces=1
    ) as face_mesh:
        for index in range(12):
            identity, capture, image = drawn(index, (0, 1, 3, 4)[index % 4])
            faces = face_mesh.process(image.photo).multi_face_landmarks
            if not faces:
                continue
            found += 1
            points = np.array([(p.x, p.y) for p in faces[0].landmark])[five] * 256 - 0.5
            expected = positions(identity, capture, 256)
            eyes = np.linalg.norm(expected[1] - expected[0])
            errors.append(np.linalg.norm(points - expected, axis=1).mean() / eyes)
    assert found >= 0.95 * 12
    assert max(errors) < 0.06  # of the distance between the irises


def test_missing_scikit_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    with pytest.raises(FaceguideError, match=r"pip install 'faceguide\[demo\]'"):
        write_demo_photos(tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"identities": 1}, "identities=1"),
        ({"identities": 3, "images": 3}, r"images=3 \(9 pairs\)"),
        ({"identities": 2, "images": -8}, "images=-8"),
        ({"size": 63}, "size=63"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_too_small(tmp_path: Path, arguments: dict[str, int], found: str) -> None:
    with pytest.raises(FaceguideError, match=found):
        write_demo_photos(tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()


def test_other_photos_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "photos" / "aunt" / "garden.jpg"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    with pytest.raises(FaceguideError, match=r"found .*garden\.jpg: delete it or choose"):
        write_demo_photos(tmp_path)
    assert files(tmp_path) == {"photos/aunt/garden.jpg": b"mine"}


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("a file")
    with pytest.raises(FaceguideError, match=r"set: Not a"):
        write_demo_photos(tmp_path / "set")
