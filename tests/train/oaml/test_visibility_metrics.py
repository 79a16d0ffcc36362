"""MSE, AUC and IoU of visibility, and their baselines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.cache.builder import build

from faceguide.cache.reader import FaceCache
from faceguide.train.oaml.visibility_metrics import (
    evaluate_visibility,
    mean_visibility,
    visibility_scores,
)


@pytest.fixture(scope="module")
def known_cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    """Small faces, every second one with a known mask."""
    directory = tmp_path_factory.mktemp("faces") / "cache"
    build(directory, rows=40, shard_rows=16)
    return FaceCache.open(directory)


def test_by_hand() -> None:
    true = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    found = torch.tensor([[[0.9, 0.3], [0.2, 0.6]]])
    scores = visibility_scores(found, true)
    assert scores["mse"] == pytest.approx((0.01 + 0.49 + 0.04 + 0.36) / 4)
    # Visible .9 and .3 against hidden .2 and .6: three of four in order.
    assert scores["auc"] == pytest.approx(0.75)
    # Hidden 3, 4; found 2, 3: one of three.
    assert scores["iou"] == pytest.approx(1 / 3)


def test_one_kind_of_cell_has_no_auc() -> None:
    scores = visibility_scores(torch.ones(1, 2, 2), torch.ones(1, 2, 2))
    assert scores["mse"] == 0
    assert scores["iou"] == 1
    assert math.isnan(scores["auc"])


def test_baselines_of_a_cache(known_cache: FaceCache) -> None:
    rows = known_cache.select(known_occlusion=True)
    learnt, held = rows[:8], rows[8:]
    seen = known_cache.read(held, ["visibility"])["visibility"].astype(np.float64)
    mean = mean_visibility(known_cache, learnt, 7)
    torch.testing.assert_close(
        mean.double().numpy(),
        known_cache.read(learnt, ["visibility"])["visibility"].astype(np.float64).mean(0),
        atol=1e-6, rtol=0,
    )  # fmt: skip
    scores = evaluate_visibility(
        known_cache,
        held,
        mean,
        lambda batch: torch.full((len(batch["image"]), 7, 7), 0.25),
        batch_size=3,
        device=torch.device("cpu"),
    )
    assert scores["visibility_mse"] == pytest.approx(((seen - 0.25) ** 2).mean(), rel=1e-5)
    expected = ((seen - mean.numpy()) ** 2).mean()
    assert scores["visibility_mse_mean_map"] == pytest.approx(expected, rel=1e-5)
    assert scores["visibility_mse_all_visible"] == pytest.approx(((seen - 1) ** 2).mean(), rel=1e-5)
    assert scores["visibility_iou_all_visible"] == 0
    assert scores["visibility_auc"] == 0.5
