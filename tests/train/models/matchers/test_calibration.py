"""Calibrated scores: never falling in the score, nothing from nothing, pairs as matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.models.parity_fill import fill
from torch import Tensor

from faceguide.train.models import create
from faceguide.train.models.matchers.calibration import (
    FEATURES,
    NOTHING,
    CalibratedEmbedding,
    ScoreCurve,
    VisibilityCalibration,
    seen_in_common,
)
from faceguide.train.models.matchers.visible_embedding import VisibleEmbedding


def calibration(seed: int, size: float = 5.0) -> VisibilityCalibration:
    generator = torch.Generator().manual_seed(seed)
    beta = size * torch.randn(len(FEATURES), generator=generator, dtype=torch.float64)
    beta[0] = -NOTHING * beta[2]
    return VisibilityCalibration(beta, torch.zeros(512, 7, 7))


def patterns(count: int, seed: int, cells: int = 49) -> Tensor:
    value = torch.rand(count, cells, generator=torch.Generator().manual_seed(seed))
    return torch.where(value < value[:, :1], 0.0, value)


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from((0.1, 5.0, 100.0)))
def test_it_never_falls_while_the_score_rises(seed: int, size: float) -> None:
    rule, seen = calibration(seed, size), patterns(9, seed)
    common = seen_in_common(seen, seen.flip(0)).double()
    scores = torch.linspace(-1, 1, 101, dtype=torch.float64)
    llr = rule(scores[:, None].expand(-1, 9), common.expand(101, -1, -1))
    assert bool((llr.diff(dim=0) >= -1e-9 * (1 + llr.abs().max())).all())


@given(st.integers(0, 2**31), st.floats(-1, 1))
def test_nothing_in_common_says_nothing(seed: int, score: float) -> None:
    common = seen_in_common(torch.ones(1, 49), torch.zeros(1, 49)).double()
    assert calibration(seed)(torch.tensor([score]).double(), common).tolist() == [0.0]


def test_the_sum_is_that_of_the_features() -> None:
    seen = torch.zeros(1, 7, 7)
    seen[0, 2:4, 1] = 0.5  # one column left of the inner ones, rows of the eyes
    common = seen_in_common(seen.flatten(1), torch.ones(1, 49))
    share = 1 / 49
    means = (share, 0.0, 1 / 14, 0.0, 1 / 28, 0.0)
    torch.testing.assert_close(common, torch.tensor([means]))
    s, rule = 0.4, calibration(3, 0.1)
    rule.coefficients[1] = 5.0  # so that it rises, and the vertex is far
    level, r = math.log(share + 0.02), [3 * value for value in means[1:]]
    features = [1, s, level, s * level, share, s * share, s**2, s**2 * level, *r]
    features += [s * value for value in r]
    expected = sum(b * f for b, f in zip(rule.coefficients.tolist(), features, strict=True))
    found = rule(torch.tensor([s]).double(), common.double())
    assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("side", [3, 7, 14])
def test_regions_of_any_grid_are_those_of_seven_by_seven(side: int) -> None:
    seen = torch.zeros(1, side, side)
    seen[:, :, : side // 2] = 1.0
    common = seen_in_common(seen.flatten(1), torch.ones(1, side * side))[0]
    assert float(common[0]) == pytest.approx(side // 2 / side)
    assert common[1:4].tolist() == pytest.approx([float(common[0])] * 3)
    outer, inner = common[4:].tolist()
    assert outer * 4 / 7 + inner * 3 / 7 == pytest.approx(float(common[0]))


def test_a_matrix_holds_the_scores_of_its_pairs() -> None:
    backbone = create("mobilefacenet").eval()
    fill(backbone)
    rule = calibration(1)
    matcher = CalibratedEmbedding(VisibleEmbedding.of(backbone, rule.mean_map), rule)
    maps = torch.randn(5, 512, 7, 7, generator=torch.Generator().manual_seed(0))
    seen = patterns(5, 2).unflatten(1, (7, 7))
    with torch.inference_mode():
        matrix = matcher(maps[:2], maps, seen[:2], seen)
        for column in range(5):
            one = torch.full((2,), column)
            pairs = matcher.pair_scores(maps[:2], maps[one], seen[:2], seen[one])
            torch.testing.assert_close(pairs, matrix[:, column], rtol=1e-4, atol=1e-4)


def test_a_curve_is_straight_between_its_knots_and_flat_beyond_them() -> None:
    curve = ScoreCurve(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([-2.0, 0.0, 4.0]))
    scores = torch.tensor([[-0.5, 0.0, 0.25], [0.5, 0.75, 1.5]], requires_grad=True)
    llr = curve(scores)
    assert llr.tolist() == [[-2.0, -2.0, -1.0], [0.0, 2.0, 4.0]]
    llr.sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 2] == 4.0
