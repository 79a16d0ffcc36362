"""Which faces of a cache the surround test looks at, and what it makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import ORIGIN_CODE
from faceguide.core.errors import EvaluationError
from faceguide.core.faces.face_oval import blend_weight, oval_of
from faceguide.core.faces.surround import Donors, face_in_surround
from faceguide.train.data.occluders import cloth, paint

Images = NDArray[np.uint8]
Ints = NDArray[np.int64]

IMAGES = 4  # of one identity, at most
DONORS = 3  # surrounds that each face is laid into
COVERS = ("grey", "scarf", "niqab")
_GREY = 128
_SLIT_ONLY = 0.5  # the number by which `paint` draws a band that covers the hair too


@dataclass(frozen=True)
class Faces:
    """N faces of a cache, by row, P of them with another image of their identity.

    Attributes:
        rows: (N,) rows of the cache.
        images: (N, S, S, 3) uint8 RGB.
        points: (N, 478, 2) landmarks in pixels.
        labels: (N,) identities, numbered from 0 without gaps.
        mated: (P,) places of the faces with another image.
        face, surround: (K,) places: face f is laid into the surround of s, another identity's
            image of nearly the same pose; three for each of the P.
        without_landmarks: faces that have the mean face's.
        seed: of the covers.
    """

    rows: Ints
    images: Images
    points: NDArray[np.float64]
    labels: Ints
    mated: Ints
    face: Ints
    surround: Ints
    without_landmarks: int
    seed: int

    @classmethod
    def of(cls, cache: FaceCache, rows: Ints, most: int, seed: int) -> Faces:
        """Up to four images of each identity, whole identities in random order up to `most` faces.

        Args:
            rows: usable faces with an identity to choose from.

        Raises:
            EvaluationError: when no identity has two images, or there is only one identity.
        """
        labels = cache.read(rows, ["label"])["label"]
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(rows))
        order = order[np.argsort(rng.permutation(int(labels.max(initial=0)) + 1)[labels[order]])]
        _, first, place = np.unique(labels[order], return_index=True, return_inverse=True)
        order = order[np.arange(len(order)) - first[place] < IMAGES][:most]
        order.sort()
        names = ["image", "landmarks", "pose", "origin"]
        found = cache.read(rows[order], names)
        _, labels = np.unique(labels[order], return_inverse=True)
        mated = np.flatnonzero(np.bincount(labels)[labels] > 1) if len(labels) else labels
        if not len(mated) or labels.max() == 0:
            raise EvaluationError(
                f"{cache.directory}: the surround test needs two identities or more, one of them "
                f"with two images; found {len(rows)} usable faces with an identity"
            )
        donors = Donors(found["pose"], labels)
        chosen = [donors.choose(int(face), rng.random(DONORS)) for face in mated]
        points = found["landmarks"][..., :2].astype(np.float64) * found["image"].shape[1]
        lacking = found["origin"] == ORIGIN_CODE["template"]
        lacking |= ~np.isfinite(points).all(axis=(1, 2))
        return cls(
            rows[order],
            found["image"],
            points,
            labels.astype(np.int64),
            mated.astype(np.int64),
            np.repeat(mated, [len(some) for some in chosen]).astype(np.int64),
            np.concatenate(chosen),
            int(lacking.sum()),
            seed,
        )

    def composed(self, number: int) -> Images:
        """X(f, s) number `number` of K."""
        face, surround = self.face[number], self.surround[number]
        return face_in_surround(
            self.images[face], self.points[face], self.images[surround], self.points[surround]
        )

    def covered(self, place: int) -> Iterator[Images]:
        """A face under each of `COVERS`: all but its oval grey; all but its oval under cloth; all
        but a slit at its eyes under cloth."""
        image, points = self.images[place], self.points[place]
        size = len(image)
        rng = np.random.default_rng([self.seed, int(self.rows[place])])
        texture = cloth(size, rng.random(8), int(self.rows[place]))
        slit = rng.random(8)
        slit[4] = _SLIT_ONLY
        around = 1.0 - blend_weight(oval_of(points, size))
        yield _over(image, np.full_like(texture, _GREY), around)
        yield _over(image, texture, around)
        yield _over(image, texture, paint("band", points, size, slit))


def _over(image: Images, colour: NDArray[np.float32], share: NDArray[np.float32]) -> Images:
    mixed = image + share[..., None] * (colour - image)
    return np.rint(np.clip(mixed, 0, 255)).astype(np.uint8)
