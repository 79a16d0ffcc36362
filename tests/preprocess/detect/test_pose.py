"""Head pose: rotated synthetic heads come back, signs hold on real photographs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage import data

from faceguide.core.faces.mean_face import mean_landmarks
from faceguide.preprocess.detect.cascade import every_face
from faceguide.preprocess.detect.finders.finder import Finder
from faceguide.preprocess.detect.pose import RIGID_POINTS, _rotations_3d, head_pose

poses = st.tuples(st.floats(-60, 60), st.floats(-40, 40), st.floats(-45, 45))


def rotation(yaw: float, pitch: float, roll: float) -> NDArray[np.float64]:
    """The (3, 3) rotation that turns the mean head to a pose given in degrees."""
    a, b, c = np.deg2rad([-yaw, -pitch, roll])
    turn = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    nod = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    tilt = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return tilt @ turn @ nod


def turned_head(
    pose: tuple[float, float, float], noise: float = 0.0, seed: int = 0
) -> NDArray[np.float32]:
    """The mean head in a pose, 200 pixels large, somewhere in a photograph."""
    head = mean_landmarks().astype(np.float64)
    head = head + np.random.default_rng(seed).normal(0, noise, head.shape)
    centre = head.mean(axis=0)
    return ((head - centre) @ rotation(*pose).T * 200 + (310, 170, 40)).astype(np.float32)


def without_depth(
    head: NDArray[np.float32],
) -> NDArray[np.float32]:
    return np.concatenate([head[..., :2], np.full_like(head[..., 2:], np.nan)], axis=-1)


@settings(max_examples=100, deadline=None)
@given(pose=poses, seed=st.integers(0, 1000))
def test_a_rotated_head_comes_back(pose: tuple[float, float, float], seed: int) -> None:
    exact = turned_head(pose)
    np.testing.assert_allclose(head_pose(exact), pose, atol=0.02)
    np.testing.assert_allclose(head_pose(without_depth(exact)), pose, atol=0.02)
    # Each point off by 1 % of the crop in each direction, about as much as another face's shape.
    rough = turned_head(pose, noise=0.01, seed=seed)
    np.testing.assert_allclose(head_pose(rough), pose, atol=3)
    np.testing.assert_allclose(head_pose(without_depth(rough)), pose, atol=6)


@pytest.mark.parametrize(
    ("pose", "axis", "direction"),
    [((30, 0, 0), 0, 1), ((-30, 0, 0), 0, -1), ((0, 20, 0), 1, -1), ((0, -20, 0), 1, 1)],
)
def test_yaw_and_pitch_move_the_nose_as_documented(
    pose: tuple[float, float, float], axis: int, direction: int
) -> None:
    head = turned_head(pose)
    nose = head[1] - head[[33, 263]].mean(axis=0)
    straight = turned_head((0, 0, 0))
    straight_nose = straight[1] - straight[[33, 263]].mean(axis=0)
    assert (nose - straight_nose)[axis] * direction > 10  # x right, y down
    assert np.sign(head_pose(head)[axis]) == np.sign(pose[axis])


def test_clockwise_roll_lowers_the_eye_at_the_right() -> None:
    head = turned_head((0, 0, 25))
    assert head[263, 1] > head[33, 1] + 10
    assert head_pose(head)[2] == pytest.approx(25, abs=0.01)


def test_turning_the_image_changes_roll_alone() -> None:
    """The crop's rotation must not leak into yaw and pitch."""
    head = turned_head((35, -20, 5))
    angle = np.deg2rad(15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    head[:, :2] = head[:, :2] @ turn.T
    np.testing.assert_allclose(head_pose(head), (35, -20, 20), atol=0.02)


def test_a_batch_equals_its_members() -> None:
    heads = np.stack([turned_head((yaw, yaw / 3, -yaw / 2), 0.01) for yaw in range(-60, 61, 20)])
    heads[2] = without_depth(heads[2])
    together = head_pose(heads)
    assert together.shape == (7, 3)
    assert together.dtype == np.float32
    for one, among in zip(heads, together, strict=True):
        np.testing.assert_allclose(head_pose(one), among, atol=1e-4)
    assert head_pose(heads[:0]).shape == (0, 3)


def test_missing_landmarks_give_nan_and_harm_no_neighbour() -> None:
    heads = np.stack([turned_head((20, 10, 5))] * 3)
    heads[0] = np.nan
    heads[1] = 7.0  # all points in one place
    angles = head_pose(heads)
    assert np.isnan(angles[:2]).all()
    np.testing.assert_allclose(angles[2], (20, 10, 5), atol=0.02)


def test_no_head_is_fitted_by_a_reflection() -> None:
    """z with the wrong sign asks for one; the nearest rotation is given instead."""
    head = turned_head((20, 10, 5)).astype(np.float64)
    head[:, 2] *= -1
    model = mean_landmarks() - mean_landmarks().mean(axis=0)
    found = _rotations_3d(head[None], model.astype(np.float64))
    assert np.linalg.det(found) == pytest.approx(1)


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(N, 478, 3\) or \(478, 3\), found \(468, 3\)"):
        head_pose(np.zeros((468, 3)))


def test_the_mean_face_is_frontal_symmetric_and_read_only() -> None:
    mean = mean_landmarks()
    assert mean.shape == (478, 3)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(head_pose(mean), 0, atol=1e-4)
    for left, right in ((468, 473), (61, 291), (33, 263), (234, 454), (105, 334)):
        np.testing.assert_allclose(mean[left, 1:], mean[right, 1:], atol=1e-6)
        assert mean[left, 0] + mean[right, 0] == pytest.approx(2 * mean[1, 0], abs=1e-6)
    assert len(set(RIGID_POINTS)) == len(RIGID_POINTS)
    with pytest.raises(ValueError, match="read-only"):
        mean[0] = 0


def test_roll_follows_a_turned_photograph(face_mesh: Finder) -> None:
    image = data.astronaut()
    straight = head_pose(every_face(image, face_mesh))[0]
    mirrored = head_pose(every_face(np.ascontiguousarray(image[:, ::-1]), face_mesh))[0]
    # cv2 takes counter-clockwise angles as positive.
    matrix = cv2.getRotationMatrix2D((224.0, 110.0), -20, 1.0)
    tilted = cv2.warpAffine(image, matrix, (512, 512)).astype(np.uint8)
    turned = head_pose(every_face(tilted, face_mesh))[0]
    np.testing.assert_allclose(straight, 0, atol=5)  # she faces the camera
    np.testing.assert_allclose(mirrored, straight * (-1, 1, -1), atol=2)
    np.testing.assert_allclose(turned, straight + np.array([0, 0, 20]), atol=2)


# Seen by eye in the pictures: where the nose points.
@pytest.mark.parametrize(
    ("picture", "axis", "least"),
    [
        ("orl_att/s1/3.pgm", 0, -35),
        ("lfw112_dev/images/Drew_Barrymore/Drew_Barrymore_0001.jpg", 0, 25),
        ("orl_att/s2/7.pgm", 1, 25),
        ("maskedface_seg_dev/images/IWM_07078.jpg", 1, -20),
    ],
    ids=["left", "right", "up", "down"],
)
def test_signs_on_photographs(
    shared: Path, face_mesh: Finder, picture: str, axis: int, least: float
) -> None:
    image = cv2.imread(str(shared / "data" / picture))[..., ::-1].astype(np.uint8)
    angle = head_pose(every_face(image, face_mesh))[0, axis]
    assert np.sign(angle) == np.sign(least)
    assert abs(angle) > abs(least)
