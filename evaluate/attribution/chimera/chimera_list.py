"""Which faces make chimeras: identities with two images, each used once, drawn by seed.

Two identities make a chimera: the bearer P and the donor Q, whose part replaces P's. Q is the one
that looks most like P at 14×14 pixels, so that colours, pose and light fit. Another photograph of
either is its reference. No network decides, so the pictures are the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.pair_rows import PairRows, clusters
from faceguide.cache.reader import FaceCache
from faceguide.core.errors import AttributionError
from faceguide.core.files import digest
from faceguide.evaluate.attribution.cells import pair_rng
from faceguide.evaluate.attribution.chimera.composition import PARTS, composed, part_mask
from faceguide.evaluate.attribution.protocol.blocks import Plan

LEAST = 40  # chimeras for a ranking
ENOUGH = 2 * LEAST  # identities with two images for the protocol to be the default
_THUMB = 14
_READ = 256  # rows that are read together


@dataclass(frozen=True)
class Chimeras:
    """N composed faces, as rows of a cache.

    Attributes:
        bearer: (N,) rows of P's face, which is composed.
        bearer_reference: (N,) rows of another photograph of P.
        donor: (N,) rows of Q's face, which lends a part.
        donor_reference: (N,) rows of another photograph of Q.
        part: (N,) places in `PARTS`.
        identities: with two different images, among those of the list.
        composition: of `COMPOSITIONS`.
    """

    bearer: NDArray[np.int64]
    bearer_reference: NDArray[np.int64]
    donor: NDArray[np.int64]
    donor_reference: NDArray[np.int64]
    part: NDArray[np.int64]
    identities: int
    composition: str

    def __len__(self) -> int:
        return len(self.part)

    def images(self, cache: FaceCache, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, S, S, 3) the composed faces at these places."""
        faces = [cache.read(rows[places], ["image"])["image"] for rows in (self.bearer, self.donor)]
        masks = [part_mask(name, faces[0].shape[1]) for name in PARTS]
        return np.stack(
            [
                composed(bearer, donor, masks[part], self.composition)
                for bearer, donor, part in zip(*faces, self.part[places], strict=True)
            ]
        )


def identities_of(cache: FaceCache, rows: PairRows) -> list[NDArray[np.int64]]:
    """The rows of each identity with two or more images in a list of pairs, by its first row."""
    people, _ = clusters(cache, rows.probe, rows.reference, rows.same)
    images, first = np.unique(np.concatenate([rows.probe, rows.reference]), return_index=True)
    owner = people.T.flatten()[first]
    order = np.argsort(owner, kind="stable")
    groups = np.split(images[order], np.flatnonzero(np.diff(owner[order])) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: int(group[0]))


def chimeras_of(
    cache: FaceCache, rows: PairRows, limit: int | None, seed: int, composition: str
) -> Chimeras:
    """Draw chimeras from the images of a list of pairs; a smaller limit gives the first of them.

    Raises:
        AttributionError: with fewer than two identities of two different images.
    """
    drawn = []
    for group in identities_of(cache, rows):
        face, reference = pair_rng(int(group[0]), seed, "chimera").permutation(group)[:2].tolist()
        drawn.append((face, reference))
    table = np.array(drawn, np.int64).reshape(-1, 2)
    thumbs, differs = _looked_at(cache, table)
    table, thumbs = table[differs], thumbs[differs]
    count = len(table)
    if count < 2:
        raise AttributionError(
            f"the list has {count} {'identity' if count == 1 else 'identities'} with two different "
            "images, and a chimera takes two; choose --protocol matched"
        )
    free = np.ones(count, bool)
    bearers: list[int] = []
    donors: list[int] = []
    wanted = count // 2 if limit is None else min(limit, count // 2)
    for place in np.random.default_rng(seed).permutation(count).tolist():
        if len(bearers) == wanted:
            break
        if free[place]:
            free[place] = False
            others = np.flatnonzero(free)
            far = np.square(thumbs[others] - thumbs[place]).sum(1)
            nearest = int(others[far.argmin()])
            free[nearest] = False
            bearers.append(place)
            donors.append(nearest)
    part = np.arange(len(bearers)) % len(PARTS)
    (face, reference), (donor, donor_reference) = table[bearers].T, table[donors].T
    return Chimeras(face, reference, donor, donor_reference, part, count, composition)


def _looked_at(
    cache: FaceCache, table: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(K, 588) thumbnails of the first of each two rows (K, 2), and where the two differ."""
    thumbs, differs = [np.empty((0, 3 * _THUMB**2), np.float32)], [np.empty(0, bool)]
    for start in range(0, len(table), _READ):
        faces, others = (
            cache.read(some, ["image"])["image"] for some in table[start : start + _READ].T
        )
        differs.append((faces != others).any((1, 2, 3)))
        size = (_THUMB, _THUMB)
        small: list[Any] = [cv2.resize(face, size, interpolation=cv2.INTER_AREA) for face in faces]
        thumbs.append(np.stack(small).astype(np.float32).reshape(len(faces), -1))
    return np.concatenate(thumbs), np.concatenate(differs)


def plan_chimeras(chimeras: Chimeras, settings: Mapping[str, Any], per_block: int) -> Plan:
    """Two pairs a chimera, numbers 2i (with P's reference) and 2i + 1 (with Q's), in blocks.

    Args:
        settings: what the maps depend on besides.
        per_block: chimeras per block.
    """
    number = np.arange(2 * len(chimeras))
    probe = np.repeat(chimeras.bearer, 2)
    reference = np.stack([chimeras.bearer_reference, chimeras.donor_reference], 1).flatten()
    kinds = (chimeras.donor.tolist(), chimeras.part.tolist(), chimeras.composition)
    key = digest([dict(settings), probe.tolist(), reference.tolist(), *kinds, per_block])
    return Plan(probe, reference, number % 2 == 0, number, number // 2 // per_block, per_block, key)
