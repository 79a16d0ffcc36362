"""Do outcomes of pairs depend on what the pairs are like? A rank regression without bins.

Outcome and covariate are ranked within genuine and within impostor pairs, so that a covariate is
not credited with what the kind of a pair does; the effect ρ is the correlation of the ranks
(Spearman's, with the label as second regressor). It needs no model of the shape and no bins, holds
for outcomes of yes and no too, and a few extreme pairs do not decide it. Intervals and p-values
come from resampling identities, since an identity's pairs are alike. Benjamini and Hochberg's
correction runs over the whole table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.attribution.why.covariates import Covariates
from faceguide.evaluate.metrics.bootstrap import PairWeights, draw_counts, interval

LEAST = 20  # pairs with both values
EITHER = 5  # pairs of yes and of no
_AT_ONCE = 1 << 22  # weights in memory


@dataclass(frozen=True)
class Outcome:
    """One outcome of one method.

    Attributes:
        method: its name.
        name: "uniform", "skill", "told_apart" or "told".
        values: (N,) float, 0 or 1 for yes and no; NaN where there is none.
    """

    method: str
    name: str
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Question:
    """What is asked of N pairs: which of these outcomes depends on which covariate?"""

    outcomes: list[Outcome]
    covariates: Covariates


@dataclass(frozen=True)
class _Test:
    """Ranks of the pairs that have both values, 0 to 1 within their kind."""

    places: NDArray[np.int64]
    kinds: NDArray[np.int64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    def effects(self, weights: NDArray[np.floating]) -> NDArray[np.float64]:
        """(R,) weighted correlation of the ranks within the kinds, of weights (R, N)."""
        product = first = second = np.zeros(len(weights))
        for kind in np.unique(self.kinds):
            here = self.kinds == kind
            a, b, weight = self.first[here], self.second[here], weights[:, self.places[here]]
            sums = weight @ np.stack([np.ones_like(a), a, b, a * b, a * a, b * b], 1)
            total = np.maximum(sums[:, 0], 1e-12)
            product = product + sums[:, 3] - sums[:, 1] * sums[:, 2] / total
            first = first + sums[:, 4] - sums[:, 1] ** 2 / total
            second = second + sums[:, 5] - sums[:, 2] ** 2 / total
        # Below is rounding: one of the two does not vary in this replicate.
        varies = (first > 1e-9) & (second > 1e-9)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(varies, product / np.sqrt(first * second), np.nan)


def _prepared(
    outcome: NDArray[np.float64], covariate: NDArray[np.float64], kinds: NDArray[np.int64]
) -> _Test | str:
    """The ranks, or why there is no test."""
    from scipy.stats import rankdata

    if not np.isfinite(covariate).any():
        return "the cache does not know it"
    places = np.flatnonzero(np.isfinite(outcome) & np.isfinite(covariate))
    values, other, kind = outcome[places], covariate[places], kinds[places]
    if len(places) < LEAST:
        return f"{len(places)} pairs have both values, {LEAST} are needed"
    if np.isin(values, (0.0, 1.0)).all():
        yes = int(values.sum())
        if min(yes, len(values) - yes) < EITHER:
            return f"{yes} of {len(values)} are: {EITHER} of either kind are needed"
    first, second = np.empty(len(places)), np.empty(len(places))
    for one in np.unique(kind):
        here = kind == one
        first[here] = (rankdata(values[here]) - 0.5) / here.sum()
        second[here] = (rankdata(other[here]) - 0.5) / here.sum()
    test = _Test(places, kind, first, second)
    if not np.isfinite(test.effects(np.ones((1, len(outcome))))[0]):
        return "all pairs of a kind are alike"
    return test


def _medians(outcome: NDArray[np.float64], covariate: NDArray[np.float64]) -> list[float]:
    """Of the covariate, where the outcome is low (no) and where it is high (yes)."""
    both = np.isfinite(outcome) & np.isfinite(covariate)
    values, other = outcome[both], covariate[both]
    middle = 0.5 if np.isin(values, (0.0, 1.0)).all() else float(np.median(values))
    high = values > middle
    return [float(np.median(other[some])) for some in (~high, high) if some.any()]


def _p_value(effect: float, drawn: NDArray[np.float64], identities: int) -> float | None:
    """Two-sided, of Fisher's z over its deviation between replicates, by Student's t."""
    from scipy.stats import t

    finite = drawn[np.isfinite(drawn)]
    if len(finite) < 0.5 * len(drawn):
        return None
    inside = np.nextafter(1.0, 0.0)
    turned = np.arctanh(np.clip(finite, -inside, inside))
    spread = float(turned.std(ddof=1))
    if spread == 0 or identities < 4:
        return None
    value = np.arctanh(np.clip(effect, -inside, inside)) / spread
    return float(2 * t.sf(abs(value), identities - 2))


def dependences(
    question: Question, people: NDArray[np.int64], replicates: int, seed: int
) -> list[dict[str, Any]]:
    """Test every outcome against every covariate.

    Args:
        people: (N, 2) identities of the pairs, numbered from 0.
        replicates: of the bootstrap over identities; 0 = effects only.

    Returns:
        One record each, none left out: `method`, `outcome`, `covariate`, `n`, `effect` (ρ, −1 to
        1; above 0: more of the outcome where the covariate is larger), `interval`, `p`, `p_bh`,
        `medians` (of the covariate, where the outcome is low or no, and where it is high or yes),
        and `reason` where there is no test.
    """
    from scipy.stats import false_discovery_control

    blank = np.zeros(len(people), np.int64)
    covariates = question.covariates
    records: list[dict[str, Any]] = []
    tests: dict[int, _Test] = {}
    for outcome in question.outcomes:
        for name, values in covariates.tested.items():
            kinds = blank if covariates.kind is None or name == "label" else covariates.kind
            found = _prepared(outcome.values, values, kinds)
            record: dict[str, Any] = {
                "method": outcome.method,
                "outcome": outcome.name,
                "covariate": name,
                "n": int((np.isfinite(outcome.values) & np.isfinite(values)).sum()),
                **dict.fromkeys(("effect", "interval", "p", "p_bh", "medians", "reason")),
            }
            if isinstance(found, str):
                record["reason"] = found
            else:
                tests[len(records)] = found
                record["medians"] = _medians(outcome.values, values)
            records.append(record)
    drawn = _resampled(tests, people, replicates, seed)
    identities = len(np.unique(people))
    for place, test in tests.items():
        record = records[place]
        record["effect"] = float(test.effects(np.ones((1, len(people))))[0])
        if not replicates:
            record["reason"] = "no test without --bootstrap"
            continue
        record["interval"] = interval(drawn[place])
        record["p"] = _p_value(record["effect"], drawn[place], identities)
        if record["p"] is None:
            record["reason"] = "too few identities decide it"
    known = [record for record in records if record["p"] is not None]
    if known:
        corrected = false_discovery_control([record["p"] for record in known])
        for record, p in zip(known, corrected, strict=True):
            record["p_bh"] = float(p)
    return records


def _resampled(
    tests: Mapping[int, _Test], people: NDArray[np.int64], replicates: int, seed: int
) -> dict[int, NDArray[np.float64]]:
    """Key of the test → (R,) its effect over resampled identities."""
    weigh, identities = PairWeights(people), int(people.max()) + 1
    step = max(_AT_ONCE // max(len(people), 1), 1)
    parts: dict[int, list[NDArray[np.float64]]] = {place: [] for place in tests}
    for start in range(0, replicates, step) if tests else ():
        numbers = range(start, min(start + step, replicates))
        drawn = np.stack([weigh(draw_counts(identities, seed, one)) for one in numbers])
        weights = drawn.astype(np.float64)
        for place, test in tests.items():
            parts[place].append(test.effects(weights))
    return {place: np.concatenate(some) for place, some in parts.items() if some}
