"""`--guide oval` and `--surround swap=P` of `train cal` and `train oaml`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tests.train.cal.scenario import guided

from faceguide.cache.reader import FaceCache
from faceguide.core.faces.face_oval import oval_of
from faceguide.core.faces.mean_face import mean_landmarks
from faceguide.train.cal.attention_guidance import Targets, assigned_heads, at_cells, guide
from faceguide.train.cal.cal_batches import ovals
from faceguide.train.cal.guide_option import GuidanceSettings
from faceguide.train.cli import main
from faceguide.train.run.metrics_log import read_metrics

TINY = ("--batch-size", 6, "--device", "cpu", "--log-every", 1, "--steps", 2, "--json")
CAL = ("--model", "cal_mobilefacenet", "--heads", 8, "--crop", 32, "--lr", "2e-4", *TINY)


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_ovals_of_landmarks() -> None:
    points = np.stack([mean_landmarks()[:, :2]] * 3).astype(np.float64)
    points[1] += 0.1
    points[2, 5] = np.nan
    fine, coarse = ovals(points, 112, 112), ovals(points, 112, 28)
    assert coarse.shape == (3, 1, 28, 28)
    np.testing.assert_array_equal(fine[0, 0], np.rint(255 * oval_of(points[0] * 112, 112)))
    pooled = fine[:2, 0].reshape(2, 28, 4, 28, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(coarse[:2, 0], pooled, atol=1)
    assert not coarse[2].any()


def test_attention_inside_the_oval_is_rewarded() -> None:
    oval = torch.zeros(3, 1, 4, 4)
    oval[:2, :, 1:3, 1:3] = 1  # the third face's landmarks may not guide
    targets = Targets(
        torch.cat([torch.zeros(3, 3, 4, 4), oval], 1), torch.zeros(3, 1, 4, 4), torch.ones(3).bool()
    )
    cells = at_cells(targets, 4, 4)
    assert cells.regions.shape[1] == 3
    maps = torch.zeros(3, 2, 4, 4)
    maps[0, :, 1, 1] = 1  # all inside
    maps[1, :, 0, 0] = 1  # all outside
    settings = GuidanceSettings((("oval", 1.0),), outside=0.8)
    labels = torch.arange(3)
    value = guide(settings, maps, cells, labels)["oval"].item()
    assert value == pytest.approx((-1 + 0.8) / 2)
    with_the_rest = guide(guided(oval=1.0, regions=1.0), maps, cells, labels)
    assert set(with_the_rest) == {"oval", "regions"}


def test_heads_by_number() -> None:
    assert assigned_heads(GuidanceSettings(), 32) == {
        "eyes": "0-11", "nose": "12-19", "mouth": "20-27", "free": "28-31",
    }  # fmt: skip
    assert assigned_heads(GuidanceSettings(assignment=(1, 0, 2)), 3) == {
        "eyes": "0", "nose": "none", "mouth": "1-2", "free": "none",
    }  # fmt: skip


@pytest.mark.slow
def test_oval_and_swapped_surrounds_in_train_cal(small_cache: FaceCache, tmp_path: Path) -> None:
    words = ("cal", small_cache.directory, *CAL, "--guide", "oval=1", "--guide", "regions-log")
    more = ("--surround", "swap=0.5", "--outside-penalty", 0.7, "--fake-outside", "0.4,2")
    result = call(*words, *more, "--picture-every", 2, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "Heads: eyes 0-2, nose 3-4, mouth 5-6, free 7" in result.stderr
    lines = read_metrics(tmp_path / "run", "train", "guide_oval")
    assert len(lines) == 2
    assert all(-1 <= line["guide_oval"] <= 0.7 for line in lines)
    assert all(0 < line["energy_oval"] < 1 for line in lines)
    assert cv2.imread(str(tmp_path / "run" / "step-0000002.png")) is not None
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["surround"] == ["swap", 0.5]
    assert settings["fake_outside"] == [0.4, 2.0]
    record = tmp_path / "run" / "run.json"
    result = call("cal", "--from", record, "--device", "cpu", "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    again = read_metrics(tmp_path / "again", "train", "guide_oval")
    assert [line["loss"] for line in again] == [line["loss"] for line in lines]


def test_an_occlusion_head_has_no_use_for_surrounds(small_cache: FaceCache, tmp_path: Path) -> None:
    words = ("oaml", small_cache.directory, *TINY, "--backbone", "mobilefacenet", "--lr", 0.01)
    words += ("--images-per-person", 3, "--no-augment", "--surround", "swap=1")
    result = call(*words, "--out", tmp_path / "head", "--train", "occlusion")
    assert result.exit_code == 1
    assert "leave it out of --train occlusion" in result.stderr


@pytest.mark.parametrize("value", ["swap", "swap=0", "swap=1.5", "swap=nan", "hair=0.5", "0.5"])
def test_wrong_shares_are_usage_errors(value: str, small_cache: FaceCache, tmp_path: Path) -> None:
    result = call("cal", small_cache.directory, "--out", tmp_path / "x", "--surround", value)
    assert result.exit_code == 2
    assert re.search("e.g. swap=0.5|is not a change; choose from swap", result.stderr)


@pytest.mark.parametrize("value", ["1", "2,1", "-1,1", "a,b", "0,inf", "0,nan"])
def test_wrong_ranges_are_usage_errors(value: str, small_cache: FaceCache, tmp_path: Path) -> None:
    result = call("cal", small_cache.directory, "--out", tmp_path / "x", "--fake-inside", value)
    assert result.exit_code == 2
    assert "expected two numbers" in result.stderr
