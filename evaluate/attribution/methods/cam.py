"""Class activation maps of a pair score: which cells of a layer raise the similarity.

Grad-CAM: Selvaraju et al., 2017. LayerCAM: Jiang et al., 2021. Attention CAM: the gradient-weighted
sum of a network's explicit attention maps (CAL's, or the occlusion head's visibility).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.maps import Batch, Maps
from faceguide.evaluate.attribution.methods.single_pass import ATTENTION, cam_layers, single_pass
from faceguide.evaluate.attribution.methods.target import PairScore


def _layers(score: PairScore, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Activation and gradient of each CAM layer, fine to coarse.

    Raises:
        AttributionError: when there is no such layer, or it does not run.
    """
    found = single_pass(score, batch)
    if found.no_layers is not None:
        raise found.no_layers
    names = [name for name in found.layers if name != ATTENTION]
    if not names:
        missing = cam_layers(score, batch.probe)[-1]
        raise AttributionError(f"layer {missing!r} does not run, or gives no tensor")
    return [found.layers[name] for name in names]


def _weighted(activation: Tensor, gradient: Tensor) -> Tensor:
    """Σ_k mean(∂s/∂A_k) · A_k, (N, h, w)."""
    return (gradient.mean((2, 3), keepdim=True) * activation).sum(1)


def grad_cam(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Σ_k mean(∂s/∂A_k) · A_k of the coarsest layer, (N, h, w), before the ReLU.

    The ReLU belongs to the method and is applied when the map is read, so that a map that it
    would kill can be distinguished from a dead one. Equals captum's LayerGradCam.
    """
    return Maps(_weighted(*_layers(score, batch)[-1]))


def layer_cam(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Σ_k ReLU(∂s/∂A_k) ⊙ A_k, positive part, of two layers, each scaled to maximum 1, averaged.

    The coarse map is enlarged to the fine one (bilinear).
    """
    maps = []
    for activation, gradient in _layers(score, batch):
        one = (gradient.clamp_min(0) * activation).sum(1).clamp_min(0)  # (N, h, w)
        top = one.amax((1, 2), keepdim=True)
        maps.append(torch.where(top > 0, one / top, one))
    side = max(one.shape[-1] for one in maps)
    resized = [
        nn.functional.interpolate(one[:, None], size=(side, side), mode="bilinear")[:, 0]
        for one in maps
    ]
    return Maps(torch.stack(resized).mean(0))


def attention_cam(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Σ_m mean(∂s/∂A_m) · A_m over explicit attention maps, before the ReLU.

    CAL's maps, else the visibility that an occlusion head predicts: one map, so what the score
    decides is its sign and strength.

    Raises:
        AttributionError: when the network has none, or the score does not look at them.
    """
    found = single_pass(score, batch).layers.get(ATTENTION)
    if found is not None:
        return Maps(_weighted(*found))
    if score.head is None:
        raise AttributionError(
            f"{type(score.backbone).__name__} has no attention maps; attention-cam needs CAL or "
            "an occlusion head"
        )
    visibility, slope = score.visibility_slope(batch.probe, batch.reference)
    return Maps(visibility * slope[:, None, None])
