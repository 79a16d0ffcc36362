"""Why two faces were taken for one identity or for two: the figures, and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.method_table import named
from faceguide.evaluate.attribution.one_pair.crop_changes import (
    CellChange,
    PartChange,
    Scores,
    cell_change,
    part_changes,
)
from faceguide.evaluate.attribution.one_pair.crop_parts import Parts, regions_of, shares
from faceguide.evaluate.attribution.one_pair.thresholds import Threshold
from faceguide.evaluate.attribution.pair_map import pair_map
from faceguide.evaluate.report.tables import to_text
from faceguide.train.models.loading.network import Network

SIDES = ("A", "B")
_ASK = (
    "No decision: --threshold takes a number or a run of `evaluate verification`; no default "
    "suits every network"
)


@dataclass(frozen=True)
class OneFace:
    """A face of the pair.

    Attributes:
        crop: (S, S, 3) uint8 RGB.
        parts: landmark regions of the crop.
        assumed: the regions are those of the mean face, since no landmarks are known.
    """

    name: str
    crop: NDArray[np.uint8]
    parts: Parts
    assumed: bool


@dataclass(frozen=True)
class PairExplanation:
    """One pair explained; whatever there is two of is of face A and face B.

    Attributes:
        score: as `evaluate verification` computes it, of each face and its mirror image.
        threshold: None = no decision.
        maps: method → (S, S) of A and of B, above 0 supports the match.
        signed: method → whether it claims a direction.
        changes: what each landmark region does to the score.
        cells: those that bring the other decision; None without a threshold.
    """

    faces: tuple[OneFace, OneFace]
    matcher: str
    score: float
    threshold: Threshold | None
    maps: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
    signed: Mapping[str, bool]
    changes: tuple[list[PartChange], list[PartChange]]
    cells: tuple[CellChange, CellChange] | None

    @property
    def same(self) -> bool | None:
        """Whether the score reaches the threshold; None without one."""
        return None if self.threshold is None else self.score >= self.threshold.value

    def shares(self) -> dict[str, tuple[dict[str, float], dict[str, float]]]:
        """Method → part → its signed sum as a share of all magnitudes, of A and of B."""
        found = {}
        for name, maps in self.maps.items():
            first, second = (
                shares(one, face.parts) for one, face in zip(maps, self.faces, strict=True)
            )
            found[name] = first, second
        return found

    def record(self) -> dict[str, Any]:
        """JSON values of all but the pictures."""
        found = self.shares()
        return {
            "matcher": self.matcher,
            "score": self.score,
            "threshold": None if self.threshold is None else asdict(self.threshold),
            "same": self.same,
            "methods": {
                name: {"signed": self.signed[name], "shares": dict(zip(SIDES, both, strict=True))}
                for name, both in found.items()
            },
            "faces": {
                side: {
                    "name": face.name,
                    "regions_assumed": face.assumed,
                    "areas": {name: float(part.mean()) for name, part in face.parts.items()},
                    "changes": [asdict(change) for change in self.changes[place]],
                    "cells": None if self.cells is None else asdict(self.cells[place]),
                }
                for place, (side, face) in enumerate(zip(SIDES, self.faces, strict=True))
            },
        }

    def decision(self) -> str:
        """The score and what it means."""
        text = f"score {self.score:.4f} ({self.matcher})"
        if self.threshold is None:
            return f"{text}. {_ASK}"
        sign, meaning = ("≥", "one identity") if self.same else ("<", "two identities")
        value, origin = self.threshold.value, self.threshold.origin
        return f"{text} {sign} {value:.4f} ({origin}): {meaning}"

    def what_changes_it(self) -> list[str]:
        """Which regions and cells bring the other decision; nothing without a threshold."""
        if self.cells is None:
            return []
        lines = []
        for side, changes, found in zip(SIDES, self.changes, self.cells, strict=True):
            alone = [f"{one.part} {one.how} ({one.score:.3f})" for one in changes if one.crosses]
            if alone:
                lines.append(f"{side}: {', '.join(alone)} would change the decision")
            else:
                lines.append(f"{side}: no region by itself would change the decision")
            count = len(found.cells)
            if found.crosses:
                cells = "1 cell" if count == 1 else f"{count} cells"
                lines.append(f"{side}: {cells} of 49 {found.how} would ({found.score:.3f})")
            else:
                lines.append(f"{side}: nor would all 49 cells {found.how} ({found.score:.3f})")
        return lines

    def text(self) -> str:
        """For a terminal: decision, what carried it, what would change it."""
        parts = list(self.faces[0].parts)
        carried = [
            [name, side, *(_percent(found[part], self.signed[name]) for part in parts)]
            for name, both in self.shares().items()
            for side, found in zip(SIDES, both, strict=True)
        ]
        clean = self.score
        moved = [
            [side, how] + [f"{one.score - clean:+.3f}{'*' * bool(one.crosses)}" for one in kept]
            for side, changes in zip(SIDES, self.changes, strict=True)
            for how in ("blurred", "exchanged")
            if (kept := [one for one in changes if one.how == how])
        ]
        lines = [
            *(f"{side}: {face.name}" for side, face in zip(SIDES, self.faces, strict=True)),
            self.decision(),
            *self.what_changes_it(),
            "",
            "Share of the map, % of all magnitudes; + supports the match, − opposes it:",
            to_text((["method", "face", *parts], carried)),
            "",
            "Change of the score when a region is blurred, or exchanged with the other face's"
            + ("; * = another decision:" if self.threshold else ":"),
            to_text((["face", "region", *parts], moved)),
        ]
        if assumed := [s for s, face in zip(SIDES, self.faces, strict=True) if face.assumed]:
            lines.append(
                f"Regions of {' and '.join(assumed)} are those of the mean face: a crop has no "
                "landmarks"
            )
        return "\n".join(lines)


def _percent(share: float, signed: bool) -> str:
    return f"{100 * share:+.1f}" if signed else f"{100 * share:.1f}"


def explain_faces(
    network: Network,
    faces: tuple[OneFace, OneFace],
    methods: Sequence[str],
    matcher: str,
    scores: tuple[Scores, Scores],
    threshold: Threshold | None,
    settings: Settings,
    keypoints: Tensor | None = None,
    others: NDArray[np.uint8] | None = None,
) -> PairExplanation:
    """Explain the score of two faces, both ways.

    Args:
        methods: names of `evaluate methods`, or `module:function`.
        scores: of changed crops of A with B, and of changed crops of B with A.
        keypoints: (2, 5, 2) landmarks of both, for a network that is told them.
        others: (K, S, S, 3) uint8 RGB, faces of other identities, for methods that take some.

    Raises:
        AttributionError: for names that do not exist or do not suit, for no method, and for two
            equal crops.
    """
    chosen = {found.name: found for found in map(named, methods)}
    if not chosen:
        raise AttributionError("at least one method is needed, see `evaluate methods`")
    crops = faces[0].crop, faces[1].crop
    told = keypoints, None if keypoints is None else keypoints.flip(0)
    if np.array_equal(*crops):
        raise AttributionError(
            f"{faces[0].name} and {faces[1].name} are one picture: the score is at its maximum, "
            "and no map explains it"
        )

    def map_of(name: str, place: int) -> NDArray[np.float32]:
        own, other = crops[place], crops[1 - place]
        marked = regions_of(faces[place].parts)
        return pair_map(network, own, other, name, matcher, settings, told[place], others, marked)

    maps = {name: (map_of(name, 0), map_of(name, 1)) for name in chosen}
    clean = float(scores[0](crops[0][None])[0])
    at = None if threshold is None else threshold.value
    parts = faces[0].parts, faces[1].parts
    changes, cells = [], []
    for place in range(2):
        own, other = crops[place], crops[1 - place]
        both_parts = parts[place], parts[1 - place]
        changes.append(part_changes(own, other, both_parts, scores[place], at))
        if at is not None:
            cells.append(cell_change(own, other, scores[place], at))
    return PairExplanation(
        faces, matcher, clean, threshold, maps,
        {name: method.signed for name, method in chosen.items()},
        (changes[0], changes[1]), (cells[0], cells[1]) if cells else None,
    )  # fmt: skip
