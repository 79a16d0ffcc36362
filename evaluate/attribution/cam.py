"""Class activation maps of a pair score: which cells of a layer raise the similarity.

Grad-CAM: Selvaraju et al., 2017. LayerCAM: Jiang et al., 2021. Attention CAM: the gradient-weighted
sum of a network's explicit attention maps (CAL's, or the occlusion head's visibility).

Layers are chosen by name and by the order in which they run, never "the last Conv2d registered",
and are at least 7×7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from faceguide.evaluate.attribution.cells import GRID
from faceguide.evaluate.attribution.errors import AttributionError
from faceguide.evaluate.attribution.maps import Batch, Maps, Settings
from faceguide.evaluate.attribution.target import PairScore
from faceguide.train.models.ir import IR
from faceguide.train.models.mobilefacenet import LAST_STAGE, MobileFaceNet


@contextmanager
def recorded(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """The outputs of modules during the forward passes inside the block, with their graph."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                found[name] = output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def cam_layers(score: PairScore, probe: Tensor) -> tuple[str, ...]:
    """Names of the layers that CAMs look at, fine to coarse.

    The network's attribute `cam_layers` if it has one; for ours the 14×14 and the 7×7 map; else
    the last layer that runs at each of the two coarsest sides of at least 7 cells.
    """
    backbone = score.backbone
    named = getattr(backbone, "cam_layers", None)
    if named is not None:
        return tuple(named)
    if isinstance(backbone, MobileFaceNet):
        return (f"features.{LAST_STAGE - 1}", "conv2")
    if isinstance(backbone, IR):
        return (f"body.{backbone.last_stage - 1}", f"body.{len(backbone.body) - 1}")
    modules = {name: module for name, module in backbone.named_modules() if name}
    last: dict[int, str] = {}
    with torch.no_grad(), recorded(modules) as found:
        score.describe(probe[:1])
    for name, output in found.items():  # in the order of the first run
        if output.ndim == 4 and output.shape[-1] == output.shape[-2] >= GRID:
            last[output.shape[-1]] = name
    if not last:
        raise AttributionError(
            f"{type(backbone).__name__} has no layer of at least {GRID}×{GRID} cells; give it an "
            "attribute cam_layers with the names of some, or leave the CAM methods out"
        )
    return tuple(last[side] for side in sorted(last)[:2][::-1])


def layer_gradients(
    score: PairScore, batch: Batch, layers: Sequence[str]
) -> list[tuple[Tensor, Tensor]]:
    """Activation and ∂s/∂activation of each layer, (N, C, h, w) each, from one pass."""
    modules = dict(score.backbone.named_modules())
    unknown = [name for name in layers if name not in modules]
    if unknown:
        raise AttributionError(f"{type(score.backbone).__name__} has no layer {unknown[0]!r}")
    # With frozen parameters the graph would not exist without a probe that asks for one.
    leaf = batch.probe.detach().requires_grad_(True)
    with torch.enable_grad(), recorded({name: modules[name] for name in layers}) as found:
        value = score(leaf, *batch.reference)
        missing = [name for name in layers if name not in found]
        if missing:
            raise AttributionError(f"layer {missing[0]!r} does not run, or gives no tensor")
        outputs = [found[name] for name in layers]
        gradients = torch.autograd.grad(value.sum(), outputs)
    return [(out.detach(), grad) for out, grad in zip(outputs, gradients, strict=True)]


def grad_cam(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Σ_k mean(∂s/∂A_k) · A_k of the coarsest layer, (N, h, w), before the ReLU.

    The ReLU belongs to the method and is applied when the map is read, so that a map that it
    would kill can be told from a dead one. Equals captum's LayerGradCam.
    """
    layer = cam_layers(score, batch.probe)[-1]
    [(activation, gradient)] = layer_gradients(score, batch, [layer])
    return Maps((gradient.mean((2, 3), keepdim=True) * activation).sum(1))


def layer_cam(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Σ_k ReLU(∂s/∂A_k) ⊙ A_k, positive part, of two layers, each scaled to maximum 1, averaged.

    The coarse map is enlarged to the fine one (bilinear).
    """
    found = layer_gradients(score, batch, cam_layers(score, batch.probe))
    maps = []
    for activation, gradient in found:
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

    Raises:
        AttributionError: when the network has none, or the score does not look at them.
    """
    modules: dict[str, nn.Module] = {}
    attention = getattr(score.backbone, "attentions", None)
    if isinstance(attention, nn.Module):
        modules["attention"] = attention
    elif score.head is not None:
        modules["attention"] = score.head
    else:
        raise AttributionError(
            f"{type(score.backbone).__name__} has no attention maps; attention-cam needs CAL or "
            "an occlusion head"
        )
    leaf = batch.probe.detach().requires_grad_(True)
    with torch.enable_grad(), recorded(modules) as found:
        value = score(leaf, *batch.reference)
        if "attention" not in found:
            raise AttributionError(
                "the score does not use the occlusion head; choose --matcher visible-embedding "
                "or qaconv+occlusion, or leave attention-cam out"
            )
        maps = found["attention"]
        (gradient,) = torch.autograd.grad(value.sum(), maps)
    return Maps((gradient.mean((2, 3), keepdim=True) * maps.detach()).sum(1))
