"""Why a network finds two faces alike: one map, or a pair with its decision."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import EvaluationError
from faceguide.core.faces import LANDMARKS
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.one_pair.crop_changes import Scores
from faceguide.evaluate.attribution.one_pair.crop_parts import Parts, parts_of, regions_of
from faceguide.evaluate.attribution.one_pair.pair_explanation import (
    OneFace,
    PairExplanation,
    explain_faces,
)
from faceguide.evaluate.attribution.one_pair.thresholds import read_threshold
from faceguide.evaluate.attribution.pair_map import pair_map
from faceguide.face import Face
from faceguide.face_network import FaceNetwork
from faceguide.preprocess.detect.pose import mean_landmarks
from faceguide.preprocess.guidance.drawing import contours
from faceguide.preprocess.guidance.point_table import Contour, load_points
from faceguide.preprocess.guidance.polygon import to_cells


def explain(
    network: FaceNetwork,
    face: Any,
    other: Any,
    method: str,
    *,
    matcher: str = "cosine",
    others: Any = None,
    **settings: Any,
) -> NDArray[np.float32]:
    """Which pixels of a face made its score with another, by a method of `evaluate attribution`.

    Args:
        network: whose score is explained.
        face: one face, whose crop the map lies on; see `FaceNetwork` for what is taken.
        other: the face that it is compared with.
        method: its command-line name (`evaluate methods` lists them), or `module:function`.
        matcher: of `evaluate verification`, without fusions.
        others: faces of other identities, which `occlusion-faces`, `expected-gradients` and
            baseline="face" take.
        settings: of the method, as `evaluate.attribution.attribution_options.Settings` has them.

    Returns:
        (S, S), signed: above 0 speaks for one identity.

    Raises:
        FaceguideError: when the method does not exist or does not suit the network.
    """
    first, second = (network.one(given) for given in (face, other))
    return pair_map(
        network.network, first.crop, second.crop, method, matcher, _settings(settings),
        others=_crops(network, others), regions=regions_of(_parts(first)),
        **network.beside([first, second]),
    )  # fmt: skip


def explain_pair(
    network: FaceNetwork,
    face: Any,
    other: Any,
    methods: Sequence[str] = ("hirescam", "lrp"),
    *,
    threshold: float | str | os.PathLike[str] | None = None,
    matcher: str = "cosine",
    others: Any = None,
    **settings: Any,
) -> PairExplanation:
    """Why were two faces taken for one identity, or for two? What `evaluate explain` shows.

    The maps explain the score of the two crops. Decision and changes are those of `evaluate
    verification`, which scores the mirror images too.

    Args:
        network: whose score is explained.
        face: one face; see `FaceNetwork` for what is taken.
        other: the face that it is compared with.
        methods: as `explain` takes them.
        threshold: one identity from this score on; or a run of `evaluate verification`, whose equal
            error rate it then is. None: no decision.
        matcher: as for `explain`.
        others: as for `explain`.
        settings: of the methods.

    Returns:
        Maps of both faces, the share of each landmark region in them, what each region does to the
        score, and which cells change the decision.

    Raises:
        FaceguideError: as `explain`; for one picture twice; for a threshold of another network or
            matcher.
    """
    both = network.one(face), network.one(other)
    if len(both[0].crop) != len(both[1].crop):
        raise EvaluationError("crops of several sizes; give two of one size")
    at = None
    if threshold is not None:
        at = read_threshold(str(threshold), network.network, matcher)

    def scores_of(place: int) -> Scores:
        own, still = both[place], both[1 - place]
        return lambda crops: np.atleast_1d(
            network.score([replace(own, crop=crop) for crop in crops], still, matcher)
        )

    first, second = (
        OneFace(one.name, one.crop, _parts(one), one.landmarks is None) for one in both
    )
    return explain_faces(
        network.network, (first, second), methods, matcher, (scores_of(0), scores_of(1)), at,
        _settings(settings), others=_crops(network, others), **network.beside(both),
    )  # fmt: skip


def _parts(face: Face) -> Parts:
    """The landmark regions of a face; those of the mean face where its landmarks are not known."""
    side, landmarks = len(face.crop), face.landmarks
    points = mean_landmarks() * side if landmarks is None else landmarks
    cells, hull = to_cells(points[None, :, :2], side, side), load_points().hull
    outline = contours(cells, [Contour(tuple(range(LANDMARKS)), convex=True)], side)
    return parts_of(
        np.stack([contours(cells, some, side)[0] for some in hull.values()]), outline[0]
    )


def _crops(network: FaceNetwork, faces: Any) -> NDArray[np.uint8] | None:
    return None if faces is None else np.stack([one.crop for one in network.several(faces)])


def _settings(given: dict[str, Any]) -> Settings:
    try:
        return Settings(**given)
    except TypeError:
        legal = Settings.__dataclass_fields__
        raise EvaluationError(
            f"no setting {', '.join(sorted(given.keys() - legal))}; choose from {', '.join(legal)}"
        ) from None
