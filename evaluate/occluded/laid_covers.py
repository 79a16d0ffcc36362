"""Covers over cached faces, at several strengths, with the exact share of each pixel they hide.

A drawn cover is the same at every strength; less of it is laid, from the chin upwards, so the
covered parts are nested. A picture is laid by its anchor points and is smaller where the strength
is less. Which cover a face gets, and how, depends on the seed and its row only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.core.faces.face_oval import oval_of
from faceguide.evaluate.occluded.picture_covers import PictureCover
from faceguide.train.data.keyed_random import keyed_uniform
from faceguide.train.data.niqab import niqab_on
from faceguide.train.data.occluders import cloth, paint

PURPOSE = 51
_DRAWS = 20
_EYES, _LIPS = (468, 473), (13, 14)

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class LaidCovers:
    """How faces are covered.

    Attributes:
        kinds: of drawn covers, each face gets one of them.
        pictures: laid in their place, if there are any.
    """

    kinds: tuple[str, ...]
    pictures: tuple[PictureCover, ...]
    seed: int

    def over(
        self, image: Image, points: NDArray[np.float32], row: int, strength: float
    ) -> tuple[Image, NDArray[np.float32]]:
        """The face of a row under its cover.

        Args:
            image: (S, S, 3) RGB.
            points: (478, 2) finite landmarks in pixels.
            strength: 0 to 1: share of a drawn cover that is laid, or of a picture's full area.

        Returns:
            The covered image, and (S, S) what is left visible of each pixel, 0 to 1.
        """
        size = len(image)
        draws = keyed_uniform((self.seed, PURPOSE), torch.tensor([row]), _DRAWS)[0].numpy()
        if self.pictures:
            picture = self.pictures[int(draws[0] * len(self.pictures))]
            colour, cover = picture.on(points, size, strength)
        else:
            kind = self.kinds[int(draws[0] * len(self.kinds))]
            if kind == "niqab":
                colour, whole = niqab_on(points, size, (row, int(draws[1] * 2**24)))
            else:
                whole = paint(kind, points, size, draws[2:])
                colour = cloth(size, draws[10:], row)
            cover = _lowest(whole, points, strength)
        mixed = image + cover[..., None] * (colour - image)
        return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8), 1.0 - cover


def _lowest(
    cover: NDArray[np.float32], points: NDArray[np.float32], strength: float
) -> NDArray[np.float32]:
    """The part of a cover that lies lowest on the face, by its share of the covered area."""
    down = points[list(_LIPS)].mean(0) - points[list(_EYES)].mean(0)
    y, x = np.mgrid[: len(cover), : len(cover)]
    order = np.argsort(-(x * down[0] + y * down[1]), axis=None, kind="stable")
    laid = np.cumsum(cover.ravel()[order], dtype=np.float64)
    kept = np.zeros(cover.size, np.float32)
    kept[order[laid <= strength * laid[-1] * (1 + 1e-9)]] = 1.0
    return cover * kept.reshape(cover.shape)


def covered_share(seen: NDArray[np.float32], points: NDArray[np.float32]) -> float:
    """Share of the oval of a face that is covered, 0 to 1.

    Args:
        seen: (S, S) 1 = visible.
        points: (478, 2) landmarks in pixels.
    """
    oval = oval_of(points, len(seen))
    return float(((1.0 - seen) * oval).sum() / max(oval.sum(), 1e-9))
