"""One forward and one backward pass of a batch, shared by every method that needs no other.

Saliency, Gradient×Input, Grad-CAM, LayerCAM and attention CAM read the same graph at different
places, and paths that end at the probe read its score and its gradient there. The pass is made
once per batch and kept with it; the equality with captum's separate passes is tested.

CAM layers are chosen by name and by the order in which they run, never "the last Conv2d
registered", and are at least 7×7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.cells import GRID
from faceguide.evaluate.attribution.methods.maps import Batch
from faceguide.evaluate.attribution.methods.target import PairScore, checked_gradients
from faceguide.train.models.backbones.ir import IR
from faceguide.train.models.backbones.mobilefacenet import LAST_STAGE, MobileFaceNet

ATTENTION = "attention maps"
_MEMO = "single pass"


@dataclass(frozen=True)
class SinglePass:
    """What one pass gives.

    Attributes:
        value: (N,) scores.
        gradient: (N, 3, S, S) ∂s/∂x.
        layers: name → activation and ∂s/∂activation, (N, C, h, w) each, of the CAM layers, fine to
            coarse, and of CAL's attention maps.
        no_layers: why there are no CAM layers, or None.
    """

    value: Tensor
    gradient: Tensor
    layers: dict[str, tuple[Tensor, Tensor]]
    no_layers: AttributionError | None


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
    the last layer that runs at each of the two coarsest sides of at least 7 cells. CAL's attention
    maps run last at its coarsest side; they are attention-cam's, and what they weigh, the
    backbone's features, are for the others.

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
    if isinstance(backbone, MobileFaceNet):
        return (f"features.{LAST_STAGE - 1}", "conv2")
    if isinstance(backbone, IR):
        return (f"body.{backbone.last_stage - 1}", f"body.{len(backbone.body) - 1}")
    last: dict[int, str] = {}
    with torch.no_grad(), recorded(modules) as found:
        score.describe(probe[:1])
    for name, output in found.items():  # in the order of the first run
        if name.split(".")[0] == "attentions":
            continue
        if output.ndim == 4 and output.shape[-1] == output.shape[-2] >= GRID:
            last[output.shape[-1]] = name
    if not last:
        raise AttributionError(
            f"{type(backbone).__name__} has no layer of at least {GRID}×{GRID} cells; give it an "
            "attribute cam_layers with the names of some, or leave the CAM methods out"
        )
    return tuple(last[side] for side in sorted(last)[:2][::-1])


def single_pass(score: PairScore, batch: Batch) -> SinglePass:
    """The pass of a batch, made at the first call.

    Raises:
        ScoreError: when the score is not one number per probe, or has no gradient.
    """
    held = batch.memo.get(_MEMO)
    if held is None or held[0] is not score:
        held = batch.memo[_MEMO] = (score, _pass(score, batch))
    found: SinglePass = held[1]
    return found


def _pass(score: PairScore, batch: Batch) -> SinglePass:
    named, no_layers = dict(score.backbone.named_modules()), None
    modules: dict[str, nn.Module] = {}
    try:
        modules = {name: named[name] for name in cam_layers(score, batch.probe)}
    except AttributionError as fault:
        no_layers = fault
    attention = getattr(score.backbone, "attentions", None)
    if isinstance(attention, nn.Module):
        modules[ATTENTION] = attention
    leaf = batch.probe.detach().requires_grad_(True)
    with torch.enable_grad(), recorded(modules) as found:
        value = score(leaf, *batch.reference)
        # In the order of `modules`; what does not run, or leads nowhere, is not there.
        names = [name for name in modules if name in found and found[name].requires_grad]
        gradient, *others = checked_gradients(value, leaf, *(found[name] for name in names))
    assert gradient is not None
    layers = {
        name: (found[name].detach(), other)
        for name, other in zip(names, others, strict=True)
        if other is not None
    }
    return SinglePass(value.detach(), gradient, layers, no_layers)
