"""What would change a decision: parts of a crop blurred, or exchanged with the other face's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.evaluate.attribution.cells import CELLS, GRID, cell_index
from faceguide.evaluate.attribution.chimera.composition import blended, matched_colours
from faceguide.evaluate.attribution.methods.maps import blurred
from faceguide.evaluate.attribution.one_pair.crop_parts import Parts
from faceguide.evaluate.attribution.protocol.infill import BLUR

Image = NDArray[np.uint8]
How = Literal["blurred", "exchanged"]
# Scores (N,) of changed crops of one face (N, S, S, 3) with the other face as it is.
Scores = Callable[[NDArray[np.uint8]], NDArray[np.floating]]

_STEP = 8  # growing sets of cells that are scored together


@dataclass(frozen=True)
class PartChange:
    """A landmark region that was changed.

    Attributes:
        how: exchanged: with that of the other face, in this one's colours.
        score: of the changed face with the other.
        crosses: whether it brings the other decision; None without a threshold.
    """

    part: str
    how: How
    score: float
    crosses: bool | None


@dataclass(frozen=True)
class CellChange:
    """The cells that bring the other decision when they are changed together.

    They are taken in the order of what each does by itself, until the decision changes: fewer
    may do it in another order.

    Attributes:
        cells: (row, column) of the 7×7 cells, from 0; of all 49 where even those do not do it.
        score: of the face with these cells changed.
        crosses: whether they bring the other decision.
    """

    how: How
    cells: tuple[tuple[int, int], ...]
    score: float
    crosses: bool


def _filling(crop: Image, other: Image, how: How) -> NDArray[np.float32]:
    """(S, S, 3) what changed places show."""
    if how == "exchanged":
        return matched_colours(other, crop)
    pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].float()
    return blurred(pixels, BLUR * len(crop))[0].permute(1, 2, 0).numpy()


def part_changes(
    crop: Image, other: Image, parts: tuple[Parts, Parts], scores: Scores, threshold: float | None
) -> list[PartChange]:
    """Change each part by itself, in both ways.

    Args:
        crop: (S, S, 3) the face that is changed.
        other: (S, S, 3) the face that it is compared with.
        parts: of both. What is exchanged is where either face has the part.
        scores: of changed crops with the other face.
    """
    named: list[tuple[str, How]] = []
    pictures = []
    ways: tuple[How, How] = ("blurred", "exchanged")
    for how in ways:
        filling = _filling(crop, other, how)
        for name, area in parts[0].items():
            shown = area if how == "blurred" else np.maximum(area, parts[1][name])
            mask = np.round(255 * shown).astype(np.uint8)
            named.append((name, how))
            pictures.append(blended(crop, filling, mask))
    clean, *found = scores(np.stack([crop, *pictures])).tolist()
    return [
        PartChange(name, how, score, _crosses(clean, score, threshold))
        for (name, how), score in zip(named, found, strict=True)
    ]


def _crosses(clean: float, score: float, threshold: float | None) -> bool | None:
    return None if threshold is None else (score >= threshold) != (clean >= threshold)


def cell_change(crop: Image, other: Image, scores: Scores, threshold: float) -> CellChange:
    """The cells that bring the other decision, those that do most by themselves first.

    Cells of a match are blurred, those of a rejection are exchanged with the other face's.
    """
    clean = float(scores(crop[None])[0])
    same = clean >= threshold
    how: How = "blurred" if same else "exchanged"
    filling, index = _filling(crop, other, how), cell_index(len(crop))

    def changed(sets: list[NDArray[np.int64]]) -> NDArray[np.floating]:
        masks = [np.where(np.isin(index, some), 255, 0).astype(np.uint8) for some in sets]
        return scores(np.stack([blended(crop, filling, mask) for mask in masks]))

    single = changed([np.array([cell]) for cell in range(CELLS)])
    order = np.argsort(single if same else -single, kind="stable")
    for start in range(0, CELLS, _STEP):
        counts = range(start + 1, min(start + _STEP, CELLS) + 1)
        found = changed([order[:count] for count in counts]).tolist()
        for count, score in zip(counts, found, strict=True):
            if (score >= threshold) != same:
                return CellChange(how, _places(order[:count]), score, True)
    return CellChange(how, _places(order), found[-1], False)


def _places(cells: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    return tuple(divmod(int(cell), GRID) for cell in cells)
