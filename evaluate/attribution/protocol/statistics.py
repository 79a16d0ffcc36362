"""Is one method's pass rate better than another's on the same pairs?

All methods explain the same pairs, so the tests are paired: Cochran's Q over all, McNemar's exact
test between two with Holm's correction, Wilcoxon's signed ranks for rates. Pairs share identities;
the differences have intervals of a bootstrap over identities. The chi-square test that earlier work
printed takes the methods for separate samples; it is here under that label, for comparison only.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.metrics.bootstrap import PairWeights, interval, replicate
from faceguide.evaluate.metrics.paired_tests import holm, mcnemar


def cochran_q(passed: NDArray[np.bool_]) -> dict[str, Any] | None:
    """Cochran's Q over N pairs and k methods (Cochran, 1950).

    Args:
        passed: (N, k).

    Returns:
        `q`, `degrees`, `p`, `n`; None with fewer than two methods. Without any pair on which two
        methods differ, Q is 0.
    """
    from scipy.stats import chi2

    n, k = passed.shape
    if k < 2:
        return None
    columns, rows = passed.sum(0).astype(float), passed.sum(1).astype(float)
    spread = float((rows * (k - rows)).sum())
    if spread == 0:
        return {"q": 0.0, "degrees": k - 1, "p": 1.0, "n": n}
    q = (k - 1) * float(k * (columns**2).sum() - columns.sum() ** 2) / spread
    return {"q": q, "degrees": k - 1, "p": float(chi2.sf(q, k - 1)), "n": n}


def chi_square(passed: NDArray[np.bool_]) -> dict[str, Any] | None:
    """Pearson's test of the 2×k table as if every method had pairs of its own.

    Returns:
        `chi2`, `degrees`, `p`, `n`, `least_expected`, `label`; None when a margin is empty.
    """
    from scipy.stats import chi2_contingency

    table = np.stack([passed.sum(0), (~passed).sum(0)])
    if passed.shape[1] < 2 or (table.sum(1) == 0).any():
        return None
    found = chi2_contingency(table, correction=False)
    return {
        "chi2": float(found.statistic),
        "degrees": int(found.dof),
        "p": float(found.pvalue),
        "n": len(passed),
        "least_expected": float(found.expected_freq.min()),
        "label": "unpaired, for comparability: the assumption of separate samples is violated",
    }


def wilcoxon(first: NDArray[np.float64], second: NDArray[np.float64]) -> dict[str, Any]:
    """Wilcoxon's signed-rank test of two rates on the pairs where both were tested."""
    from scipy.stats import wilcoxon as signed_ranks

    both = np.isfinite(first) & np.isfinite(second)
    change = (first - second)[both]
    if not (change != 0).any():
        return {"p": 1.0 if both.any() else None, "n": int(both.sum())}
    return {"p": float(signed_ranks(change).pvalue), "n": int(both.sum())}


def compare(
    passed: Mapping[str, NDArray[np.bool_]],
    rates: Mapping[str, NDArray[np.float64]],
    people: NDArray[np.int64],
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """All tests between methods.

    Args:
        passed: method → (N,) whether its map was tested and not falsified; a uniform or failed
            map has not passed, so no pair is missing.
        rates: method → (N,) rates, NaN when untested.
        people: (N, 2) identities.
        replicates: of the bootstrap over identities; 0 = no intervals.

    Returns:
        `cochran_q`, `chi_square`, and `pairwise`: per two methods the discordant pairs, p and
        Holm's p of McNemar's test, the difference of the pass rates with its interval, and the
        signed-rank test of the rates.
    """
    names = list(passed)
    if not names:
        return {"cochran_q": None, "chi_square": None, "pairwise": []}
    joint = np.stack([passed[name] for name in names], axis=1)
    weights = PairWeights(people)

    def pass_rates(counts: NDArray[np.int32]) -> NDArray[np.float64]:
        weight = weights(counts).astype(float)
        found: NDArray[np.float64] = weight @ joint / max(weight.sum(), 1.0)
        return found

    drawn = replicate(pass_rates, int(people.max()) + 1, replicates, seed) if replicates else None
    pairwise: list[dict[str, Any]] = []
    for a, b in itertools.combinations(range(len(names)), 2):
        only_first, only_second, p = mcnemar(joint[:, a], joint[:, b])
        ranks = wilcoxon(rates[names[a]], rates[names[b]])
        pairwise.append(
            {
                "first": names[a],
                "second": names[b],
                "n": len(joint),
                "only_first_passes": only_first,
                "only_second_passes": only_second,
                "p": p,
                "difference": float(joint[:, a].mean() - joint[:, b].mean()),
                "interval": None if drawn is None else interval(drawn[:, a] - drawn[:, b]),
                "wilcoxon_p": ranks["p"],
                "wilcoxon_n": ranks["n"],
            }
        )
    for record, p in zip(pairwise, holm([record["p"] for record in pairwise]), strict=True):
        record["p_holm"] = p
    return {
        "cochran_q": cochran_q(joint),
        "chi_square": chi_square(joint),
        "pairwise": pairwise,
    }
