"""How well one list of pairs is separated, and what its odds cost: EER, FMR100, FMR1000, Cllr."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.decisions.transfer import RankedPairs
from faceguide.evaluate.metrics.bootstrap import interval, repeat
from faceguide.evaluate.metrics.cllr import cllr, min_cllr
from faceguide.evaluate.metrics.roc import measure, tar_cells

# FMR100 is the FNMR at the strictest threshold whose FMR is at most 1 in 100, and so on.
_FMRS = {"fmr100": 1e-2, "fmr1000": 1e-3}
FIGURES = ("eer", *_FMRS, "cllr")


def set_figures(
    pairs: RankedPairs,
    llr: NDArray[np.floating],
    same: NDArray[np.bool_],
    replicates: int,
    seed: int,
) -> dict[str, Any]:
    """`FIGURES` of a list of pairs, with `intervals` that resample identities, and `min_cllr`.

    A figure whose FMR expects fewer than ten false matches is None. `min_cllr` has no interval: a
    resample repeats pairs, which isotonic regression fits better than new ones.

    Args:
        llr: (N,) log-likelihood ratios of the pairs.
        same: (N,) pairs of one identity.
    """
    ranking = pairs.ranking

    def one(number: int | None) -> NDArray[np.float64]:
        genuine, impostor = (None, None) if number is None else pairs.weights(seed, number)
        weights = None
        if genuine is not None and impostor is not None:
            weights = np.empty(len(same), np.int64)
            weights[ranking.genuine], weights[ranking.impostor] = genuine, impostor
        found = measure(ranking, tuple(_FMRS.values()), genuine, impostor)
        return np.array([found.eer, *(1 - found.tar), cllr(llr, same, weights)])

    values, drawn = one(None), repeat(one, replicates)
    refused = {
        name for (name, fmr) in _FMRS.items() if tar_cells(ranking, (fmr,))[0].refused is not None
    }
    record: dict[str, Any] = {"genuine": len(ranking.genuine), "impostors": len(ranking.impostor)}
    record["identities"] = int(pairs.people.max()) + 1
    ends = {}
    for place, name in enumerate(FIGURES):
        record[name] = None if name in refused else float(values[place])
        ends[name] = None if name in refused else interval(drawn[:, place])
    return {**record, "min_cllr": min_cllr(llr, same), "intervals": ends}
