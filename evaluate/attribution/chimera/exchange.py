"""Does the network tell the identities of the chimeras apart, and does it see the exchange?

A network that knows nothing has maps, too. Two rules, both from the six scores that every chimera
gives anyway; a network that fails one is refused. The limits come from five networks between a
trained one and noise: trained .999 and 3.1, a random head on trained features .87 and 1.0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.chimera.chimera_list import Chimeras
from faceguide.evaluate.attribution.methods.described import BATCH, told
from faceguide.evaluate.attribution.methods.target import PairScore
from faceguide.evaluate.attribution.protocol.separation import LEAST_AUC, judge
from faceguide.evaluate.metrics.bootstrap import interval, replicate
from faceguide.evaluate.score.quick_forward import in_threads

LEAST_EXCHANGE = 1.0  # lower bound of the mean, in deviations of impostor scores
SCORES = (
    *("composed_bearer", "composed_donor", "bearer", "donor"),
    *("bearer_donor_reference", "donor_bearer_reference"),
)


def chimera_scores(
    score: PairScore,
    cache: FaceCache,
    chimeras: Chimeras,
    workers: int = 1,
) -> NDArray[np.float64]:
    """(N, 6) scores of each chimera, in the order of `SCORES`.

    The composed face with P's and with Q's reference; P's and Q's faces with their own reference;
    P's face with Q's reference and Q's with P's.

    Args:
        workers: threads that each work at one batch.
    """
    quick = score.quick

    @torch.inference_mode()
    def scored(worker: int, start: int) -> Tensor:
        places = np.arange(start, min(start + BATCH, len(chimeras)))
        rows = [
            some[places]
            for some in (
                *(chimeras.bearer, chimeras.bearer_reference),
                *(chimeras.donor, chimeras.donor_reference),
            )
        ]
        pictures = [cache.read(some, ["image"])["image"] for some in rows]
        faces = []
        for pixels, owner in zip(
            (chimeras.images(cache, places), *pictures), (rows[0], *rows), strict=True
        ):
            beside = told(score, cache, owner)
            faces.append(quick.describe(score.prepared(pixels), *beside))
        mixed, bearer, bearer_reference, donor, donor_reference = faces
        pairs = (
            *((mixed, bearer_reference), (mixed, donor_reference)),
            *((bearer, bearer_reference), (donor, donor_reference)),
            *((bearer, donor_reference), (donor, bearer_reference)),
        )
        return torch.stack([quick.compare(*pair) for pair in pairs], 1).double().cpu()

    starts = range(0, len(chimeras), BATCH)
    return torch.cat(list(in_threads(scored, starts, range(workers)))).numpy()


def judge_exchange(scores: NDArray[np.float64], noise: float, seed: int) -> dict[str, Any]:
    """What the scores (N, 6) say of the network, as results.json has it.

    Args:
        noise: largest difference between two computations of one score.

    Returns:
        As `separation.judge`, with `exchange`, the mean of ½ [s(c, y_Q) − s(x_P,
        y_Q) + s(x_P, y_P) − s(c, y_P)] in deviations of the impostor scores, `exchange_interval`,
        `exchange_seen`, the share of chimeras above 0; `unscored`, chimeras whose scores are not
        finite and do not count; `separates`, whether both lower bounds reach their limits.

    Raises:
        AttributionError: when no chimera has finite scores.
    """
    finite = np.isfinite(scores).all(1)
    if not finite.any():
        raise AttributionError(
            "the network gives scores that are not finite; are these the wrong weights for it?"
        )
    rest = scores[finite]
    genuine, impostor = rest[:, 2:4].T.flatten(), rest[:, 4:6].T.flatten()
    values = np.concatenate([genuine, impostor])
    same = np.arange(len(values)) < len(genuine)
    # Each chimera has identities of its own: one unit.
    unit = np.tile(np.arange(len(rest)), 4)
    spread = float(impostor.std())
    # The scores of a network that gives every face the same embedding differ by rounding.
    flat = spread <= noise
    change = (rest[:, 1] - rest[:, 4] + rest[:, 2] - rest[:, 0]) / 2
    effect = np.zeros(len(rest)) if flat else change / spread
    drawn = replicate(
        lambda counts: np.array([counts @ effect / counts.sum()]), len(rest), seed=seed
    )
    bounds = interval(drawn[:, 0])
    record = judge(values, same, noise, np.stack([unit, unit], 1), seed)
    assert bounds is not None
    return record | {
        "exchange": float(effect.mean()),
        "exchange_interval": bounds,
        "exchange_seen": float((effect > 0).mean()),
        "unscored": int((~finite).sum()),
        "separates": record["auc_interval"][0] >= LEAST_AUC and bounds[0] >= LEAST_EXCHANGE,
    }
