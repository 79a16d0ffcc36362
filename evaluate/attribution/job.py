"""What a run of `evaluate attribution` is made of, for itself and for those beside it."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.allocator import physical_memory
from faceguide.evaluate.attribution.attribution_options import Options
from faceguide.evaluate.attribution.chimera.chimera_list import Chimeras
from faceguide.evaluate.attribution.methods.described import described, told
from faceguide.evaluate.attribution.methods.maps import Batch
from faceguide.evaluate.attribution.methods.target import (
    PairScore,
    Reference,
    bytes_of_graph,
)
from faceguide.evaluate.attribution.protocol.blocks import Plan
from faceguide.evaluate.attribution.protocol.infill import Donors
from faceguide.evaluate.attribution.protocol.responses import TABLE_CHUNK

# Memory for a job beside others, in graphs of one pass: LRP keeps most, and half stays free.
_PASSES = 6


@dataclass(frozen=True)
class Job:
    """What a run is made of.

    Attributes:
        options: of the methods and of the protocol.
        donors: faces that lend pixels.
        random: the score with random parameters, for "randomisation".
        chimeras: the composed faces that are explained; None = the rows of the plan.
        scores: (N, 6) of the chimeras, see `exchange.SCORES`.
        described: the references of the block in hand.
        workers: threads that each run passes of their own on one core.
    """

    cache: FaceCache
    plan: Plan
    score: PairScore
    options: Options
    donors: Donors
    random: PairScore | None = None
    chimeras: Chimeras | None = None
    scores: NDArray[np.float64] | None = None
    described: dict[int, tuple[NDArray[np.int64], Reference]] = field(default_factory=dict)
    workers: int = 1

    @functools.cached_property
    def crew(self) -> tuple[Job, ...]:
        """Jobs that work side by side, one a core as far as memory allows; or only this one.

        Their scores share weights, and have hooks of their own.
        """
        count = self.workers
        if count > 1:
            first = self.batch(self.plan.pairs_of(0)[:1])
            each = (
                _PASSES
                * self.options.chunk
                * bytes_of_graph(self.score.quick, first.probe, first.reference)
            )
            count = min(count, physical_memory() // each)
        if count <= 1:
            return (self,)
        return tuple(
            replace(
                self,
                score=self.score.replica(),
                random=None if self.random is None else self.random.replica(),
            )
            for _ in range(count)
        )

    @property
    def forward_images(self) -> int:
        """Images of one forward pass without gradients."""
        return max(self.options.chunk, TABLE_CHUNK)

    def pixels(self, rows: NDArray[np.int64]) -> Tensor:
        """(N, 3, S, S) prepared pixels of these rows."""
        return self.score.prepared(self.cache.read(rows, ["image"])["image"])

    def beside(self, rows: NDArray[np.int64]) -> Reference:
        """What the network is told of these rows besides their pixels."""
        return told(self.score, self.cache, rows)

    def batch(self, places: NDArray[np.int64]) -> Batch:
        """The pairs at these places of the plan, all of one block."""
        rows, parts = self._references(int(self.plan.block[places[0]]))
        found = torch.from_numpy(np.searchsorted(rows, self.plan.reference[places]))
        numbers, pictures = self.plan.number[places], ()
        if self.chimeras is None:
            probe = self.pixels(self.plan.probe[places])
        else:
            composed, at = np.unique(numbers // 2, return_inverse=True)
            probe = self.score.prepared(self.chimeras.images(self.cache, composed))[at]
            pictures = tuple((numbers // 2).tolist())
        return Batch(
            probe,
            (
                *(part[found.to(part.device)] for part in parts),
                *self.beside(self.plan.probe[places]),
            ),
            tuple(numbers.tolist()),
            self.pixels(self.plan.reference[places]),
            pictures,
            functools.partial(self._faces, places, pictures or tuple(numbers.tolist())),
            functools.partial(self._regions, places) if "regions" in self.cache.columns else None,
        )

    def _faces(self, places: NDArray[np.int64], keys: tuple[int, ...], count: int) -> Tensor:
        """(N, K, 3, S, S) faces of other identities than those of these pairs."""
        sides = [self.plan.probe[places], self.plan.reference[places]]
        if self.chimeras is not None:
            sides.append(self.chimeras.donor[self.plan.number[places] // 2])
        labels = np.stack([self.cache.read(rows, ["label"])["label"] for rows in sides], 1)
        drawn = [
            self.donors.several(own.tolist(), key, count, self.options.seed)
            for own, key in zip(labels, keys, strict=True)
        ]
        return self.score.prepared(np.concatenate(drawn)).unflatten(0, (len(places), count))

    def _regions(self, places: NDArray[np.int64]) -> Tensor:
        """(N, R, S, S) regions of the probes, 1 where one covers most of a pixel."""
        grids = self.cache.read(self.plan.probe[places], ["regions"])["regions"]
        shares = torch.from_numpy(grids).to(self.score.device).float() / 255
        size = (self.score.input_spec.size,) * 2
        shares = torch.nn.functional.interpolate(shares, size=size, mode="bilinear")
        return (shares > 0.5).float()

    def _references(self, block: int) -> tuple[NDArray[np.int64], Reference]:
        """References of a block, described once for its table and all methods."""
        if block not in self.described:
            rows = np.unique(self.plan.reference[self.plan.pairs_of(block)])
            self.described.clear()  # one block at a time
            self.described[block] = (
                rows,
                described(self.score, self.cache, rows, self.workers, self.options.chunk),
            )
        return self.described[block]
