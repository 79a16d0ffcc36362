"""Batches of kept maps: covered faces, then swapped surrounds, then unaltered faces.

A batch is wholly mirrored or not, and depends on the seed and its number only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache.order import Order
from faceguide.cache.reader import FaceCache
from faceguide.cache.volumes.agreement import differences
from faceguide.core.errors import CacheError
from faceguide.train.data.keyed_random import keyed_uniform
from faceguide.train.distil.alterations import DRAWS
from faceguide.train.distil.kept_maps import KeptMaps

EPOCH = 50  # batches from one evaluation to the next
_PURPOSE_VERSION, _PURPOSE_MIRROR = 43, 44


@dataclass(frozen=True)
class Chosen:
    """Versions of faces: kind, number and (n,) places among the kept faces."""

    kind: str
    number: int
    places: NDArray[np.int64]


def gather(kept: KeptMaps, chosen: list[Chosen]) -> dict[str, Tensor]:
    """Maps and answers of these versions, one after the other.

    Returns:
        `maps` (N, …) float32; `whole`, `raw` and `part` (N, E); `seen` (N, S): of a face without
        a cover of its own, the cells of the cover of the same number; `keypoints` where there are.
    """
    columns: dict[str, list[NDArray[Any]]] = {}
    targets = kept.targets
    for one in chosen:
        mirrored, places = one.number % 2, one.places
        stored = (
            kept.clean[mirrored] if one.kind == "clean" else getattr(kept, one.kind)[one.number]
        )
        whole = targets["whole"][mirrored, places]
        found = {
            "maps": stored[places].astype(np.float32),
            "whole": whole,
            "raw": targets["raw"][mirrored, places],
        }
        if "part" in targets:
            found["part"] = targets["part"][one.number, places]
            found["seen"] = targets["seen"][one.number, places]
        if kept.keypoints is not None:
            found["keypoints"] = kept.keypoints[mirrored, places]
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
    return {name: torch.from_numpy(np.concatenate(parts)) for name, parts in columns.items()}


class MapBatches:
    """Used by the loop in place of a `Stream`.

    Args:
        rows: (N,) rows of the cache, whose maps are kept.
        learnt: (L,) places of those that are learnt.
        counts: of covered, swapped and unaltered faces in a batch.
        rank, world: this process of so many.
    """

    def __init__(
        self,
        cache: FaceCache,
        kept: KeptMaps,
        rows: NDArray[np.int64],
        learnt: NDArray[np.int64],
        counts: tuple[int, int, int],
        seed: int,
        rank: int,
        world: int,
        device: torch.device,
    ) -> None:
        self.cache, self.epoch = cache, 0
        self._kept, self._rows, self._seed, self._device = kept, rows, seed, device
        self._orders = {
            kind: Order(learnt, count, seed + place, rank, world)
            for place, (kind, count) in enumerate(
                zip(("cover", "surround", "clean"), counts, strict=True)
            )
            if count
        }
        self._number = 0

    def __len__(self) -> int:
        return EPOCH

    def state_dict(self) -> dict[str, Any]:
        """Where the batches stand, for a checkpoint."""
        more, number = divmod(self._number, EPOCH)  # the last batch of an epoch may be out
        return {"epoch": self.epoch + more, "batch": number, **self._identity()}

    def _identity(self) -> dict[str, Any]:
        return {"order": "maps", **{kind: one.identity for kind, one in self._orders.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume exactly where `state_dict()` was asked for, on this many processes or another.

        Raises:
            CacheError: for a state of other batches; names what differs.
        """
        theirs = {name: value for name, value in state.items() if name not in ("epoch", "batch")}
        if different := differences(theirs, self._identity()):
            listed = ", ".join(f"{name} {there} → {here}" for name, there, here in different)
            raise CacheError(
                f"the state is of other batches: {listed}; faces of a batch × processes must stay "
                "the same"
            )
        self.epoch, self._number = int(state["epoch"]), int(state["batch"])

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """The rest of the epoch."""
        for number in range(self._number, EPOCH):
            found = self._batch(self.epoch * EPOCH + number)
            self._number = number + 1
            yield found
        self.epoch, self._number = self.epoch + 1, 0

    def _batch(self, number: int) -> dict[str, Tensor]:
        side = keyed_uniform((self._seed, _PURPOSE_MIRROR), torch.tensor([number]), 1)
        mirrored = int(side[0, 0] >= 0.5)
        chosen: list[Chosen] = []
        for kind, order in self._orders.items():
            epoch, index = divmod(number, len(order))
            places = order.batch(epoch, index)
            key = (self._seed, _PURPOSE_VERSION, number)
            drawn = keyed_uniform(key, torch.from_numpy(places), 1)[:, 0].numpy()
            sides = range(mirrored, DRAWS, 2)
            which = np.minimum((drawn * len(sides)).astype(int), len(sides) - 1)
            chosen += [
                Chosen(kind, sides[one], places[which == one])
                for one in range(len(sides))
                if (which == one).any()
            ]
        batch = gather(self._kept, chosen)
        batch["row"] = torch.from_numpy(self._rows[np.concatenate([c.places for c in chosen])])
        return {name: values.to(self._device) for name, values in batch.items()}
