"""Does the network tell the pairs apart at all? Maps of scores that say nothing explain nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.pairs.pair_rows import PairRows, clusters
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.doubts import Doubts
from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.methods.described import BATCH, described
from faceguide.evaluate.attribution.methods.target import PairScore
from faceguide.evaluate.metrics.bootstrap import PairWeights, interval, replicate
from faceguide.evaluate.metrics.roc import measure, rank

SAMPLE = 40  # pairs of either kind that are scored
_AGAIN = 8  # pairs that are scored a second time, image by image
_LEAST = 10  # pairs of either kind for an AUC that is judged
# Lower bound of the AUC. A random head on trained features has .87, random weights .71 at most.
LEAST_AUC = 0.9
# Standard deviation of the scores as a share of the largest: 7e-8 to 5e-5 with the random weights
# of MobileFaceNet and Inception-ResNet, above 0.05 for trained networks.
_LEAST_SPREAD, _CLEAR_AUC = 1e-3, 0.95
_ROUNDING = 2.0**-22  # of a float32 score, as a share of the largest
_OF_NOISE = 10  # an effect below so many times the noise is noise


def look(
    score: PairScore,
    cache: FaceCache,
    rows: PairRows,
    seed: int,
    workers: int = 1,
) -> dict[str, Any]:
    """`judge` of a sample of the pairs, at least one, a part of which is scored twice.

    Args:
        workers: threads that each work at one batch.

    Raises:
        AttributionError: for a score that is not finite.
    """
    mixed = np.random.default_rng(seed).permutation(len(rows))
    kinds = [mixed[rows.same[mixed] == kind][:SAMPLE] for kind in (True, False)]
    places = np.sort(np.concatenate(kinds))
    scores = _scores(score, cache, rows, places, BATCH, workers)
    again = _scores(score, cache, rows, places[:_AGAIN], 1, workers)
    if not np.isfinite([*scores, *again]).all():
        raise AttributionError(
            "the network gives scores that are not finite; are these the wrong weights for it?"
        )
    noise = noise_of(scores[: len(again)], again)
    people, _ = clusters(cache, *(some[places] for some in (rows.probe, rows.reference, rows.same)))
    return judge(scores, rows.same[places], noise, people, seed)


def noise_of(scores: NDArray[np.float64], again: NDArray[np.float64]) -> float:
    """Largest difference between two computations of scores, at least the rounding of float32."""
    return max(float(np.abs(scores - again).max()), _ROUNDING * float(np.abs(scores).max()))


def _scores(
    score: PairScore,
    cache: FaceCache,
    rows: PairRows,
    places: NDArray[np.int64],
    batch: int,
    workers: int,
) -> NDArray[np.float64]:
    used, at = np.unique(
        np.stack([rows.probe[places], rows.reference[places]]), return_inverse=True
    )
    parts = described(score, cache, used, workers, batch)
    sides = [tuple(part[side] for part in parts) for side in at.reshape(2, -1)]
    return score.compare(*sides).double().cpu().numpy()


def _auc_interval(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    people: NDArray[np.int64],
    seed: int,
) -> list[float] | None:
    """95 % interval of the AUC of scores (N,) over identities (N, 2)."""
    ranking = rank(scores, same)
    genuine, impostor = (PairWeights(people[at]) for at in (ranking.genuine, ranking.impostor))

    def auc(counts: NDArray[np.int32]) -> NDArray[np.float64]:
        weights = genuine(counts), impostor(counts)
        if not (weights[0].any() and weights[1].any()):
            return np.array([np.nan])
        return np.array([measure(ranking, (), *weights).auc])

    return interval(replicate(auc, int(people.max()) + 1, seed=seed)[:, 0])


def judge(
    scores: NDArray[np.float64],
    same: NDArray[np.bool_],
    noise: float,
    people: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What the scores (N,) of pairs of known kind (N,) say of the network, as results.json has it.

    Args:
        noise: see `noise_of`.
        people: (N, 2) identities; None = every pair has its own.

    Returns:
        `genuine` and `impostors`, numbers of pairs, and `mean_genuine` and `mean_impostor` of their
        scores, None without any; `lowest`, `highest` and `spread` (standard deviation) of all;
        `auc` and `auc_interval`, None without both kinds; `exchange` and `exchange_interval`, None,
        since no face is composed; `noise`; and `separates`, whether the scores differ, and
        with the kind of the pair, None for too few pairs.
    """
    genuine, impostor = scores[same], scores[~same]
    auc = float(measure(rank(scores, same)).auc) if len(genuine) and len(impostor) else None
    around = None
    if auc is not None:
        if people is None:
            people = np.arange(2 * len(same)).reshape(-1, 2)
        around = _auc_interval(scores, same, people, seed)
    spread = float(scores.std())
    separates: bool | None = None
    if len(scores) >= 4:
        close = spread < _LEAST_SPREAD * float(np.abs(scores).max())
        separates = not (close and (auc is None or auc < _CLEAR_AUC))
        if around is not None and min(len(genuine), len(impostor)) >= _LEAST:
            separates = separates and around[0] >= LEAST_AUC
    return {
        "genuine": len(genuine),
        "impostors": len(impostor),
        "mean_genuine": float(genuine.mean()) if len(genuine) else None,
        "mean_impostor": float(impostor.mean()) if len(impostor) else None,
        "lowest": float(scores.min()),
        "highest": float(scores.max()),
        "spread": spread,
        "auc": auc,
        "auc_interval": around,
        "exchange": None,
        "exchange_interval": None,
        "noise": noise,
        "separates": separates,
    }


def sentence(found: Mapping[str, Any]) -> str | None:
    """The first line of a report on a network that does not separate its pairs; else None."""
    if found["separates"] is not False:
        return None
    text = "This network does not separate these identities, so its maps explain nothing: "
    if found["auc"] is not None:
        text += f"AUC {found['auc']:.3f} "
    if found["auc_interval"] is not None:
        text += f"[{found['auc_interval'][0]:.3f}, {found['auc_interval'][1]:.3f}] "
    low, high = found["lowest"], found["highest"]
    digits = 4 if high - low >= 1e-3 else 7
    text += (
        f"over {found['genuine']} pairs of one identity and {found['impostors']} of two, "
        f"scores from {low:.{digits}f} to {high:.{digits}f}"
    )
    if found["exchange"] is not None:
        ends = "[{:.2f}, {:.2f}]".format(*found["exchange_interval"])
        text += (
            f"; exchanging a part moves scores by {found['exchange']:.2f} {ends} deviations. "
            f"Wanted: lower bounds of {LEAST_AUC:.2f} and 1.00"
        )
    return text


def with_effects(
    found: Mapping[str, Any], clean: NDArray[np.floating], masked: NDArray[np.floating]
) -> dict[str, Any]:
    """The record with the size of the effects next to the noise.

    Args:
        found: from `judge`.
        clean: (N,) scores of the pairs that are explained.
        masked: (N, 49, R) the same with one cell replaced.

    Returns:
        With `median_effect`, the median over pairs of the largest change of the score, and
        `effects_within_noise`, the number of pairs whose largest change is no more than ten times
        the noise.
    """
    largest = np.abs(masked - clean[:, None, None]).max((1, 2))
    return {
        **found,
        "median_effect": float(np.median(largest)),
        "effects_within_noise": int((largest <= _OF_NOISE * found["noise"]).sum()),
    }


def other_doubts(counts: Mapping[str, int]) -> Doubts:
    """Those of a record but for the network, which `sentence` has."""
    return Doubts.of({k: n for k, n in counts.items() if k != "network_does_not_separate"})


def doubts_of(found: Mapping[str, Any]) -> Doubts:
    """What is doubtful about the network, of a record with or without effects."""
    doubts = Doubts()
    if (text := sentence(found)) is not None:
        doubts.add("network_does_not_separate", text, found["genuine"] + found["impostors"])
    doubts.add("unscored_chimeras", count=found.get("unscored", 0))
    doubts.add("effects_within_noise", count=found.get("effects_within_noise", 0))
    return doubts
