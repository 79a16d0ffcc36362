"""Altered versions of cached faces: under a drawn cover, or in another identity's surround.

Version `number` of a face depends on the seed, the face and the number only. A face without
landmarks is altered by those of the mean face.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import TrainError
from faceguide.core.faces.face_oval import blend_weight, oval_of
from faceguide.core.faces.mean_face import mean_landmarks
from faceguide.core.faces.surround import Donors, surround_behind_face
from faceguide.train.data.keyed_random import keyed_uniform
from faceguide.train.data.occluders import Occluders, cloth, draw

DRAWS = 5  # versions of each kind; the last of the surrounds is no surround but a filled one
_SWAPPED = DRAWS - 1
_PURPOSE_DONOR, _PURPOSE_FILL = 41, 42
# Another number when what is drawn changes: maps that are kept must not be taken for others.
REVISION = 1

Images = NDArray[np.uint8]


class Alterations:
    """The versions of some rows of a cache.

    Args:
        rows: (N,) of the cache; places below count in them.
        covers: kinds of drawn covers.
    """

    def __init__(
        self, cache: FaceCache, rows: NDArray[np.int64], covers: tuple[str, ...], seed: int
    ) -> None:
        self._cache, self._rows, self._covers, self._seed = cache, rows, covers, seed

    def clean(self, places: NDArray[np.int64]) -> Images:
        """(n, S, S, 3) RGB as they are."""
        images: Images = self._cache.read(self._rows[places], ["image"])["image"]
        return images

    def points(self, places: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, 478, 2) landmarks in 0…1 of the crop."""
        mean = mean_landmarks()[:, :2]
        if "landmarks" not in self._cache.columns:
            return np.repeat(mean[None], len(places), axis=0)
        found = self._cache.read(self._rows[places], ["landmarks"])["landmarks"][..., :2]
        known = np.isfinite(found).all(axis=(1, 2), keepdims=True)
        return np.where(known, found, mean).astype(np.float32)

    def cover(self, places: NDArray[np.int64], number: int) -> tuple[Images, NDArray[np.float32]]:
        """Under a cover, and what it leaves: (n, S, S, 3) and (n, S, S), 1 = visible."""
        images = self.clean(places)
        drawn, seen = draw(
            Occluders(self._covers, 1.0), torch.from_numpy(images),
            torch.from_numpy(self.points(places)), torch.ones(images.shape[:3]),
            seed=self._seed, epoch=number, rows=torch.from_numpy(self._rows[places]),
        )  # fmt: skip
        return drawn.numpy(), seen.numpy()

    def surround(self, places: NDArray[np.int64], number: int) -> Images:
        """In another identity's surround, the last version before a cloth: (n, S, S, 3)."""
        faces = self.clean(places)
        size = faces.shape[1]
        points = self.points(places) * size
        if number == _SWAPPED:
            return np.stack(
                [
                    self._filled(*one)
                    for one in zip(faces, points, self._rows[places].tolist(), strict=True)
                ]
            )
        chosen = self._donors[places, number % self._donors.shape[1]]
        behind, there = self.clean(chosen), self.points(chosen) * size
        return np.stack(
            [surround_behind_face(*one) for one in zip(faces, points, behind, there, strict=True)]
        )

    def _filled(self, face: Images, points: NDArray[np.float32], row: int) -> Images:
        """A face before a cloth of random colour."""
        size = len(face)
        uniform = keyed_uniform((self._seed, _PURPOSE_FILL), torch.tensor([row]), 8)[0].numpy()
        weight = blend_weight(oval_of(points, size))[..., None]
        return np.rint(face * weight + cloth(size, uniform, row) * (1 - weight)).astype(np.uint8)

    @cached_property
    def _donors(self) -> NDArray[np.int64]:
        """(N, 4) places whose surrounds each face gets; fewer columns in a small cache."""
        cache, rows = self._cache, self._rows
        poses = np.zeros((len(rows), 3), np.float32)
        if "pose" in cache.columns:
            poses = cache.read(rows, ["pose"])["pose"]
        donors = Donors(poses, cache.read(rows, ["label"])["label"])
        uniform = keyed_uniform((self._seed, _PURPOSE_DONOR), torch.from_numpy(rows), _SWAPPED)
        chosen = [donors.choose(place, uniform[place].numpy()) for place in range(len(rows))]
        fewest = min(map(len, chosen))
        if not fewest:
            raise TrainError(
                f"{cache.directory}: surrounds are swapped between identities, and there is only "
                "one; loosen --meta, or leave --alter surround out"
            )
        return np.stack([one[:fewest] for one in chosen])
