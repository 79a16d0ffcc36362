"""Visible shares of eyes, mouth, face and single landmarks, by hand and from the commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cache.builder import build_keys

from faceguide.cache import manifest
from faceguide.cache.cli import main
from faceguide.cache.inspect.occlusion_measures import (
    MEASURES,
    occlusion_measures,
    point_visibility,
)
from faceguide.cache.schema import ESTIMATED
from faceguide.cache.shard import write_shard
from faceguide.preprocess.detect.pose import mean_landmarks

FACE = mean_landmarks()


@given(grid=st.sampled_from([7, 14]), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_point_has_the_share_of_its_cell(grid: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    visibility = rng.random((2, grid, grid)).astype(np.float16)
    points = rng.uniform(-0.2, 1.2, (2, 50, 2))
    points[0, 0] = np.nan
    found = point_visibility(visibility, points, 112)
    for face in range(2):
        for place, (x, y) in enumerate((points[face] * 112 + 0.5) * grid / 112):
            if 0 <= x < grid and 0 <= y < grid:
                assert found[face, place] == visibility[face, int(y), int(x)]
            else:
                assert np.isnan(found[face, place])


def test_covered_halves() -> None:
    assert occlusion_measures(np.ones((7, 7)), FACE, 112) == pytest.approx([100, 100, 100])
    assert occlusion_measures(np.zeros((7, 7)), FACE, 112) == pytest.approx([0, 0, 0])
    lower = np.ones((7, 7), np.float16)
    lower[4:] = 0
    eyes, mouth, face = occlusion_measures(lower, FACE, 112)
    assert eyes == pytest.approx(100)
    assert mouth == pytest.approx(0)
    assert 30 < face < 70
    eyes, mouth, _ = occlusion_measures(1 - lower, FACE, 112)
    assert (eyes, mouth) == pytest.approx((0, 100))
    # A half-visible cell counts half, and the other side of the face adds what is left.
    rng = np.random.default_rng(0)
    some = rng.random((7, 7))
    both = occlusion_measures(some, FACE, 112) + occlusion_measures(1 - some, FACE, 112)
    assert both == pytest.approx([100, 100, 100], abs=1e-3)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Seven good faces of the mean shape; three with a mask below the eyes, two estimated."""
    directory = tmp_path / "cache"
    build_keys(directory, [f"a/{n}.jpg" for n in range(1, 8)], landmarks=FACE.astype(np.float32))
    plan = manifest.require_plan(directory)
    recipe = {"grid": 7, "columns": {ESTIMATED.name: ESTIMATED.described()}}
    manifest.set_recipe(directory, plan, "occlusion", recipe, replace=False)
    written = manifest.group_recipe(directory, plan, "occlusion")
    assert written is not None
    visibility = np.ones((7, 7, 7), np.float16)
    visibility[:3, 4:] = 0
    report = {"status": {"ok": 5, "unknown": 2}, "failures": []}
    with write_shard(directory, "occlusion", 0, written, rows=7, texts={}, report=report) as writer:
        writer.write("visibility", 0, visibility)
        writer.write("known", 0, np.arange(7) < 5)
        writer.write("status", 0, np.zeros(7, np.uint8))
        writer.write("estimated", 0, (np.arange(7) >= 3) & (np.arange(7) < 5))
    manifest.seal(directory, "occlusion")
    return directory


def test_info_tells_masks_from_estimates(directory: Path) -> None:
    result = CliRunner().invoke(main, ["info", str(directory), "--occlusion", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["occlusion"]
    assert found["masks"]["faces"] == 3
    assert found["masks"]["eyes_visible"] == 100
    assert found["masks"]["mouth_occlusion_prevention"] == 0
    assert found["estimates"] == {"faces": 2, **dict.fromkeys(MEASURES, 100)}
    said = CliRunner().invoke(main, ["info", str(directory), "--occlusion"]).stdout
    assert (
        "masks of 3 faces, on average: eyes visible 100.0, mouth occlusion prevention 0.0" in said
    )


def test_export_is_one_line_a_known_face(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "occlusion.csv"
    result = CliRunner().invoke(
        main, ["export", "occlusion", str(directory), "--out", str(out), "--points"]
    )
    assert result.exit_code == 0, result.output
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["known_from"] for line in lines] == ["mask"] * 3 + ["estimate"] * 2
    for line, covered in zip(lines, [True] * 3 + [False] * 2, strict=True):
        assert float(line["p17"]) == (0 if covered else 1)  # the lower lip
        assert float(line["p10"]) == 1  # the forehead
        assert float(line["eyes_visible"]) == 100


def test_without_visibility(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    build_keys(directory, ["a/1.jpg", "a/2.jpg"])
    result = CliRunner().invoke(main, ["info", str(directory), "--occlusion"])
    assert result.exit_code == 1
    assert "prep masks" in str(result.output)
