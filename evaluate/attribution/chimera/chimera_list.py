"""Which faces make chimeras: identities with two images, each used once, drawn by seed.

Two identities make a chimera: the bearer P and the donor Q, whose part replaces P's. Q is the one
that looks most like P at 14×14 pixels, so that colours, pose and light fit. Another photograph of
either is its reference. No network decides, so the pictures are the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.pair_rows import PairRows, clusters
from faceguide.cache.reader import FaceCache
from faceguide.core.errors import AttributionError
from faceguide.core.files import digest
from faceguide.evaluate.attribution.cells import pair_rng
from faceguide.evaluate.attribution.chimera.composition import (
    ALL_PARTS,
    BOXES,
    PARTS,
    SMALL,
    SWAPPED,
    composed,
    part_cells,
    part_mask,
    region_cells_of,
    region_mask,
)
from faceguide.evaluate.attribution.protocol.blocks import Plan

# What else may be played with the same faces; of each, see `games.py`.
GAMES = ("small", "regions", "deletion")
SMALL_GAME, REGION_GAME, DELETION = GAMES
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
        part: (N,) places in `ALL_PARTS`; those of the ranking, in `PARTS`, come first.
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

    @property
    def ranked(self) -> Chimeras:
        """Those that methods are ranked by, without those of further games."""
        return self._where(self.part < len(PARTS))

    def _where(self, kept: NDArray[np.bool_]) -> Chimeras:
        names = ("bearer", "bearer_reference", "donor", "donor_reference", "part")
        return replace(self, **{name: getattr(self, name)[kept] for name in names})

    def judged(self, cache: FaceCache) -> Chimeras:
        """Those with cells of either identity: the landmarks of some lie far off."""
        part, rest = self.cells(cache, np.arange(len(self)))
        return self._where(part.any(1) & rest.any(1))

    def masks(self, cache: FaceCache, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, S, S) 0 to 255: the donor's parts of the faces at these places."""
        side = cache.require("image").shape[0]
        parts, boxes = self.part[places], len(BOXES)
        swapped = np.flatnonzero(parts >= boxes)
        found = np.empty((len(parts), side, side), np.uint8)
        for place in np.flatnonzero(parts < boxes).tolist():
            found[place] = part_mask(ALL_PARTS[parts[place]], side)
        if len(swapped):
            both = [
                cache.read(rows[places[swapped]], ["regions"])["regions"]
                for rows in (self.bearer, self.donor)
            ]
            for place, *regions in zip(swapped.tolist(), *both, strict=True):
                region = parts[place] - boxes
                found[place] = region_mask(np.stack([one[region] for one in regions]), side)
        return found

    def cells(
        self, cache: FaceCache, places: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(n, 49) the evaluated cells of the donor, (n, 49) those of the bearer."""
        found = [
            part_cells(ALL_PARTS[part]) if part < len(BOXES) else region_cells_of(mask)
            for part, mask in zip(self.part[places], self.masks(cache, places), strict=True)
        ]
        part, rest = (np.stack(kind) for kind in zip(*found, strict=True))
        return part, rest

    def images(self, cache: FaceCache, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, S, S, 3) the composed faces at these places."""
        faces = [cache.read(rows[places], ["image"])["image"] for rows in (self.bearer, self.donor)]
        return np.stack(
            [
                composed(bearer, donor, mask, self.composition)
                for bearer, donor, mask in zip(*faces, self.masks(cache, places), strict=True)
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
    cache: FaceCache,
    rows: PairRows,
    limit: int | None,
    seed: int,
    composition: str,
    games: Sequence[str] = (),
) -> Chimeras:
    """Draw chimeras from the images of a list of pairs; a smaller limit gives the first of them.

    Args:
        games: of `GAMES`: those with parts of their own have as many chimeras more, of the same
            faces.

    Raises:
        AttributionError: with fewer than two identities of two different images, and for landmark
            regions that the cache has not.
    """
    if REGION_GAME in games and "regions" not in cache.columns:
        raise AttributionError(
            f"{cache.directory}: --games {REGION_GAME} needs landmark regions, which `prep "
            "guidance` makes; leave it out"
        )
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
    number = np.arange(len(bearers))
    parts = [number % len(PARTS)]
    if SMALL_GAME in games:
        parts.append(len(PARTS) + number % len(SMALL))
    if REGION_GAME in games:
        parts.append(len(BOXES) + number % len(SWAPPED))
    face, reference, donor, donor_reference = (
        np.tile(one, len(parts)) for one in (*table[bearers].T, *table[donors].T)
    )
    part = np.concatenate(parts)
    made = Chimeras(face, reference, donor, donor_reference, part, count, composition)
    return made.judged(cache) if REGION_GAME in games else made


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
