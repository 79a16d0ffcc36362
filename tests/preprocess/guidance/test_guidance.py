"""Heatmaps and regions: against their definitions, and the points file."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceguide.core.faces import align
from faceguide.preprocess.guidance import drawing
from faceguide.preprocess.guidance.drawing import GuidanceSettings, render
from faceguide.preprocess.guidance.point_table import (
    POINTS_FILE,
    Contour,
    Gaussians,
    PointsError,
    load_points,
)

seeds = st.integers(0, 2**32 - 1)


def faces(seed: int, number: int, size: int) -> np.ndarray:
    """Landmarks that lie about the crop without a meaning; enough to draw them."""
    rng = np.random.default_rng(seed)
    return rng.uniform(-0.1, 1.1, (number, 478, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def astronaut() -> tuple[np.ndarray, np.ndarray]:
    """A real photograph and its landmarks in its pixels."""
    pytest.importorskip("mediapipe.python", reason="needs the models of mediapipe 0.10.21")
    import mediapipe
    from skimage import data

    image = data.astronaut()
    with mediapipe.solutions.face_mesh.FaceMesh(
        static_image_mode=True, refine_landmarks=True
    ) as mesh:
        found = mesh.process(image).multi_face_landmarks[0].landmark
    return image, np.array([(p.x * 512 - 0.5, p.y * 512 - 0.5) for p in found])


def aligned(points: np.ndarray, size: int) -> np.ndarray:
    matrix = align.similarity(align.five_points(points), align.template(size))
    return (align.apply(matrix, points) / size).astype(np.float32)[None]


# The heatmap ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(seeds, st.sampled_from([7, 14, 28]), st.sampled_from([112, 224]))
def test_heatmap_is_the_largest_gaussian(seed: int, grid: int, size: int) -> None:
    landmarks = faces(seed, 3, size)
    drawn = GuidanceSettings(grid=grid)
    heatmap, _ = render(landmarks, drawn, size=size)
    # Cell centres in crop pixels, one by one, from the definition.
    centres = (np.arange(grid) + 0.5) * size / grid - 0.5
    x, y = np.meshgrid(centres, centres)
    for face, values in zip(landmarks.astype(float), heatmap, strict=True):
        expected = np.zeros((grid, grid))
        for group in drawn.table.heatmap.values():
            sigma = group.sigma * size / 448
            for index in group.points:
                px, py = face[index, :2] * size
                distance = (x - px) ** 2 + (y - py) ** 2
                expected = np.maximum(expected, np.exp(-distance / (2 * sigma**2)))
        expected /= expected.max()
        np.testing.assert_allclose(values / 255.0, expected, atol=0.5 / 255 + 1e-5)


def test_heatmap_of_a_narrow_gaussian_between_centres_still_reaches_one() -> None:
    base = load_points()
    table = dataclasses.replace(base, heatmap={"one": Gaussians((7,), 0.2)})
    landmarks = np.full((1, 478, 2), 0.5, np.float32)
    heatmap, _ = render(landmarks, GuidanceSettings(grid=14, table=table), size=112)
    assert heatmap.max() == 255


# Regions -------------------------------------------------------------------------------------


def test_order_is_eyes_nose_mouth(astronaut: tuple[np.ndarray, np.ndarray]) -> None:
    for kind in ("hull", "points"):
        _, regions = render(aligned(astronaut[1], 112), GuidanceSettings(regions=kind), size=112)
        rows = np.arange(28)
        heights = [(area.sum(axis=1) * rows).sum() / area.sum() for area in regions[0] / 255.0]
        # The template has the eyes at 51.6, the nose at 71.7 and the mouth at 92.3 of 112.
        np.testing.assert_allclose(heights, [12.5, 16.5, 22.5], atol=1.3)


def test_hull_areas_of_a_real_face(astronaut: tuple[np.ndarray, np.ndarray]) -> None:
    _, regions = render(aligned(astronaut[1], 112), GuidanceSettings(), size=112)
    at_14 = regions[0].sum(axis=(1, 2)) / 255 / 4
    eyes, nose, mouth = at_14
    assert 1.0 < eyes < 2.5
    assert 4.0 < nose < 8.0
    assert 4.0 < mouth < 8.0


@pytest.mark.parametrize("kind", ["hull", "points"])
def test_drawing_fine_and_averaging_is_drawing_coarse(
    astronaut: tuple[np.ndarray, np.ndarray], kind: Any
) -> None:
    landmarks = aligned(astronaut[1], 112)
    table = load_points()
    cells = {g: drawing.to_cells(landmarks.astype(float) * 112, 112, g) for g in (28, 448)}
    for region in drawing.REGIONS:
        if kind == "hull":
            fine, coarse = (drawing.contours(cells[g], table.hull[region], g) for g in (448, 28))
        else:
            fine, coarse = (
                drawing.discs(cells[g][:, table.points[region]], 12 * g / 448, g) for g in (448, 28)
            )
        averaged = fine.reshape(1, 28, 16, 28, 16).mean(axis=(2, 4))
        np.testing.assert_allclose(averaged, coarse, atol=1e-5 if kind == "hull" else 0.08)


def test_the_size_of_the_crop_moves_nothing(astronaut: tuple[np.ndarray, np.ndarray]) -> None:
    """The template keeps its place between the edges, so all sizes draw the same cells."""
    small = render(aligned(astronaut[1], 112), GuidanceSettings(), size=112)
    large = render(aligned(astronaut[1], 448), GuidanceSettings(), size=448)
    for one, other in zip(small, large, strict=True):
        np.testing.assert_allclose(one.astype(int), other.astype(int), atol=1)


@settings(deadline=None, max_examples=25)
@given(seeds, st.floats(0.75, 4.0), st.integers(1, 6))
def test_discs_agree_with_counting(seed: int, radius: float, number: int) -> None:
    grid, samples = 10, 64
    points = np.random.default_rng(seed).uniform(-1, grid + 1, (1, number, 2))
    centres = (np.arange(grid * samples) + 0.5) / samples
    squares = (centres[:, None] - points[0, :, 1, None, None]) ** 2 + (
        centres - points[0, :, 0, None, None]
    ) ** 2
    counted = (squares.min(axis=0) <= radius**2).reshape(grid, samples, grid, samples)
    areas = drawing.discs(points, radius, grid)[0]
    difference = np.abs(areas - counted.mean(axis=(1, 3)))
    assert difference.max() < (0.02 if number == 1 else 0.08)
    assert difference.mean() < 0.003


def test_convex_outlines_are_hulls() -> None:
    cells = np.random.default_rng(3).uniform(0, 8, (4, 478, 2))
    square = [(1, 1), (6, 1), (6, 5), (1, 5), (3, 3), (2, 4)]
    cells[:, [9, 2, 7, 4, 5, 6]] = square
    area = drawing.contours(cells, (Contour((2, 5, 4, 6, 9, 7), convex=True),), 8)
    np.testing.assert_allclose(area.sum(axis=(1, 2)), 20.0)


def test_overlapping_outlines_stay_below_one() -> None:
    cells = np.zeros((1, 478, 2))
    cells[0, :4] = [(0, 0), (4, 0), (4, 4), (0, 4)]
    twice = (Contour((0, 1, 2, 3), False),) * 2
    np.testing.assert_array_equal(drawing.contours(cells, twice, 4), np.ones((1, 4, 4)))


# The block -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["hull", "points"])
def test_faces_of_a_block_are_independent(kind: Any) -> None:
    landmarks = faces(4, 100, 112)
    drawn = GuidanceSettings(regions=kind)
    together = render(landmarks, drawn, size=112)
    for index in (0, 41, 42, 99):
        alone = render(landmarks[index : index + 1], drawn, size=112)
        np.testing.assert_array_equal(together[0][index], alone[0][0])
        np.testing.assert_array_equal(together[1][index], alone[1][0])


@pytest.mark.parametrize("kind", ["hull", "points"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_unusable_landmarks_give_zeros(kind: Any, value: float) -> None:
    landmarks = faces(1, 3, 112)
    landmarks[1, 300, 0] = value
    heatmap, regions = render(landmarks, GuidanceSettings(regions=kind), size=112)
    assert not heatmap[1].any()
    assert not regions[1].any()
    assert heatmap[[0, 2]].any(axis=(1, 2)).all()


def test_depth_does_not_matter() -> None:
    landmarks = faces(2, 2, 112)
    without = landmarks.copy()
    without[..., 2] = np.nan
    for one, other in zip(
        render(landmarks, GuidanceSettings(), size=112),
        render(without[..., :2], GuidanceSettings(), size=112),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    assert render(without, GuidanceSettings(), size=112)[0].any()


def test_no_faces_give_no_rows() -> None:
    heatmap, regions = render(np.empty((0, 478, 3), np.float32), GuidanceSettings(), size=112)
    assert heatmap.shape == (0, 28, 28)
    assert regions.shape == (0, 3, 28, 28)


# The points file -----------------------------------------------------------------------------


def components(edges: frozenset[tuple[int, int]]) -> list[set[frozenset[int]]]:
    """The connected parts of a set of edges, each as undirected edges."""
    neighbours = defaultdict(set)
    for a, b in edges:
        neighbours[a].add(b)
        neighbours[b].add(a)
    parts, left = [], set(neighbours)
    while left:
        stack, part = [left.pop()], set()
        while stack:
            a = stack.pop()
            part |= {frozenset((a, b)) for b in neighbours[a]}
            stack += neighbours[a] & left
            left -= neighbours[a]
        parts.append(part)
    return parts


def test_hulls_are_the_contours_of_mediapipe() -> None:
    pytest.importorskip("mediapipe.python", reason="needs the models of mediapipe 0.10.21")
    from mediapipe.python.solutions import face_mesh_connections as connections

    def ring(contour: Contour) -> set[frozenset[int]]:
        points = contour.points
        return {frozenset((points[i - 1], points[i])) for i in range(len(points))}

    hull = load_points().hull
    eyes = [ring(contour) for contour in hull["eyes"]]
    assert eyes == [
        *components(connections.FACEMESH_RIGHT_EYE),
        *components(connections.FACEMESH_LEFT_EYE),
    ]
    lips = components(connections.FACEMESH_LIPS)
    outer = next(part for part in lips if any(61 in edge for edge in part))
    assert len(lips) == 2  # the outer and the inner line
    assert [ring(contour) for contour in hull["mouth"]] == [outer]
    (nose,) = hull["nose"]
    assert nose.convex
    assert set(nose.points) == {index for edge in connections.FACEMESH_NOSE for index in edge}


def test_lists_are_those_of_the_documentation() -> None:
    table = load_points()
    assert table.points == {
        "eyes": (33, 133, 159, 145, 362, 385, 380, 386),
        "nose": (1, 2, 4, 5, 19, 94, 98, 168, 327),
        "mouth": (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 17, 84, 314),
    }
    drawn = sorted(index for group in table.heatmap.values() for index in group.points)
    assert drawn == sorted(index for points in table.points.values() for index in points)
    sigmas = {name: group.sigma for name, group in table.heatmap.items()}
    assert sigmas["eye corners"] < sigmas["eye lids"] < sigmas["nose"]


def changed(**fields: Any) -> dict[str, Any]:
    return json.loads(POINTS_FILE.read_text("utf-8")) | fields


def test_a_file_of_the_user_replaces_the_table(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(changed(radius=30.5)), "utf-8")
    assert load_points(path) == dataclasses.replace(load_points(), radius=30.5)


EYES = {"eyes": [33], "nose": [1], "mouth": [61]}
RING = {"eyes": [{"ring": [1, 2, 3]}], "nose": [{"ring": [1, 2, 3]}], "mouth": [{"ring": [1]}]}
FAULTS = [
    ([1], r"the file: expected an object with points, radius, heatmap, hull"),
    ({"points": EYES}, r"the file: the field radius is missing"),
    (changed(sigma=3), r"the file: unknown field sigma"),
    (changed(radius=0), r"radius: expected pixels at 448, above 0 .* found 0"),
    (changed(radius=True), r"radius: .* found true"),
    (changed(radius=float("nan")), r"radius: .* found NaN"),
    (changed(radius="12"), r'radius: .* found "12"'),
    (changed(points={"eyes": [33]}), r"points: the field nose is missing"),
    (changed(points=EYES | {"eyes": []}), r"points.eyes: expected a list of at least 1"),
    (changed(points=EYES | {"eyes": [3, 478]}), r"points.eyes\[1\]: .* 0 to 477, found 478"),
    (changed(points=EYES | {"eyes": [True]}), r"points.eyes\[0\]: .* found true"),
    (changed(points=EYES | {"eyes": [3.0]}), r"points.eyes\[0\]: .* found 3.0"),
    (changed(points=EYES | {"nose": [3, 4, 3]}), r"points.nose\[2\]: 3 stands there twice"),
    (changed(heatmap={}), r"heatmap: expected named groups"),
    (changed(heatmap={"a": {"points": [1]}}), r"heatmap.a: the field sigma is missing"),
    (changed(heatmap={"a": {"points": [1], "sigma": -1}}), r"heatmap.a.sigma: .* found -1"),
    (changed(hull=RING), r"hull.mouth\[0\].ring: expected a list of at least 3"),
    (changed(hull=RING | {"mouth": []}), r"hull.mouth: expected a list of contours"),
    (changed(hull=RING | {"mouth": [{"line": [1, 2, 3]}]}), r"hull.mouth\[0\]: .* ring or convex"),
]


@pytest.mark.parametrize(("content", "message"), FAULTS)
def test_a_fault_names_file_and_field(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(PointsError, match=message) as raised:
        load_points(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "Expecting property name"),
        (b"", "Expecting value"),
        (b"\xff\xfe", "codec can't decode"),
        (b"[" * 100_000, "recursion"),
        (b'{"radius": 1, "radius": 2}', "radius: the field stands there twice"),
    ],
)
def test_a_file_that_is_no_json(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(PointsError, match=message) as raised:
        load_points(path)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PointsError, match=r"mine\.json: No such file"):
        load_points(tmp_path / "mine.json")


def test_recipe_holds_what_changes_the_result_and_no_more() -> None:
    hull, points = GuidanceSettings(), GuidanceSettings(regions="points")
    assert json.loads(json.dumps(hull.recipe())) == hull.recipe()
    assert json.loads(json.dumps(points.recipe())) == points.recipe()
    larger = dataclasses.replace(load_points(), radius=30)
    assert dataclasses.replace(hull, table=larger).recipe() == hull.recipe()
    assert dataclasses.replace(points, table=larger).recipe()["radius"] == 30
    assert points.recipe()["radius"] == load_points().radius
    assert dataclasses.replace(hull, grid=14).recipe() != hull.recipe()
    wider = {"all": Gaussians((1,), 9.0)}
    table = dataclasses.replace(load_points(), heatmap=wider)
    assert dataclasses.replace(hull, table=table).recipe() != hull.recipe()


def test_radius_and_sigma_replace_those_of_the_table() -> None:
    table = load_points()
    wide = {name: dataclasses.replace(group, sigma=9.0) for name, group in table.heatmap.items()}
    own = GuidanceSettings("points", table=dataclasses.replace(table, radius=30, heatmap=wide))
    asked = GuidanceSettings("points", radius=30, sigma=9.0)
    assert asked.recipe() == own.recipe()
    landmarks = faces(2, 3, 112)
    for ours, theirs in zip(
        render(landmarks, own, size=112), render(landmarks, asked, size=112), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert GuidanceSettings(radius=30).recipe() == GuidanceSettings().recipe()


def test_radius_is_in_pixels_at_448() -> None:
    landmarks = np.full((1, 478, 2), 0.5, np.float32)
    table = dataclasses.replace(load_points(), radius=64)
    drawn = GuidanceSettings(regions="points", table=table, grid=28)
    _, regions = render(landmarks, drawn, size=112)
    np.testing.assert_allclose(regions[0].sum(axis=(1, 2)) / 255, np.pi * 4**2, rtol=5e-3)
