"""The score of a pair as a function of the probe's pixels: what every method explains.

`score(probe, *reference) -> (N,)`. The reference is described once, without gradients, and handed
in as tensors with N rows, so that methods which repeat the probe (Integrated Gradients,
SmoothGrad) can repeat it alongside. Where the network is told the landmarks of a face besides its
pixels (KP-RPE), those of the probe are the last of these tensors.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.core.errors import AttributionError, ScoreError
from faceguide.evaluate.score.quick_forward import quickened
from faceguide.evaluate.score.scores import (
    EMBEDDING,
    MAP,
    VISIBILITY,
    Cosine,
    Faces,
    Matcher,
    make_matcher,
)
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.cal_network import WSDANCAL
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.loading.network import Network
from faceguide.train.models.occlusion_head import OcclusionHead
from faceguide.train.models.onnx.onnx_network import OnnxNetwork
from faceguide.train.models.own_networks import inner

Reference = tuple[Tensor, ...]
Score = Callable[..., Tensor]

# A gradient this small against score / pixel is rounding noise.
LEAST_GRADIENT = 1e-6
_STEP = 0.01  # of visibility, 0 to 1


def _named(beside: Reference) -> dict[str, Tensor]:
    """What a network is told besides pixels, by name."""
    return dict(zip(("keypoints",), beside, strict=False))


def unit_embedding(backbone: nn.Module, pixels: Tensor, *beside: Tensor) -> Tensor:
    """(N, E) embeddings of length 1, whatever the network is; differentiable."""
    if isinstance(backbone, WSDANCAL):
        features: Tensor = backbone(pixels).features
        return features
    found = backbone(pixels, **_named(beside))
    embedding: Tensor = found[0] if isinstance(found, tuple) else found
    return nn.functional.normalize(embedding.float(), dim=1)


def raw_embedding(backbone: nn.Module, pixels: Tensor, *beside: Tensor) -> Tensor:
    """(N, E) embeddings before they are scaled to length 1.

    Raises:
        AttributionError: for a network that does not offer them.
    """
    raw = getattr(backbone, "raw_embedding", None)
    if callable(raw):
        found: Tensor = raw(pixels, **_named(beside))
        return found
    raise AttributionError(
        f"{type(backbone).__name__} offers no embedding before normalisation, which DeepLIFT and "
        "LRP explain; leave these methods out, or give the network a method raw_embedding"
    )


class PairScore(nn.Module):
    """The similarity of a probe and a reference, by a network and a matcher.

    Args:
        backbone: in eval mode, its parameters frozen; has an `input_spec`.
        matcher: compares faces; default the cosine of the embeddings.
        map_side: side of the feature maps that matcher and head work on.
        head: predicts visibility for matchers that use it.
    """

    def __init__(
        self,
        backbone: nn.Module,
        matcher: Matcher | None = None,
        map_side: int = 7,
        head: OcclusionHead | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.matcher: Matcher = matcher or Cosine()
        self.map_side, self.head = map_side, head
        needs = self.matcher.needs
        if VISIBILITY in needs and head is None:
            raise AttributionError(
                f"--matcher {self.matcher.name} needs the visibility of masked faces too, which "
                "only an occlusion head can tell; give a training run with one"
            )
        if needs & {MAP, VISIBILITY} and not isinstance(backbone, FaceBackbone):
            raise AttributionError(
                f"--matcher {self.matcher.name} compares feature maps, which "
                f"{type(backbone).__name__} has not; choose cosine"
            )
        self._parts = tuple(part for part in (EMBEDDING, MAP, VISIBILITY) if part in needs)
        self.network: Network | None = None  # whose passes may be made quick
        self.only_scores = False  # nobody asks for gradients, so there need be none

    @functools.cached_property
    def quick(self) -> PairScore:
        """The same score, faster and equal up to rounding, for whoever does not look at layers."""
        if self.network is None:
            return self
        # Also where a pass without gradients asks: its own tensors must take gradients.
        with torch.inference_mode(False):
            fast = quickened(self.network)
        if fast is self.network:
            return self
        return PairScore(fast.backbone, self.matcher, self.map_side, self.head).eval()

    def replica(self) -> PairScore:
        """The same score and weights with hooks of its own, for a thread beside others."""
        kept = (self.quick, self.network, *self.parameters(), *self.buffers())
        return copy.deepcopy(self, {id(one): one for one in kept if one is not self})

    @property
    def input_spec(self) -> InputSpec:
        """The pixels that the network takes."""
        spec: InputSpec = self.backbone.input_spec  # type: ignore[assignment]
        return spec

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    def prepared(self, images: NDArray[np.uint8]) -> Tensor:
        """(N, 3, S, S) prepared pixels of crops (N, S, S, 3)."""
        return self.input_spec.prepare(torch.from_numpy(images).to(self.device))

    @property
    def needs_keypoints(self) -> bool:
        """Whether the network is told where five landmarks of each face lie."""
        return bool(getattr(self.backbone, "needs_keypoints", False))

    @property
    def is_black_box(self) -> bool:
        """Whether it gives scores but no gradients in the pixels, or none are asked for."""
        return self.only_scores or isinstance(self.backbone, OnnxNetwork)

    @property
    def has_embedding(self) -> bool:
        """Whether the score is a function of one embedding per face."""
        return self._parts == (EMBEDDING,)

    def require_embedding(self, why: str) -> None:
        """Refuse a matcher that compares more than one embedding per face.

        Raises:
            AttributionError: with the reason and the remedy.
        """
        if not self.has_embedding:
            raise AttributionError(f"{why}; choose --matcher cosine")

    def describe(self, pixels: Tensor, *beside: Tensor) -> Reference:
        """What the matcher needs of N faces, a tuple of tensors with N rows; differentiable.

        Args:
            pixels: (N, 3, S, S) as `input_spec.prepare` makes them.
            beside: (N, 5, 2) landmarks, for a network that is told them.
        """
        if self.has_embedding:
            return (unit_embedding(self.backbone, pixels, *beside),)
        backbone: Any = self.backbone
        found = backbone.forward_all(pixels, self.map_side, **_named(beside))
        parts = {EMBEDDING: found.embedding, MAP: found.feature_map}
        if self.head is not None and VISIBILITY in self._parts:
            parts[VISIBILITY] = self.head(found.feature_map)[:, 0]
        return tuple(parts[name] for name in self._parts)

    @torch.no_grad()
    def reference(self, pixels: Tensor, *beside: Tensor) -> Reference:
        """`describe` without gradients: compute once, use for every pair of this face."""
        return tuple(part.detach() for part in self.describe(pixels, *beside))

    def beside(self, reference: Reference) -> Reference:
        """What the network is told of the probes, out of what a method is given."""
        return reference[len(self._parts) :]

    def compare(self, probe: Reference, reference: Reference) -> Tensor:
        """Scores (N,) of described faces; what stands behind them is left aside."""
        return self.matcher.score(self._faces(probe), self._faces(reference))

    @torch.no_grad()
    def visibility_slope(self, probe: Tensor, reference: Reference) -> tuple[Tensor, Tensor]:
        """Predicted visibility (N, H, W), and the mean over its cells of ∂s/∂visibility, (N,).

        Matchers let no gradient through the visibility, so that training cannot gain by declaring
        hidden what does not match; the slope is a central difference over all cells at once.

        Raises:
            AttributionError: when the matcher does not look at the visibility.
        """
        if VISIBILITY not in self._parts:
            raise AttributionError(
                "the score does not use the occlusion head; choose --matcher visible-embedding "
                "or qaconv+occlusion, or leave attention-cam out"
            )
        parts = list(self.describe(probe, *self.beside(reference)))
        place = self._parts.index(VISIBILITY)
        visibility, scores = parts[place], []
        for step in (_STEP, -_STEP):
            parts[place] = visibility + step
            scores.append(self.compare(tuple(parts), reference))
        cells = visibility.flatten(1).shape[1]
        return visibility, (scores[0] - scores[1]) / (2 * _STEP * cells)

    def _faces(self, parts: Reference) -> Faces:
        named = dict(zip(self._parts, parts, strict=False))
        return Faces(named.get(EMBEDDING), named.get(MAP), named.get(VISIBILITY))

    def forward(self, probe: Tensor, *reference: Tensor) -> Tensor:
        """(N, 3, S, S) pixels and the described references → scores (N,)."""
        return self.compare(self.describe(probe, *self.beside(reference)), reference)


def pair_score(network: Network, matcher: str) -> PairScore:
    """The score of a network and a matcher's name; its weights are laid out channels last."""
    # Convolutions on CPU and on tensor cores are faster so; the values differ by rounding.
    network.backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if matcher == "cosine":
        # A user's network itself: methods know its layers by the names that it gave them.
        score = PairScore(inner(network.backbone), map_side=network.map_side)
    else:
        made = make_matcher(matcher, network)
        score = PairScore(network.backbone, made, network.map_side, network.occlusion_head).eval()
    score.network = network
    return score


def score_gradient(score: Score, probe: Tensor, reference: Reference) -> tuple[Tensor, Tensor]:
    """The score (N,) and its gradient in the probe (N, 3, S, S), both detached.

    Raises:
        ScoreError: when the score is not one number per probe, or has no gradient at all.
    """
    leaf = probe.detach().requires_grad_(True)
    with torch.enable_grad():
        value = score(leaf, *reference)
        if value.shape != (len(leaf),):
            raise ScoreError(
                f"a score must give one number per probe, ({len(leaf)},); found shape "
                f"{tuple(value.shape)}"
            )
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value.sum(), leaf, allow_unused=True)
    if gradient is None:
        raise ScoreError(_INDEPENDENT.format(found="no gradient reaches the probe"))
    return value.detach(), gradient


def bytes_of_graph(score: Score, probe: Tensor, reference: Reference) -> int:
    """Bytes that a pass keeps until its gradient is taken."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        score_gradient(score, probe, reference)
    return sum(kept.values())


def check_gradient(name: str, score: PairScore, probe: Tensor, *beside: Tensor) -> None:
    """Refuse a network that no gradient passes; of a black box, one that is blind to the pixels.

    Args:
        probe: (N, 3, S, S) prepared pixels.
        beside: what the network is told of them.

    Raises:
        ScoreError: when what the network gives does not depend on the pixels, or is cut off.
    """
    leaf = probe.detach().requires_grad_(not score.is_black_box)
    with torch.enable_grad():
        described = score.describe(leaf, *beside)
        # Weights without a pattern, so that nothing cancels.
        value = torch.stack(
            [
                (part.float() * torch.linspace(0.5, 1.5, part.numel()).to(part).view_as(part)).sum()
                for part in described
            ]
        ).sum()
        gradient = None
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, leaf, allow_unused=True)
    if gradient is not None and bool(gradient.any()):
        return
    with torch.no_grad():
        blank = score.describe(torch.zeros_like(probe), *beside)
    if all(torch.equal(one, other) for one, other in zip(described, blank, strict=True)):
        raise ScoreError(
            f"{name} gives every picture the same embedding: its score does not depend on the probe"
        )
    if score.is_black_box:
        return
    cause = (
        "its output is cut off from its input; look for detach, no_grad, numpy or .item()"
        if gradient is None
        else "it is zero everywhere; look for rounding, thresholds or arg max"
    )
    raise ScoreError(f"{name} gives no gradient: {cause} in its forward")


_INDEPENDENT = (
    "the score does not depend on the probe ({found}). This happens when the second image never "
    "enters the target and the length of an embedding that is normalised already is explained "
    "(always 1), when the score is computed under no_grad, or only from the reference. Explain "
    "score(probe, reference) instead"
)


def check_depends(score: Score, probe: Tensor, reference: Reference) -> None:
    """Refuse a score whose gradient is rounding noise: every map of it would be noise too.

    A row counts as independent when max|∂s/∂x| · max|x| ≤ 1e-6 · |s|; single rows may be (a black
    picture), all rows may not.

    Raises:
        ScoreError: when no row of the batch depends on the probe; says how this happens.
    """
    value, gradient = score_gradient(score, probe, reference)
    reach = gradient.abs().flatten(1).amax(1) * probe.abs().flatten(1).amax(1)
    if bool((reach <= LEAST_GRADIENT * value.abs()).all()):
        found = f"largest gradient × pixel {float(reach.max()):.1e} for a score of "
        raise ScoreError(_INDEPENDENT.format(found=f"{found}{float(value.abs().max()):.2g}"))
