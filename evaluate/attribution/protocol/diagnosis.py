"""Maps that claim nothing: found on the raw map, named by their cause, never dropped.

Scaling a map to 0…1 first hides the fault: rounding noise then looks like a picture. So the
causes are looked for on raw values, in this order:

* `error`: the method raised an error; there is no map.
* `nonfinite`: NaN or infinity.
* `dead`: no energy, or so little against the other maps of the method that it is rounding noise.
* `relu_dead`: there was energy, all of it negative, and the method keeps positive values only.
* `flat`: the cells hardly differ: their coefficient of variation is below 0.05.
* `tied`: the high and the low cells have the same value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.attribution.cells import claimed_sets, pair_rng
from faceguide.evaluate.metrics.strata import wilson

CAUSES = ("error", "nonfinite", "dead", "relu_dead", "flat", "tied")
_EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Limits:
    """Where a map counts as uniform; they are written into every result.

    Attributes:
        dead: least max|a| as a share of the method's typical one.
        dead_absolute: least max|a| at all.
        flat: least coefficient of variation of the cells.
    """

    dead: float = 1e3 * _EPSILON
    dead_absolute: float = 1e-12
    flat: float = 0.05

    def scaled(self, factor: float) -> Limits:
        """All limits times a factor, to see how much hangs on them."""
        return Limits(self.dead * factor, self.dead_absolute * factor, self.flat * factor)


def typical_energy(energies: NDArray[np.floating]) -> float:
    """The median of the finite, positive max|a| of a method's maps; 0 when there is none."""
    good = energies[np.isfinite(energies) & (energies > 0)]
    return float(np.median(good)) if len(good) else 0.0


def variation(cells: NDArray[np.floating]) -> float:
    """Coefficient of variation of the cells, sd / |mean|; infinite when the mean is 0."""
    mean = abs(float(cells.mean()))
    return float(cells.std()) / mean if mean > 0 else float("inf")


def cause_of(
    cells: NDArray[np.floating],
    energy: float,
    typical: float,
    *,
    pair: int,
    seed: int = 0,
    limits: Limits | None = None,
) -> str | None:
    """Why a map claims nothing, or None when it can be tested.

    Args:
        cells: (U,) attributions per cell, after the rectification that the method asks for.
        energy: max|a| of the raw map before it; NaN when the map is not finite.
        typical: `typical_energy` of the method.
        limits: where the lines are.
    """
    limits = limits or Limits()
    if not (np.isfinite(energy) and np.isfinite(cells).all()):
        return "nonfinite"
    if energy <= max(limits.dead_absolute, limits.dead * typical):
        return "dead"
    if cells.max() <= 0:
        return "relu_dead"
    if variation(cells) < limits.flat:
        return "flat"
    high, _ = claimed_sets(cells, pair_rng(pair, seed, "ties"))
    return None if high.any() else "tied"


def summary(causes: Sequence[str | None]) -> dict[str, Any]:
    """Share of uniform maps and of each cause, with counts, n and Wilson intervals."""
    n = len(causes)
    counts = {name: sum(cause == name for cause in causes) for name in CAUSES}
    return {
        name: {
            "count": count,
            "n": n,
            "share": count / n if n else None,
            "interval": wilson(count, n),
        }
        for name, count in counts.items()
    }
