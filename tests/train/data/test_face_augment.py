"""Augmentation takes the visibility along."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceguide.core.faces.align import FIVE_POINTS
from faceguide.core.faces.mean_face import mean_landmarks
from faceguide.train.data.face_augment import FaceAugmentation, augment_faces, augmenting
from faceguide.train.data.occluders import Occluders

NOTHING = FaceAugmentation(0.0, 0.0, 0.0, 0.0)


def white(count: int, size: int = 56) -> torch.Tensor:
    return torch.full((count, size, size, 3), 255, dtype=torch.uint8)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_black_is_hidden_to_the_pixel(seed: int) -> None:
    images, seen = augment_faces(
        FaceAugmentation(1.0, 0.0, 0.0, 0.5),
        white(4), torch.ones(4, 7, 7), torch.arange(4), seed=seed, epoch=0,
    )  # fmt: skip
    left = (images[..., 0] > 0).float()
    exact = torch.nn.functional.avg_pool2d(left[:, None], 8)[:, 0]
    torch.testing.assert_close(seen, exact, atol=1e-6, rtol=0)
    assert (seen.mean((1, 2)) > 0.15).all()


def test_visibility_is_mirrored_with_the_image() -> None:
    images = white(64)
    images[:, :, :28] = 0
    seen = torch.ones(64, 14, 14)
    seen[:, :, :7] = 0
    out, cells = augment_faces(
        FaceAugmentation(0.0, 0.0, 0.0, 0.5), images, seen, torch.arange(64), seed=0, epoch=0
    )
    shown = (out[:, 0, ::4, 0] > 0).float()
    assert torch.equal(shown, cells[:, 0])
    assert 10 < int((cells[:, 0, 0] == 1).sum()) < 54


def test_keypoints_are_mirrored_with_the_image_and_stay_where_it_is_cut() -> None:
    images = white(64)
    images[:, :, :28] = 0
    landmarks = torch.rand(64, 478, 3)
    five = landmarks[:, FIVE_POINTS, :2]
    batch = {"image": images, "row": torch.arange(64), "landmarks": landmarks}
    for cut in (0.0, 1.0):
        change = augmenting(FaceAugmentation(cut, 0.0, 0.0, 0.5), 0, 7, keypoints=True)
        made = change(dict(batch), 0)
        plain = augmenting(FaceAugmentation(0.0, 0.0, 0.0, 0.5), 0, 7)(dict(batch), 0)
        assert plain.keys() == made.keys() - {"keypoints"}
        mirrored = plain["image"][:, 0, 0, 0] > 0
        assert 10 < int(mirrored.sum()) < 54
        # Left and right of the image change places, eyes and corners of the mouth.
        wanted = five.clone()
        wanted[mirrored] = five[mirrored][:, [1, 0, 2, 4, 3]]
        wanted[mirrored, :, 0] = 1 - wanted[mirrored, :, 0]
        torch.testing.assert_close(made["keypoints"], wanted)
    assert "landmarks" not in made


def test_nothing_asked_nothing_changed() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (3, 56, 56, 3), dtype=np.uint8))
    seen = torch.rand(3, 7, 7)
    out, cells = augment_faces(NOTHING, images, seen, torch.arange(3), seed=0, epoch=0)
    assert torch.equal(out, images)
    assert torch.equal(cells, seen)


def test_light_and_fewer_pixels_leave_the_visibility() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (16, 56, 56, 3), dtype=np.uint8))
    seen = torch.rand(16, 7, 7)
    out, cells = augment_faces(
        FaceAugmentation(0.0, 1.0, 1.0, 0.0), images, seen, torch.arange(16), seed=0, epoch=0
    )
    assert torch.equal(cells, seen)
    assert (out != images).flatten(1).any(1).all()


def test_a_draw_belongs_to_the_row() -> None:
    images, seen = white(6), torch.ones(6, 7, 7)
    rows = torch.tensor([4, 9, 1, 22, 3, 5])
    settings_ = FaceAugmentation(0.5, 0.5, 0.5, 0.5)
    whole = augment_faces(settings_, images, seen, rows, seed=1, epoch=1)
    part = augment_faces(settings_, images[2:], seen[2:], rows[2:], seed=1, epoch=1)
    assert torch.equal(whole[0][2:], part[0])
    assert torch.equal(whole[1][2:], part[1])


def test_drawn_covers_come_first() -> None:
    points = torch.from_numpy(mean_landmarks())[None].expand(8, -1, -1)
    settings_ = FaceAugmentation(0.0, 0.0, 0.0, 0.0, Occluders(("band",), 1.0))
    out, cells = augment_faces(
        settings_, white(8, 112), torch.ones(8, 7, 7), torch.arange(8), seed=0, epoch=0,
        landmarks=points,
    )  # fmt: skip
    assert (cells[:, 6] == 0).all()
    assert (cells[:, 3].amax(1) > 0.5).all()
    assert (out[:, 100:] != 255).any()
