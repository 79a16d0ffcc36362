"""Class activation maps of a pair score: which cells of a layer raise the similarity.

Grad-CAM: Selvaraju et al., 2017. HiResCAM: Draelos and Carin, 2020. LayerCAM: Jiang et al., 2021.
Attention CAM: Grad-CAM of a network's explicit attention maps (CAL's, or the occlusion head's
visibility). Gradients and activations of layers are captum's.

Layers are chosen by name and by the order in which they run, never "the last Conv2d registered",
and are at least 7×7.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import GRID
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, on_crop
from faceguide.evaluate.attribution.methods.target import PairScore


def cam_layers(score: PairScore, probe: Tensor) -> tuple[str, ...]:
    """Names of the layers that CAMs look at, fine to coarse; one finer than the last two may lead.

    The network's attribute `cam_layers` if it has one, as face backbones have; else the last layer
    that runs at each of the two coarsest sides of at least 7 cells. CAL's attention maps run last
    at its coarsest side; they are attention-cam's, and what they weigh, the backbone's features,
    are for the others.

    Raises:
        AttributionError: when there is none, or a named one does not exist.
    """
    backbone = score.backbone
    modules = {name: module for name, module in backbone.named_modules() if name}
    named = getattr(backbone, "cam_layers", None)
    if named is not None:
        unknown = [name for name in named if name not in modules]
        if unknown:
            raise AttributionError(f"{type(backbone).__name__} has no layer {unknown[0]!r}")
        return tuple(named)
    last = _last_of_each_side(score, probe, modules)
    if not last:
        raise AttributionError(
            f"{type(backbone).__name__} has no layer of at least {GRID}×{GRID} cells; give it an "
            "attribute cam_layers with the names of some, or leave the CAM methods out"
        )
    return tuple(last[side] for side in sorted(last)[:2][::-1])


@torch.no_grad()
def _last_of_each_side(
    score: PairScore, probe: Tensor, modules: dict[str, nn.Module]
) -> dict[int, str]:
    """Side of a square output → the last layer that gives one."""
    sides: dict[str, int] = {}  # in the order of the first run

    def note(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            square = output.ndim == 4 and output.shape[-1] == output.shape[-2]
            sides[name] = output.shape[-1] if square else 0

    handles = [
        module.register_forward_hook(lambda module, given, output, name=name: note(name, output))
        for name, module in modules.items()
    ]
    try:
        score.describe(probe[:1])
    finally:
        for handle in handles:
            handle.remove()
    return {
        side: name
        for name, side in sides.items()
        if side >= GRID and name.split(".")[0] != "attentions"
    }


@contextmanager
def _of_layers(names: tuple[str, ...]) -> Iterator[None]:
    """What captum says of a layer that does not run or leads nowhere, in our words."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "not have been used" not in str(error):
            raise
        raise AttributionError(
            f"layer {' or '.join(map(repr, names))} does not run, or the score does not look at it"
        ) from None


def _grad_cam(score: PairScore, batch: Batch, layer: str) -> Tensor:
    """Σ_k mean(∂s/∂A_k) · A_k, (N, h, w), before the ReLU."""
    from captum.attr import LayerGradCam  # here: it takes half a second to import

    with _of_layers((layer,)):
        found: Tensor = LayerGradCam(score, score.backbone.get_submodule(layer)).attribute(
            batch.leaf(), additional_forward_args=batch.reference
        )
    return found.detach()[:, 0]


def grad_cam(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """captum's LayerGradCam of the coarsest layer, (N, h, w), before the ReLU.

    The ReLU belongs to the method and is applied when the map is read, so that a map that it
    would kill can be distinguished from a dead one.
    """
    return Maps(on_crop(_grad_cam(score, batch, cam_layers(score, batch.probe)[-1]), score))


def hirescam(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Σ_k ∂s/∂A_k ⊙ A_k of the finer of the last two layers, (N, h, w), without a ReLU.

    Unlike Grad-CAM's, the gradient is not averaged over the map first, so what opposes the match
    in one place cannot be drawn as support in another.
    """
    return _hirescam(score, batch, cam_layers(score, batch.probe)[-2:][0])


def hirescam_coarse(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """As `hirescam`, of the coarsest layer."""
    return _hirescam(score, batch, _layer(score, batch, 2, "coarser"))


def hirescam_fine(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """As `hirescam`, of a layer before the last two."""
    return _hirescam(score, batch, _layer(score, batch, 3, "finer"))


def _layer(score: PairScore, batch: Batch, least: int, which: str) -> str:
    """The coarsest of two layers, or the finest of three."""
    names = cam_layers(score, batch.probe)
    if len(names) < least:
        raise AttributionError(
            f"{type(score.backbone).__name__} names no layer {which} than {names[-2:][0]!r}, which "
            "hirescam reads"
        )
    return names[-1 if least == 2 else 0]


def _hirescam(score: PairScore, batch: Batch, name: str) -> Maps:
    from captum.attr import LayerGradientXActivation

    with _of_layers((name,)):
        found = LayerGradientXActivation(score, score.backbone.get_submodule(name)).attribute(
            batch.leaf(), additional_forward_args=batch.reference
        )
    return Maps(on_crop(found.detach().sum(1), score))


def grad_cam_plus_plus(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Σ_k w_k A_k of the coarsest layer, (N, h, w); w_k weighs positive gradients by place.

    w = Σ α ReLU(g), α = g² / (2 g² + Σ A · g³), equation 19 of the paper. The ReLU comes when the
    map is read.
    """
    layer = cam_layers(score, batch.probe)[-1:]
    ((gradient, activation),) = _gradients_and_activations(score, batch, layer)
    square, total = gradient.square(), activation.sum((2, 3), keepdim=True)
    below = 2 * square + total * gradient * square
    share = torch.where(below.abs() > 1e-20, square / below, torch.zeros_like(below))
    weight = (share * gradient.clamp_min(0)).sum((2, 3), keepdim=True)
    return Maps(on_crop((weight * activation).sum(1), score))


def eigen_cam(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """|First principal component| of the coarsest layer's activations, (N, h, w).

    It knows neither the score nor the reference, and the sign of a component means nothing.
    """
    from captum.attr import LayerActivation

    name = cam_layers(score, batch.probe)[-1]
    with _of_layers((name,)), torch.no_grad():
        found = LayerActivation(score, score.backbone.get_submodule(name)).attribute(
            batch.probe, additional_forward_args=batch.reference
        )
    cells = found.detach().flatten(2).mT  # (N, h·w, K)
    cells = cells - cells.mean(1, keepdim=True)
    left, strength, _ = torch.linalg.svd(cells, full_matrices=False)
    first = (left[:, :, 0] * strength[:, :1]).abs()
    return Maps(on_crop(first.unflatten(1, found.shape[2:]), score))


def _gradients_and_activations(
    score: PairScore, batch: Batch, names: tuple[str, ...]
) -> list[tuple[Tensor, Tensor]]:
    """∂s/∂A and A of layers, (N, K, h, w) each."""
    from captum.attr import LayerActivation, LayerGradientXActivation

    more = {"additional_forward_args": batch.reference}
    layers = [score.backbone.get_submodule(name) for name in names]
    with _of_layers(names):
        gradients = LayerGradientXActivation(score, layers, multiply_by_inputs=False).attribute(
            batch.leaf(), **more
        )
        activations = LayerActivation(score, layers).attribute(batch.probe, **more)
    return [(one.detach(), two.detach()) for one, two in zip(gradients, activations, strict=True)]


def layer_cam(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Σ_k ReLU(∂s/∂A_k) ⊙ A_k, positive part, of two layers, each scaled to maximum 1, averaged.

    The coarse map is enlarged to the fine one (bilinear).
    """
    layers = cam_layers(score, batch.probe)[-2:]
    maps = []
    for gradient, activation in _gradients_and_activations(score, batch, layers):
        one = (gradient.clamp_min(0) * activation).sum(1).clamp_min(0)  # (N, h, w)
        top = one.amax((1, 2), keepdim=True)
        maps.append(torch.where(top > 0, one / top, one))
    size = max(one.shape[-2:] for one in maps)
    resized = [nn.functional.interpolate(one[:, None], size, mode="bilinear")[:, 0] for one in maps]
    return Maps(on_crop(torch.stack(resized).mean(0), score))


def attention_cam(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Grad-CAM over explicit attention maps, before the ReLU.

    CAL's maps, else the visibility that an occlusion head predicts: one map, so what the score
    decides is its sign and strength.

    Raises:
        AttributionError: when the network has none, or the score does not look at them.
    """
    if score.has_embedding and isinstance(getattr(score.backbone, "attentions", None), nn.Module):
        return Maps(_grad_cam(score, batch, "attentions"))
    if score.head is None:
        raise AttributionError(
            f"{type(score.backbone).__name__} has no attention maps; attention-cam needs CAL or "
            "an occlusion head"
        )
    visibility, slope = score.visibility_slope(batch.probe, batch.reference)
    return Maps(visibility * slope[:, None, None])
