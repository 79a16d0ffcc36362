"""Training images in other surrounds: who gets one, whose, and what stays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.cache.builder import build_keys

from faceguide.cache.reader import FaceCache
from faceguide.core.faces.face_oval import blend_weight, oval_of
from faceguide.core.faces.mean_face import mean_landmarks
from faceguide.core.faces.surround import surround_behind_face
from faceguide.train.data.swapped_surrounds import swapping

SIZE = 64


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    """Eight identities with four images each."""
    keys = [f"p{i}/{part}_{10 * i + part}.png" for i in range(8) for part in range(1, 5)]
    folder = tmp_path_factory.mktemp("swapped") / "cache"
    return build_keys(folder, keys, size=SIZE, landmarks=mean_landmarks())


def batch_of(cache: FaceCache, rows: NDArray[np.int64]) -> dict[str, torch.Tensor]:
    values = cache.read(rows, ["image", "landmarks", "label"])
    batch = {name: torch.from_numpy(value) for name, value in values.items()}
    return {**batch, "row": torch.from_numpy(rows)}


def test_the_face_stays_and_the_surround_is_of_another_identity(cache: FaceCache) -> None:
    rows = cache.select()
    before = batch_of(cache, rows)["image"].numpy()
    after = swapping(cache, rows, 1.0, 0)(batch_of(cache, rows), 0)["image"].numpy()
    oval = oval_of(mean_landmarks() * SIZE, SIZE)
    inside, outside = blend_weight(oval) > 1 - 1e-4, oval == 0
    np.testing.assert_array_equal(after[:, inside], before[:, inside])
    assert (after[:, outside] != before[:, outside]).any(axis=(1, 2)).all()
    labels = cache.read(rows, ["label"])["label"]
    points = mean_landmarks() * SIZE
    for row in range(0, len(rows), 5):
        made = np.array([surround_behind_face(before[row], points, b, points) for b in before])
        (donors,) = np.nonzero((made == after[row]).all(axis=(1, 2, 3)))
        assert len(donors) == 1
        assert labels[donors[0]] != labels[row]


def test_random_numbers_belong_to_the_row_and_the_epoch(cache: FaceCache) -> None:
    rows = cache.select()
    swap = swapping(cache, rows, 0.5, 3)
    whole = swap(batch_of(cache, rows), 1)["image"].numpy()
    parts = [swap(batch_of(cache, some), 1)["image"].numpy() for some in (rows[20:], rows[:20])]
    np.testing.assert_array_equal(np.concatenate(parts[::-1]), whole)
    changed = (whole != batch_of(cache, rows)["image"].numpy()).any(axis=(1, 2, 3))
    assert 0.2 < changed.mean() < 0.8
    other = swap(batch_of(cache, rows), 2)["image"].numpy()
    assert (other != whole).any()


def test_faces_of_known_occlusion_keep_their_surround(cache: FaceCache) -> None:
    rows = cache.select()
    batch = {**batch_of(cache, rows), "known": torch.arange(len(rows)) % 2 == 0}
    before = batch["image"].clone()
    after = swapping(cache, rows, 1.0, 0)(batch, 0)["image"]
    changed = (after != before).flatten(1).any(1)
    assert torch.equal(changed, ~batch["known"])


def test_donors_come_from_the_rows_that_are_learnt(cache: FaceCache, tmp_path: Path) -> None:
    """Of one identity's rows only, there is no other surround to take."""
    rows = cache.select()
    labels = cache.read(rows, ["label"])["label"]
    own = rows[labels == labels[0]]
    after = swapping(cache, own, 1.0, 0)(batch_of(cache, own), 0)["image"]
    assert torch.equal(after, batch_of(cache, own)["image"])
