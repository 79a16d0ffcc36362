"""Drawn covers lie where the landmarks are, and say exactly what they hide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from faceguide.core.errors import TrainError
from faceguide.core.faces.mean_face import mean_landmarks
from faceguide.train.data.occluders import Occluders, draw, paint
from faceguide.train.training_settings import KINDS, SHAPES

SIZE = 112


def faces(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Grey images, the mean face's landmarks, all visible."""
    images = torch.full((count, SIZE, SIZE, 3), 128, dtype=torch.uint8)
    points = torch.from_numpy(mean_landmarks()).expand(count, -1, -1)
    return images, points, torch.ones(count, 7, 7)


def points_of_face() -> NDArray[np.float64]:
    return mean_landmarks()[:, :2].astype(np.float64) * SIZE


@pytest.mark.parametrize("kind", SHAPES)
@given(draws=st.lists(st.floats(0, 0.999), min_size=8, max_size=8))
@settings(max_examples=20, deadline=None)
def test_eyes_and_mouth(kind: str, draws: list[float]) -> None:
    cover = paint(kind, points_of_face(), SIZE, np.array(draws))
    assert cover.shape == (SIZE, SIZE)
    assert 0.0 <= cover.min() <= cover.max() <= 1.0
    points = points_of_face().round().astype(int)
    eyes = [cover[points[i, 1], points[i, 0]] for i in (468, 473)]
    mouth = cover[points[13, 1], points[13, 0]]
    if kind != "rectangle":
        assert eyes == [0.0, 0.0]
        assert mouth == 1.0
    if kind == "band":
        assert cover.mean() > 0.4
        assert cover[-1].min() == 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_visibility_is_the_share_that_was_not_painted(kind: str) -> None:
    count = 4 if kind == "niqab" else 16  # its folds take time
    images, points, seen = faces(count)
    drawn, left = draw(
        Occluders((kind,), 1.0), images, points, seen, seed=3, epoch=0, rows=torch.arange(count)
    )
    # A grey pixel may be painted grey, so changed pixels are at most those that are hidden.
    changed = (drawn != images).any(3).float()
    share = torch.nn.functional.avg_pool2d(changed[:, None], 16)[:, 0]
    assert (share[left == 1.0] == 0).all()
    assert (share[left == 0.0] > 0.9).all()
    assert 0.0 < left.mean() < 1.0


def test_pixels_outside_the_cover_stay() -> None:
    images, points, seen = faces(1)
    drawn, _ = draw(
        Occluders(("medical",), 1.0), images, points, seen, seed=0, epoch=0, rows=torch.tensor([5])
    )
    assert torch.equal(drawn[0, :30], images[0, :30])
    assert not torch.equal(drawn[0, 80:], images[0, 80:])
    assert images.unique().tolist() == [128], "the caller's images must not change"


def test_a_draw_belongs_to_the_row() -> None:
    images, points, seen = faces(6)
    settings_ = Occluders(KINDS, 0.7)
    rows = torch.tensor([9, 2, 40, 7, 1, 30])
    all_six = draw(settings_, images, points, seen, seed=1, epoch=2, rows=rows)
    three = draw(settings_, images[:3], points[:3], seen[:3], seed=1, epoch=2, rows=rows[:3])
    assert torch.equal(all_six[0][:3], three[0])
    assert torch.equal(all_six[1][:3], three[1])
    other = draw(settings_, images, points, seen, seed=1, epoch=3, rows=rows)
    assert not torch.equal(all_six[0], other[0])


def test_the_share_is_kept_and_hidden_stays_hidden() -> None:
    images, points, seen = faces(400)
    seen[:, 0] = 0.0
    _, left = draw(
        Occluders(("medical",), 0.25), images, points, seen, seed=0, epoch=0, rows=torch.arange(400)
    )
    covered = (left[:, 1:] < 1).flatten(1).any(1).float().mean()
    assert covered == pytest.approx(0.25, abs=0.07)
    assert (left[:, 0] == 0).all()


def test_a_face_without_landmarks_is_left_alone() -> None:
    images, points, seen = faces(2)
    broken = points.clone()
    broken[0, 3] = float("nan")
    drawn, left = draw(
        Occluders(("band",), 1.0), images, broken, seen, seed=0, epoch=0, rows=torch.arange(2)
    )
    assert torch.equal(drawn[0], images[0])
    assert (left[0] == 1).all()
    assert left[1].min() == 0


def test_a_grid_that_does_not_divide_the_image_is_refused() -> None:
    images, points, _ = faces(1)
    with pytest.raises(TrainError, match="found 112 pixels and"):
        draw(
            Occluders(("band",)), images, points, torch.ones(1, 5, 5),
            seed=0, epoch=0, rows=torch.arange(1),
        )  # fmt: skip
