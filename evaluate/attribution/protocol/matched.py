"""The `matched` falsification protocol: do the cells that a map calls important matter more?

Each cell is replaced in turn by each of several realistic infills, and the response of the score
(or of the embedding) is kept in a table. A map claims a set H of high cells and a set L of low
ones; it is falsified when H's responses are not larger than L's. Cells have equal area and both
sets share the infills, so neither area nor chance can decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.attribution.cells import claimed_sets, pair_rng

VERDICTS = ("supported", "falsified", "undecided", "uniform", "error")
SUPPORTED, FALSIFIED, UNDECIDED, UNIFORM, ERROR = VERDICTS
REPLICATES = 200


@dataclass(frozen=True)
class Outcome:
    """What the protocol finds of one map.

    Attributes:
        verdict: of `VERDICTS`.
        rate: share of (high, low) comparisons, infill by infill, that go against the map; LOWER is
            better, 0.5 is chance. None when untested.
        margin: mean high response − mean low response; HIGHER is better. None when untested.
        interval: 95 % interval of the margin over cells and infills, or None.
        falsified: margin ≤ delta; None when untested.
        high: (U,) bool, the high set.
        low: (U,) bool, the low set.
        mean_high: mean response of the high set.
        mean_low: mean response of the low set.
    """

    verdict: str
    rate: float | None
    margin: float | None
    interval: tuple[float, float] | None
    falsified: bool | None
    high: NDArray[np.bool_]
    low: NDArray[np.bool_]
    mean_high: float | None = None
    mean_low: float | None = None


def falsification_rate(high: NDArray[np.floating], low: NDArray[np.floating]) -> float:
    """Share of the comparisons of high with low responses that go against the map; 1 − AUC.

    Ties count half. Only cells with one infill are compared: a blur moves the score less than
    another identity's cell, and compared across infills, the infill would decide.

    Args:
        high: (h, R) responses of the high set, R infills that both sets share.
        low: (l, R) responses of the low set.
    """
    first, second = high[:, None], low[None]
    return float((first < second).mean() + 0.5 * (first == second).mean())


def margin_interval(
    high: NDArray[np.floating], low: NDArray[np.floating], rng: np.random.Generator
) -> tuple[float, float]:
    """95 % interval of mean(high) − mean(low), cells and infills drawn with replacement.

    Args:
        high: (h, R) responses, R infills that both sets share.
        low: (l, R).
    """
    infills = rng.integers(0, high.shape[1], (REPLICATES, high.shape[1]))
    # (units, B): mean over the drawn infills, then over the drawn units of either set.
    by_high, by_low = high[:, infills].mean(2), low[:, infills].mean(2)
    column = np.arange(REPLICATES)
    drawn_high = by_high[rng.integers(0, len(high), (len(high), REPLICATES)), column].mean(0)
    drawn_low = by_low[rng.integers(0, len(low), (len(low), REPLICATES)), column].mean(0)
    low_end, high_end = np.quantile(drawn_high - drawn_low, [0.025, 0.975])
    return float(low_end), float(high_end)


def untested(verdict: str, cells: int) -> Outcome:
    """The outcome of a map that claims nothing or failed: it stays in the table."""
    empty = np.zeros(cells, bool)
    return Outcome(verdict, None, None, None, None, empty, empty)


def judge_map(
    cells: NDArray[np.floating],
    responses: NDArray[np.floating],
    *,
    pair: int,
    seed: int = 0,
    delta: float = 0.0,
    cause: str | None = None,
) -> Outcome:
    """Test the claim of one map against the measured responses.

    Args:
        cells: (U,) attributions of the map.
        responses: (U, R) response to each cell replaced by each infill, ≥ 0.
        pair: number of the pair; it and the seed decide all random numbers, for all methods alike.
        delta: margin that a claim must exceed.
        cause: of a map without a claim (see `diagnosis`): "error", another cause = uniform.

    Returns:
        The outcome; `falsified` follows the margin, `verdict` its interval.
    """
    if cause is not None:
        return untested(ERROR if cause == ERROR else UNIFORM, len(cells))
    if not np.isfinite(responses).all():
        return untested(ERROR, len(cells))
    high, low = claimed_sets(cells, pair_rng(pair, seed, "ties"))
    if not high.any():
        return untested(UNIFORM, len(cells))
    on_high, on_low = responses[high].astype(np.float64), responses[low].astype(np.float64)
    margin = float(on_high.mean() - on_low.mean())
    interval = margin_interval(on_high, on_low, pair_rng(pair, seed, "margin"))
    verdict = UNDECIDED
    if interval[0] > delta:
        verdict = SUPPORTED
    elif interval[1] <= delta:
        verdict = FALSIFIED
    return Outcome(
        verdict,
        falsification_rate(on_high, on_low),
        margin,
        interval,
        margin <= delta,
        high,
        low,
        float(on_high.mean()),
        float(on_low.mean()),
    )


def falsifiable(
    mean_high: float,
    mean_low: float,
    tau_high: float = 0.75,
    tau_low: float = 0.55,
    epsilon: float = 0.15,
) -> bool:
    """The published criterion on mean angles, radians: high > tau_high, low < tau_low, tau's apart.

    Args:
        epsilon: tau_high must exceed tau_low by more.
    """
    return tau_high > tau_low + epsilon and mean_high > tau_high and mean_low < tau_low
