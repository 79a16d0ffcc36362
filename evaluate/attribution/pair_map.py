"""The map of one pair, by the methods that `evaluate attribution` tests."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import pair_rng
from faceguide.evaluate.attribution.methods.maps import Batch
from faceguide.evaluate.attribution.methods.method_table import named
from faceguide.evaluate.attribution.methods.target import (
    check_depends,
    check_gradient,
    pair_score,
)
from faceguide.train.models.loading.network import Network


def pair_map(
    network: Network,
    probe: NDArray[np.uint8],
    reference: NDArray[np.uint8],
    method: str,
    matcher: str = "cosine",
    settings: Settings | None = None,
    keypoints: Tensor | None = None,
    others: NDArray[np.uint8] | None = None,
    regions: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """Which pixels of the probe made its score with the reference.

    Args:
        probe: (S, S, 3) uint8 RGB, of a side that the network takes.
        method: a name of `evaluate methods`, or `module:function`.
        matcher: of `scores.MATCHERS`, without fusions.
        settings: of the method. Random numbers are those of the first pair of a list.
        keypoints: (2, 5, 2) landmarks of both, for a network that is told them.
        others: (K, S, S, 3) uint8 RGB, faces of other identities, for methods that take some.
        regions: (3, S, S) 0 to 1, eyes, nose and mouth of the probe, for `region-shap`.

    Returns:
        (S, S), signed: above 0 speaks for one identity. Maps of cells (the CAM family) are
        interpolated.

    Raises:
        AttributionError: for a name that does not exist, or a method that does not suit the
            network or the matcher.
        ScoreError: when the score does not depend on the probe.
    """
    chosen = named(method)
    explain = chosen.explain
    if explain is None:
        raise AttributionError(
            f"{method} is read off the responses that only `evaluate attribution` measures; "
            "choose another method"
        )
    score = pair_score(network, matcher)
    score.network = None  # one map does not repay a quick score
    score.only_scores = chosen.black_box or chosen.control
    first, second = score.prepared(np.stack([probe, reference])).split(1)
    beside = () if keypoints is None else keypoints.to(network.device).split(1)
    described = (*score.reference(second, *beside[1:]), *beside[:1])
    if score.is_black_box:
        check_gradient(network.name, score, first)
    else:
        check_depends(score, first, described)
    settings = settings or Settings()

    def faces(count: int) -> Tensor:
        assert others is not None
        drawn = pair_rng(0, settings.seed, "faces").permutation(len(others))
        return score.prepared(others[np.resize(drawn, count)])[None]

    def marked() -> Tensor:
        return (torch.from_numpy(np.asarray(regions)[None]) > 0.5).to(first)

    batch = Batch(
        *(first, described, (0,), second),
        faces=None if others is None else faces,
        regions=None if regions is None else marked,
    )
    try:
        chosen.check_suits(score)
        maps = explain(score, batch, settings)
    except AttributionError as error:
        raise AttributionError(f"{method}: {error}") from None
    values = maps.values.detach().float()[:, None]  # (1, 1, h, w)
    if values.shape[-1] != len(probe):
        values = torch.nn.functional.interpolate(values, size=probe.shape[:2], mode="bilinear")
    return values[0, 0].cpu().numpy()
