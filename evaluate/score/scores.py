"""Matchers: how alike are two faces? One function `score(probe, reference) -> (N,)` for each.

Higher means more alike. `score` is differentiable in what it is given, so that attribution can ask
it why; `matrix` scores every probe with every gallery face, without gradients, in blocks.

* `cosine`: of the embeddings. CAL's attention-pooled features are embeddings here too.
* `qaconv`: the feature maps, cell by cell; without a trained matcher all cells count alike.
* `qaconv+occlusion`: the same, weighted by the visibility of both faces.
* `visible-embedding`: the embedding summed over the cells that both faces show.
* `fused`: a weighted sum of the others, each scaled to mean 0 and deviation 1 (`fusion`);
  `qaconv+cosine` and `qaconv+visible-embedding` are such sums, fitted on training pairs
  (`fusion_fit`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from faceguide.core.errors import EvaluationError
from faceguide.evaluate.score.matcher_options import FUSIONS, MATCHERS, VISIBLE
from faceguide.train.models.loading.network import Network
from faceguide.train.models.matchers.calibration import (
    CalibratedEmbedding,
    ScoreCurve,
    VisibilityCalibration,
)
from faceguide.train.models.matchers.matching import match
from faceguide.train.models.matchers.qaconv import QAConv
from faceguide.train.models.matchers.visible_embedding import VisibleEmbedding

EMBEDDING, MAP, VISIBILITY = "embedding", "map", "visibility"


@dataclass(frozen=True)
class Faces:
    """N faces as a network describes them; what a matcher does not need may be None.

    Attributes:
        embedding: (N, E) of length 1.
        feature_map: (N, C, h, w).
        visibility: (N, H, W), 1 = visible, 0 = occluded.
    """

    embedding: Tensor | None = None
    feature_map: Tensor | None = None
    visibility: Tensor | None = None

    def __len__(self) -> int:
        for part in (self.embedding, self.feature_map):
            if part is not None:
                return len(part)
        return 0

    def at(self, places: Any) -> Faces:
        """The faces at these places: an index array or a slice."""

        def pick(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[places]

        return Faces(pick(self.embedding), pick(self.feature_map), pick(self.visibility))


class Matcher(Protocol):
    """A way of comparing faces."""

    @property
    def name(self) -> str:
        """As on the command line."""

    @property
    def needs(self) -> frozenset[str]:
        """What `Faces` must hold: "embedding", "map", "visibility"."""

    def score(self, probe: Faces, reference: Faces) -> Tensor:
        """Scores of N pairs, (N,) float32."""

    def matrix(self, probe: Faces, gallery: Faces) -> Tensor:
        """Scores of every probe with every gallery face, (P, G) float32."""


def _part(part: Tensor | None, what: str) -> Tensor:
    if part is None:
        raise EvaluationError(f"this matcher needs the {what} of both faces")
    return part.float()


@dataclass(frozen=True)
class Cosine:
    """Cosine of the embeddings."""

    name: str = "cosine"
    needs: frozenset[str] = frozenset({EMBEDDING})

    def score(self, probe: Faces, reference: Faces) -> Tensor:
        """(N,), −1 to 1."""
        first = _part(probe.embedding, "embedding")
        return (first * _part(reference.embedding, "embedding")).sum(1)

    def matrix(self, probe: Faces, gallery: Faces) -> Tensor:
        """(P, G), −1 to 1."""
        return _part(probe.embedding, "embedding") @ _part(gallery.embedding, "embedding").T


@dataclass(frozen=True)
class CalibratedCosine(Cosine):
    """The log-likelihood ratio of the cosine, natural logarithm."""

    rule: ScoreCurve = field(kw_only=True)

    def score(self, probe: Faces, reference: Faces) -> Tensor:
        """(N,)."""
        return self.rule(super().score(probe, reference))

    def matrix(self, probe: Faces, gallery: Faces) -> Tensor:
        """(P, G)."""
        return self.rule(super().matrix(probe, gallery))


@dataclass(frozen=True)
class LocalMatcher:
    """QAConv or the visible embedding, on feature maps.

    Attributes:
        occlusion: whether the visibility of both faces is used.
    """

    name: str
    model: QAConv | VisibleEmbedding | CalibratedEmbedding
    occlusion: bool

    @property
    def needs(self) -> frozenset[str]:
        """Maps, and the visibility where it is used."""
        return frozenset({MAP, VISIBILITY} if self.occlusion else {MAP})

    def _parts(self, faces: Faces) -> tuple[Tensor, Tensor | None]:
        maps = _part(faces.feature_map, "feature map")
        return maps, _part(faces.visibility, "visibility") if self.occlusion else None

    def score(self, probe: Faces, reference: Faces) -> Tensor:
        """(N,); visible embedding −1 to 1, calibrated or QAConv without fixed range."""
        (probe_maps, probe_seen), (maps, seen) = self._parts(probe), self._parts(reference)
        return self.model.pair_scores(probe_maps, maps, probe_seen, seen)

    @torch.inference_mode()
    def matrix(self, probe: Faces, gallery: Faces) -> Tensor:
        """(P, G)."""
        (probe_maps, probe_seen), (maps, seen) = self._parts(probe), self._parts(gallery)
        if isinstance(self.model, QAConv):
            return match(self.model, probe_maps, maps, probe_seen, seen)
        return self.model(probe_maps, maps, probe_seen, seen)


@dataclass(frozen=True)
class FusedPart:
    """One matcher of a fusion: weight · (score − mean) / std."""

    matcher: Matcher
    weight: float
    mean: float
    std: float


@dataclass(frozen=True)
class Fused:
    """A weighted sum of scaled scores."""

    parts: tuple[FusedPart, ...]
    name: str = "fused"
    needs: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        needs = frozenset[str]().union(*(part.matcher.needs for part in self.parts))
        object.__setattr__(self, "needs", needs)

    def score(self, probe: Faces, reference: Faces) -> Tensor:
        """(N,), in deviations of the sample that set the scale."""
        return self._sum([part.matcher.score(probe, reference) for part in self.parts])

    def matrix(self, probe: Faces, gallery: Faces) -> Tensor:
        """(P, G)."""
        return self._sum([part.matcher.matrix(probe, gallery) for part in self.parts])

    def _sum(self, scores: list[Tensor]) -> Tensor:
        total = torch.zeros_like(scores[0])
        for part, values in zip(self.parts, scores, strict=True):
            total = total + part.weight * (values - part.mean) / part.std
        return total


def needs_mean_map(name: str) -> bool:
    """Whether `make_matcher` wants the mean map of some visible faces for this name."""
    return name == VISIBLE


def make_matcher(name: str, network: Network, mean_map: Tensor | None = None) -> Matcher:
    """A matcher by its name; `fused` is put together in `fusion`.

    Args:
        name: of `MATCHERS`, except `fused`.
        network: its trained matcher is used if it has one.
        mean_map: (C, s, s) taken off before visible embeddings are compared; None compares them
            as they are.

    Raises:
        EvaluationError: for an unknown name, or a network without feature maps.
        ModelError: when the network cannot do it.
    """
    if name in FUSIONS:
        raise EvaluationError(
            f"{name} is fitted on training pairs, by `evaluate verification`, `identification` "
            "and `ijb`; choose one of its parts here"
        )
    if name == "cosine":
        return Cosine()
    if name not in MATCHERS or name == "fused":
        raise EvaluationError(f"no matcher {name!r}; choose one of {', '.join(MATCHERS)}")
    _require_maps(name, network)
    if name == VISIBLE:
        return LocalMatcher(name, visible_embedding(network, mean_map), True)
    matcher = network.matcher or _untrained(network)
    return LocalMatcher(name, matcher, name == "qaconv+occlusion")


def visible_embedding(network: Network, mean_map: Tensor | None = None) -> VisibleEmbedding:
    """The visible embedding of a network; arguments and errors of `make_matcher`."""
    _require_maps(VISIBLE, network)
    last = getattr(network.backbone, "map_side", network.map_side)
    if network.map_side != last:
        raise EvaluationError(
            f"visible-embedding needs {last}×{last} maps; these weights work on "
            f"{network.map_side}×{network.map_side}"
        )
    return VisibleEmbedding.of(network.backbone, mean_map)


def calibrated(
    name: str, network: Network, rule: ScoreCurve | VisibilityCalibration
) -> CalibratedCosine | LocalMatcher:
    """A matcher whose scores are log-likelihood ratios.

    Args:
        name: of the matcher that the rule was fitted for.
    """
    if isinstance(rule, ScoreCurve):
        return CalibratedCosine(rule=rule)
    embedding = visible_embedding(network, rule.mean_map.to(network.device))
    return LocalMatcher(name, CalibratedEmbedding(embedding, rule), True)


def _require_maps(name: str, network: Network) -> None:
    if not network.has_maps:
        raise EvaluationError(
            f"{name} compares the maps of a face backbone, which {network.name} has not; choose "
            "--matcher cosine"
        )


def _untrained(network: Network) -> QAConv:
    """QAConv 2.1 as it starts: the mean of all best matches, without an offset."""
    channels = network.backbone.map_channels[network.map_side]  # type: ignore[index]
    side = network.map_side
    matcher = QAConv(channels=int(channels), height=side, width=side)
    nn.init.zeros_(matcher.fc.bias)
    return matcher.eval().requires_grad_(False).to(network.device)
