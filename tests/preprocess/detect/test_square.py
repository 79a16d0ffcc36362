"""The square that a mesh is laid into: its turn, and the pixels that a network is shown of it."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceguide.preprocess.detect.square import Boxes, Square, cut

_NOISE = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)


def test_the_square_of_a_box_is_turned_as_its_eyes_are() -> None:
    edges = np.array([(10, 20, 50, 80), (0, 0, 10, 4)], np.float32)
    eyes = np.array([[(20, 30), (40, 50)], [(2, 2), (2, -2)]], np.float32)
    boxes = Boxes(edges, np.array([0.9, 0.6], np.float32), eyes)
    assert boxes.square(0) == Square(30, 50, 90, math.pi / 4)  # the right eye is lower: clockwise
    assert boxes.square(1, 2.0) == Square(5, 2, 20, -math.pi / 2)
    assert len(boxes) == 2


@given(left=st.integers(0, 40), top=st.integers(0, 20), side=st.integers(1, 40))
def test_a_square_on_whole_pixels_is_a_slice(left: int, top: int, side: int) -> None:
    found = cut(_NOISE, Square(left + side / 2, top + side / 2, side, 0), side)
    np.testing.assert_array_equal(found, _NOISE[top : top + side, left : left + side])


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_quarter_turn(quarters: int) -> None:
    """Its first pixel lies on its corner, which a turn moves to the far side of the slice."""
    found = cut(_NOISE, Square(40, 30, 20, quarters * math.pi / 2), 20)
    left, top = {1: (31, 20), 2: (31, 21), 3: (30, 21)}[quarters]
    slice_ = _NOISE[top : top + 20, left : left + 20]
    np.testing.assert_array_equal(found, np.rot90(slice_, quarters))


@given(
    x=st.floats(15, 65), y=st.floats(15, 45), side=st.floats(4, 20), angle=st.floats(-math.pi, 3.14)
)
def test_what_is_cut_lies_where_the_square_says(
    x: float, y: float, side: float, angle: float
) -> None:
    """On a ramp, bilinear values are coordinates; a 32nd of a pixel and rounding are left."""
    ramp = np.zeros((60, 80, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(80) * 3, np.arange(60)[:, None] * 4
    found = cut(ramp, Square(x, y, side, angle), 16).astype(float) / (3, 4, 1)
    j, i = np.meshgrid(np.arange(16) / 16 - 0.5, np.arange(16) / 16 - 0.5)
    cos, sin = math.cos(angle), math.sin(angle)
    np.testing.assert_allclose(found[..., 0], x + side * (cos * j - sin * i), atol=0.22)
    np.testing.assert_allclose(found[..., 1], y + side * (sin * j + cos * i), atol=0.22)


def test_borders() -> None:
    outside = Square(-1e6, 30, 10, 0)
    assert not cut(_NOISE, outside, 8, border=cv2.BORDER_CONSTANT).any()
    left = cut(_NOISE, outside, 8)
    assert (left == left[:, :1]).all()
    assert left.any()
