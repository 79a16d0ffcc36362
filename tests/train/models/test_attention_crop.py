"""Attention crop and drop against a plain image-by-image version, and the faults kept out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from faceguide.train.models.attention_crop import attention_crop, crop, crop_boxes, kept_after_drop


def plain_box(attention: Tensor, theta: float, padding: float, side: int) -> list[int]:
    """One image after another, with whole numbers as the paper's description gives them."""
    large = nn.functional.interpolate(
        attention[None, None], (side, side), mode="bilinear", align_corners=True
    )[0, 0]
    rows, columns = torch.nonzero(large >= theta * attention.max(), as_tuple=True)
    if len(rows) == 0:  # the maximum of the small map lies between the pixels of the large one
        return [0, side, 0, side]
    box = []
    for line in (rows, columns):
        first, last = int(line.min()), int(line.max())
        start = max(int(first - padding * side), 0)
        box += [start, max(min(int(last + padding * side), side), start + 1)]
    return box


@given(
    st.integers(0, 2**32 - 1),
    st.floats(0.05, 0.95),
    st.sampled_from([0.0, 0.05, 0.1, 0.25]),
    st.sampled_from([17, 32, 45]),
)
@settings(max_examples=40, deadline=None)
def test_boxes_and_crops_of_a_batch_are_those_of_single_images(
    seed: int, theta: float, padding: float, side: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(3, 1, 5, 5, generator=generator) ** 6
    images = torch.randn(3, 2, side, side, generator=generator)
    boxes = crop_boxes(attention, theta, padding, side, side)
    crops = attention_crop(images, attention, theta, padding)
    for row in range(3):
        y0, y1, x0, x1 = plain_box(attention[row, 0], theta, padding, side)
        assert boxes[row].tolist() == [y0, y1, x0, x1]
        expected = nn.functional.interpolate(
            images[row : row + 1, :, y0:y1, x0:x1],
            (side, side),
            mode="bilinear",
            align_corners=True,
        )
        torch.testing.assert_close(crops[row : row + 1], expected, rtol=1e-4, atol=1e-4)


def test_a_known_box() -> None:
    attention = torch.zeros(1, 1, 3, 3)
    attention[0, 0, 1, 2] = 1.0
    # Upsampled to 9×9 with aligned corners the peak sits at row 4, column 8 and falls to 0
    # within 4 pixels: at least half of it from row 2 to 6 and column 6 to 8.
    boxes = crop_boxes(attention, 0.5, 0.0, 9, 9)
    assert boxes.tolist() == [[2, 6, 6, 8]]
    assert crop_boxes(attention, 0.5, 0.2, 9, 9).tolist() == [[0, 7, 4, 9]]


def test_each_image_may_have_its_own_threshold() -> None:
    attention = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    theta = torch.tensor([0.9, 0.3])
    boxes = crop_boxes(attention, theta, 0.1, 16, 16)
    for row in (0, 1):
        alone = crop_boxes(attention[row : row + 1], theta[row].item(), 0.1, 16, 16)
        assert torch.equal(boxes[row : row + 1], alone)


def test_an_empty_map_changes_nothing() -> None:
    images = torch.randn(2, 3, 8, 8)
    nothing = torch.zeros(2, 1, 4, 4)
    assert crop_boxes(nothing, 0.5, 0.1, 8, 8).tolist() == [[0, 8, 0, 8]] * 2
    torch.testing.assert_close(attention_crop(images, nothing, 0.5, 0.1), images)
    assert kept_after_drop(nothing, 0.5, 8, 8).all()


def test_a_flat_map_does_not_black_the_image_out() -> None:
    flat = torch.ones(2, 1, 4, 4)
    flat[1, 0, 0, 0] = 0.0
    kept = kept_after_drop(flat, 0.5, 8, 8)
    assert kept[0].all()
    assert kept[1].any()
    assert not kept[1].all()


def test_a_single_attended_pixel_gives_no_empty_crop() -> None:
    attention = torch.zeros(1, 1, 9, 9)
    attention[0, 0, 4, 4] = 1.0
    boxes = crop_boxes(attention, 1.0, 0.0, 9, 9)
    assert boxes.tolist() == [[4, 5, 4, 5]]
    images = torch.randn(1, 3, 9, 9)
    crops = attention_crop(images, attention, 1.0, 0.0)
    torch.testing.assert_close(crops, images[:, :, 4:5, 4:5].expand_as(crops))


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 0.95))
@settings(max_examples=20, deadline=None)
def test_drop_takes_what_attends_and_nothing_else(seed: int, theta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    attention = torch.rand(2, 1, 4, 4, generator=generator)
    large = nn.functional.interpolate(attention, (12, 12), mode="bilinear", align_corners=True)
    kept = kept_after_drop(attention, theta, 12, 12)
    for row in (0, 1):
        below = large[row] < theta * attention[row].max()
        expected = below if below.any() else torch.ones_like(below)
        assert torch.equal(kept[row], expected)


def test_targets_of_another_resolution_follow_the_image() -> None:
    """A smooth image and its small version stay aligned through one and the same box."""
    side, small = 64, 16
    line = torch.arange(side, dtype=torch.float32)
    image = torch.stack([line[None, :].expand(side, -1), line[:, None].expand(-1, side)])[None]
    target = nn.functional.avg_pool2d(image, side // small)
    boxes = torch.tensor([[10, 50, 4, 44]])
    large, little = crop(image, boxes, side, side), crop(target, boxes, side, side)
    torch.testing.assert_close(
        nn.functional.avg_pool2d(large, side // small), little, rtol=0, atol=1e-3
    )
    assert large[0, 1, 0, 0].item() == pytest.approx(10, abs=1e-3)
    assert large[0, 0, 0, -1].item() == pytest.approx(43, abs=1e-3)
