"""Errors of groups at one threshold: rates, their ratio, and tests between every two groups.

FMR is the share of pairs of two identities that are accepted, FNMR that of pairs of one identity
that are rejected (ISO/IEC 19795-1). Intervals resample identities and keep the threshold.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.decisions.pair_groups import BETWEEN, UNKNOWN, PairGroups
from faceguide.evaluate.metrics.bootstrap import (
    LEVEL,
    PairWeights,
    interval,
    rate_interval,
    replicate,
)
from faceguide.evaluate.metrics.paired_tests import holm
from faceguide.evaluate.metrics.strata import LEAST

KINDS = ("fnmr", "fmr")  # of pairs of one identity, of two
_LEAST_ERRORS = 10  # of both groups together, or a test says nothing
_NAMES = {BETWEEN: "between groups", UNKNOWN: "unknown"}

Values = NDArray[np.float64]


def group_rates(
    score: NDArray[np.floating],
    same: NDArray[np.bool_],
    people: NDArray[np.int64],
    groups: PairGroups,
    threshold: float,
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """FMR and FNMR of every group at one threshold.

    Args:
        score: (N,) accepted from `threshold` on.
        same: (N,) pairs of one identity.
        people: (N, 2) identities, numbered from 0 without gaps.
        replicates: of the bootstrap, 1 or more.

    Returns:
        `groups`, in the order of their names, each with `fmr` and `fnmr`: `n` pairs, `identities`,
        `errors`, `rate` and `interval`, both None below 20 pairs; `all` and, where there are such
        pairs, `rest`, pairs between groups or of unknown ones, in the same form; `ratios` and
        `tests` by kind.
    """
    codes = [place for place in range(len(groups.names)) if (groups.code == place).any()]
    rest = [code for code in _NAMES if (groups.code == code).any()]
    order = [*codes, *rest]
    place = _places(order, groups.code)
    column = 2 * place + ~same  # of the statistic: FNMR, then FMR of each group
    wrong = (score >= threshold) != same
    width = 2 * len(order)
    weigh = PairWeights(people)

    def rates(counts: NDArray[np.int32]) -> Values:
        """(width + 2,): those of each group, and of all pairs."""
        weights = weigh(counts).astype(np.float64)
        total = np.bincount(column, weights, width).reshape(-1, 2)
        errors = np.bincount(column, weights * wrong, width).reshape(-1, 2)
        total, errors = np.vstack([total, total.sum(0)]), np.vstack([errors, errors.sum(0)])
        with np.errstate(invalid="ignore"):
            return (errors / total).ravel()

    drawn = replicate(rates, int(people.max()) + 1, replicates, seed)

    def described(number: int) -> dict[str, Any]:
        chosen = np.ones(len(same), bool) if number == len(order) else place == number
        return {
            kind: _rate(
                wrong[chosen & (same == (kind == "fnmr"))],
                people[chosen & (same == (kind == "fnmr"))],
                drawn[:, 2 * number + offset],
            )
            for offset, kind in enumerate(KINDS)
        }

    found = [
        {"group": groups.names[code], **described(number)} for number, code in enumerate(codes)
    ]
    others = [
        {"group": _NAMES[code], **described(len(codes) + number)}
        for number, code in enumerate(rest)
    ]
    return {
        "threshold": threshold,
        "pairs": len(same),
        "identities": int(people.max()) + 1,
        "groups": found,
        "rest": others,
        "all": {"group": "all pairs", **described(len(order))},
        "ratios": {
            kind: _ratio(found, kind, drawn[:, offset::2]) for offset, kind in enumerate(KINDS)
        },
        "tests": _tests(found, drawn),
    }


def _places(order: list[int], code: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) place of each code in `order`."""
    table = np.zeros(max(order) - UNKNOWN + 1, np.int64)
    for place, value in enumerate(order):
        table[value - UNKNOWN] = place
    return table[code - UNKNOWN]


def _rate(wrong: NDArray[np.bool_], people: NDArray[np.int64], drawn: Values) -> dict[str, Any]:
    n, errors, identities = len(wrong), int(wrong.sum()), len(np.unique(people))
    record: dict[str, Any] = {"n": n, "identities": identities, "errors": errors}
    if n < LEAST:
        return {**record, "rate": None, "interval": None}
    return {**record, "rate": errors / n, "interval": rate_interval(wrong, people, drawn)}


def _ratio(groups: list[dict[str, Any]], kind: str, drawn: Values) -> dict[str, Any] | None:
    """The highest rate over the lowest, of the groups that are these as observed; None for one."""
    rates = {number: group[kind]["rate"] for number, group in enumerate(groups)}
    known = {number: rate for number, rate in rates.items() if rate is not None}
    if len(known) < 2:
        return None
    high, low = max(known, key=known.__getitem__), min(known, key=known.__getitem__)
    record: dict[str, Any] = {"highest": groups[high]["group"], "lowest": groups[low]["group"]}
    if not known[low]:
        return {**record, "ratio": None, "interval": None}
    usable = (drawn[:, high] > 0) | (drawn[:, low] > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = drawn[usable, high] / drawn[usable, low]
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    ends = np.quantile(values[~np.isnan(values)], tails, method="nearest").tolist()
    # None above: in too many resamples the lower rate is 0.
    shown = [end if math.isfinite(end) else None for end in ends]
    return {**record, "ratio": known[high] / known[low], "interval": shown}


def _tests(groups: list[dict[str, Any]], drawn: Values) -> list[dict[str, Any]]:
    """Every two groups: a normal test of the difference by its deviation over the resamples."""
    records = []
    for (offset, kind), (a, b) in itertools.product(
        enumerate(KINDS), itertools.combinations(range(len(groups)), 2)
    ):
        first, second = groups[a][kind], groups[b][kind]
        record = {"kind": kind, "first": groups[a]["group"], "second": groups[b]["group"]}
        record |= {"difference": None, "interval": None, "p": None, "p_holm": None}
        if None not in (first["rate"], second["rate"]):
            between = drawn[:, 2 * a + offset] - drawn[:, 2 * b + offset]
            record["difference"] = first["rate"] - second["rate"]
            record["interval"] = interval(between)
            deviation = float(np.nanstd(between))
            if first["errors"] + second["errors"] >= _LEAST_ERRORS and deviation > 0:
                record["p"] = math.erfc(abs(record["difference"]) / deviation / math.sqrt(2))
        records.append(record)
    tested = [record for record in records if record["p"] is not None]
    for record, p in zip(tested, holm([record["p"] for record in tested]), strict=True):
        record["p_holm"] = p
    return records
