"""What takes the place of a cell: realistic infills, the same for every method.

A black square is no face that a network has ever seen; its effect is that of the square. Four
infills that keep the crop a face, or nearly: its own blur, its own mean colour, the mean face of
the data set, and the same cell of another identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.cells import pair_rng
from faceguide.evaluate.attribution.methods.maps import blurred

INFILLS = ("blur", "mean", "face", "other")
BLUR = 8 / 112  # σ as a share of the side
_POOL = 64  # faces that the mean face and the other identities come from


@dataclass(frozen=True)
class Donors:
    """Faces of the cache that lend pixels.

    Attributes:
        rows: (K,) rows of the cache.
        labels: (K,) their identities; −1 unknown.
        images: (K, S, S, 3) uint8 RGB.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    images: NDArray[np.uint8]

    @staticmethod
    def of(cache: FaceCache, rows: NDArray[np.int64]) -> Donors:
        """Up to 64 of these rows, evenly spaced, so that every part of a run has the same.

        Where they are all of one identity, which can lend nothing to itself, the others of the
        cache are among them.
        """
        rows = np.unique(rows)
        labels = cache.read(rows, ["label"])["label"]
        if labels[0] >= 0 and (labels == labels[0]).all():
            rows = cache.select()
        chosen = rows[np.linspace(0, len(rows) - 1, min(_POOL, len(rows))).astype(np.int64)]
        found = cache.read(chosen, ["image", "label"])
        return Donors(chosen, found["label"], found["image"])

    def several(self, labels: Sequence[int], key: int, count: int, seed: int) -> NDArray[np.uint8]:
        """(K, S, S, 3): faces of other identities than these, drawn by key and seed; they recur
        where there are fewer.

        Raises:
            AttributionError: when all donors are these identities.
        """
        others = np.flatnonzero(~np.isin(self.labels, labels) | (self.labels < 0))
        if not len(others):
            raise AttributionError("needs faces of further identities in the pairs")
        drawn: NDArray[np.uint8] = self.images[
            np.resize(pair_rng(key, seed, "faces").permutation(others), count)
        ]
        return drawn

    def another(self, row: int, label: int, seed: int) -> NDArray[np.uint8]:
        """(S, S, 3): a face of another identity than this one, drawn by row and seed.

        Raises:
            AttributionError: when all donors are this identity.
        """
        others = np.flatnonzero((self.rows != row) & ((self.labels != label) | (self.labels < 0)))
        if not len(others):
            raise AttributionError(
                "the infill `other` needs faces of a second identity in the pairs; "
                "choose --infills blur,mean"
            )
        drawn: NDArray[np.uint8] = self.images[pair_rng(row, seed, "other").choice(others)]
        return drawn


def fill_pictures(
    image: NDArray[np.uint8], names: Sequence[str], row: int, label: int, donors: Donors, seed: int
) -> NDArray[np.uint8]:
    """(R, S, S, 3) uint8: the whole pictures that cells are taken from.

    Args:
        image: (S, S, 3) the probe.
        names: R of `INFILLS`.
    """
    made = []
    for name in names:
        if name == "blur":
            pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
            soft = blurred(pixels, BLUR * image.shape[0])[0].permute(1, 2, 0)
            made.append(soft.round().to(torch.uint8).numpy())
        elif name == "mean":
            colour = np.round(image.reshape(-1, 3).mean(0)).astype(np.uint8)
            made.append(np.broadcast_to(colour, image.shape))
        elif name == "face":
            made.append(np.round(donors.images.mean(0)).astype(np.uint8))
        elif name == "other":
            made.append(donors.another(row, label, seed))
        else:
            raise AttributionError(f"no infill {name!r}; choose from {', '.join(INFILLS)}")
    return np.stack(made)


def replaced(probe: Tensor, fills: Tensor, masks: Tensor) -> Tensor:
    """(M, R, 3, S, S): the probe with each mask's pixels taken from each picture.

    Args:
        probe: (3, S, S).
        fills: (R, 3, S, S).
        masks: (M, S, S) bool.
    """
    return torch.where(masks[:, None, None], fills[None], probe[None, None])
