"""From the tables and the maps of a run to the figures of each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.attribution.attribution_options import Options
from faceguide.evaluate.attribution.protocol import diagnosis, matched
from faceguide.evaluate.attribution.protocol.diagnosis import Limits
from faceguide.evaluate.attribution.protocol.matched import Outcome
from faceguide.evaluate.metrics.bootstrap import PairWeights, interval, replicate
from faceguide.evaluate.metrics.strata import wilson

# What each figure means and which way is better; printed next to it wherever it is shown.
DIRECTIONS = {
    "skill_genuine": "higher is better; 0 = the same for all pairs",
    "skill_impostor": "higher is better; 0 = the same for all pairs",
    "unsigned_skill_genuine": "higher is better; compare with the control `angle`",
    "unsigned_skill_impostor": "higher is better; compare with the control `angle`",
    "reference_contrast": "higher is better; 0 = blind to the reference",
    "pass_rate": "higher is better",
    "verdict_fr": "lower is better",
    "mean_fr": "lower is better; 0.5 is chance",
    "mean_fr_embedding": "lower is better; 0.5 is chance",
    "uniform_share": "lower is better",
    "completeness_error": "lower is better; null where the method promises none",
    "quadrature_error": "lower is better; before closing, null where nothing is closed",
    "deletion": "lower is better",
    "insertion": "higher is better",
    "srg": "higher is better",
    "sensitivity": "lower is better",
    "infidelity": "lower is better; 1 = a map of zeros",
    "randomisation": "lower is better",
    "swap": "higher is better; 0 = blind to the pair",
}


@dataclass(frozen=True)
class Judged:
    """One method over all pairs.

    Attributes:
        outcomes: N, by the pair response (or the rule of `threshold`).
        causes: N, why a map claims nothing, or None.
        embedding_rate: (N,) rate by the embedding response, NaN when untested.
        falsifiable: (N,) the tau/epsilon criterion on the embedding response.
    """

    outcomes: list[Outcome]
    causes: list[str | None]
    embedding_rate: NDArray[np.float64]
    falsifiable: NDArray[np.bool_]

    @property
    def passed(self) -> NDArray[np.bool_]:
        """(N,) tested and not falsified."""
        return np.array([outcome.falsified is False for outcome in self.outcomes])

    @property
    def rate(self) -> NDArray[np.float64]:
        """(N,) rate, NaN when untested."""
        return np.array([np.nan if o.rate is None else o.rate for o in self.outcomes], float)


def find_causes(
    maps: dict[str, NDArray[Any]], numbers: Sequence[int], seed: int, scale: float = 1.0
) -> list[str | None]:
    """Why each map claims nothing, or None; with all limits times `scale`."""
    limits = Limits().scaled(scale)
    typical = diagnosis.typical_energy(maps["energy"])
    causes: list[str | None] = []
    for place, number in enumerate(numbers):
        if maps["error"][place].any():
            causes.append("error")
            continue
        cells, energy = maps["cells"][place], float(maps["energy"][place])
        causes.append(
            diagnosis.cause_of(cells, energy, typical, pair=int(number), seed=seed, limits=limits)
        )
    return causes


def judge(
    maps: dict[str, NDArray[Any]],
    table: dict[str, NDArray[Any]],
    numbers: Sequence[int],
    options: Options,
    delta: float,
) -> Judged:
    """Test every map of a method; as many outcomes as pairs.

    Args:
        maps: columns of the method.
        table: `clean`, `masked`, `angle` of the same pairs.
        delta: margin that a claim must exceed.
    """
    seed, taus = options.seed, (options.tau_high, options.tau_low, options.epsilon)
    causes = find_causes(maps, numbers, seed)
    responses = np.abs(table["masked"] - table["clean"][:, None, None])
    has_angle = bool(np.isfinite(table["angle"]).all())
    outcomes, rates, falsifiable = [], [], []
    for place, number in enumerate(numbers):
        cells = maps["cells"][place]
        outcome = matched.judge_map(
            cells, responses[place], pair=int(number), seed=seed, delta=delta, cause=causes[place]
        )
        rate, holds = np.nan, False
        if has_angle and outcome.rate is not None:
            angle = table["angle"][place]
            high, low = angle[outcome.high], angle[outcome.low]
            rate = matched.falsification_rate(high, low)
            holds = matched.falsifiable(float(high.mean()), float(low.mean()), *taus)
        if "threshold" in maps:
            outcome = _by_threshold(outcome, maps["threshold"][place])
            on_high, on_low = outcome.mean_high, outcome.mean_low
            holds = (
                on_high is not None
                and on_low is not None
                and matched.falsifiable(on_high, on_low, *taus)
            )
        outcomes.append(outcome)
        rates.append(rate)
        falsifiable.append(holds)
    return Judged(outcomes, causes, np.array(rates), np.array(falsifiable, bool))


def _by_threshold(outcome: Outcome, row: NDArray[np.float64]) -> Outcome:
    """The outcome of the earlier rule in the same form; an untestable map counts as uniform."""
    rate, falsified, high, low = row[:4].tolist()
    if np.isnan(rate):
        verdict = matched.ERROR if outcome.verdict == matched.ERROR else matched.UNIFORM
        return matched.untested(verdict, len(outcome.high))
    return replace(
        outcome,
        verdict=matched.FALSIFIED if falsified else matched.SUPPORTED,
        rate=rate, margin=high - low, interval=None, falsified=bool(falsified),
        mean_high=high, mean_low=low,
    )  # fmt: skip


def mean_interval(
    values: NDArray[np.float64], people: NDArray[np.int64], replicates: int, seed: int
) -> dict[str, Any]:
    """Mean of the finite values with its n and the interval of a bootstrap over identities."""
    finite = np.isfinite(values)
    if not finite.any():
        return {"mean": None, "n": 0, "interval": None}
    record: dict[str, Any] = {
        "mean": float(values[finite].mean()),
        "n": int(finite.sum()),
        "interval": None,
    }
    if replicates:
        weights, numbers = PairWeights(people), np.where(finite, values, 0.0)

        def statistic(counts: NDArray[np.int32]) -> NDArray[np.float64]:
            weight = weights(counts) * finite
            total = weight.sum()
            return np.array([(weight * numbers).sum() / total if total else np.nan])

        drawn = replicate(statistic, int(people.max()) + 1, replicates, seed)
        record["interval"] = interval(drawn[:, 0])
    return record


def summarise(
    judged: Judged,
    maps: dict[str, NDArray[Any]],
    people: NDArray[np.int64],
    numbers: Sequence[int],
    options: Options,
) -> dict[str, Any]:
    """The record of a method in results.json; see docs/attribution.md for every field."""
    n, seed = len(judged.outcomes), options.seed

    def mean(values: NDArray[np.float64]) -> dict[str, Any]:
        return mean_interval(values, people, options.replicates, seed)

    tested = sum(outcome.falsified is not None for outcome in judged.outcomes)
    falsified = sum(outcome.falsified is True for outcome in judged.outcomes)
    verdicts = {
        name: sum(outcome.verdict == name for outcome in judged.outcomes)
        for name in matched.VERDICTS
    }
    rate = mean(judged.rate)
    embedding = mean(judged.embedding_rate)
    passed = mean(judged.passed.astype(float))
    rates = judged.rate[np.isfinite(judged.rate)]
    uniform = verdicts[matched.UNIFORM]
    variations = [diagnosis.variation(cells) for cells in maps["cells"] if np.isfinite(cells).all()]
    finite = [value for value in variations if np.isfinite(value)]
    record: dict[str, Any] = {
        "n": n,
        "n_tested": tested,
        "uniform_share": uniform / n,
        "uniform_interval": wilson(uniform, n),
        "verdict_fr": falsified / tested if tested else None,
        "verdict_fr_interval": wilson(falsified, tested),
        "pass_rate": (tested - falsified) / n,
        "pass_rate_interval": wilson(tested - falsified, n),
        "pass_rate_cluster_interval": passed["interval"],
        "bounds": [falsified / n, (falsified + n - tested) / n],
        "mean_fr": rate["mean"],
        "mean_fr_interval": rate["interval"],
        "mean_fr_embedding": embedding["mean"],
        "mean_fr_embedding_interval": embedding["interval"],
        "mean_fr_embedding_n": embedding["n"],
        "verdicts": verdicts,
        "falsifiable": {"count": int(judged.falsifiable.sum()), "n": n},
        "rate_histogram": {
            "zero": int((rates == 0).sum()),
            "between": int(((rates > 0) & (rates < 1)).sum()),
            "one": int((rates == 1).sum()),
        },
        "causes": diagnosis.summary(judged.causes),
        "uniform_share_at": {
            name: sum(
                cause not in (None, "error") for cause in find_causes(maps, numbers, seed, factor)
            )
            / n
            for name, factor in (("half_limits", 0.5), ("double_limits", 2.0))
        },
        "variation_quartiles": [float(q) for q in np.quantile(finite, [0.25, 0.5, 0.75])]
        if finite
        else None,
        "variation_n": len(finite),
        "completeness_error": errors_of(maps["completeness"]),
        "quadrature_error": errors_of(maps["quadrature"]),
        "measures": {name: mean(maps[name]) for name in options.measures},
    }
    if "threshold" in maps:
        areas = maps["threshold"][:, 4:6]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = areas[:, 0] / areas[:, 1]
        fair = (ratio >= 0.5) & (ratio <= 2.0)
        record["threshold"] = {
            "dropped_by_the_earlier_rule": n - tested,
            "median_area_high": float(np.nanmedian(areas[:, 0])),
            "median_area_low": float(np.nanmedian(areas[:, 1])),
            "areas_within_a_factor_of_two": int(fair.sum()),
            "warning": None
            if not tested or fair.sum() > 0.5 * tested
            else "the two regions differ in area by more than a factor of two for most maps: the "
            "rate measures area",
        }
    return record


def errors_of(values: NDArray[np.float64]) -> dict[str, Any] | None:
    """Median, largest, share within 1 % and number of the errors (N,) that there are."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return None
    return {
        "median": float(np.median(finite)),
        "largest": float(finite.max()),
        "within_1_percent": float((finite <= 0.01).mean()),
        "n": len(finite),
    }
