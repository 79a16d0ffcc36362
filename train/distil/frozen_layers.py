"""A network cut at a layer: what comes before stays as it is, what comes after is trained.

The layers after the cut run by themselves, on maps that were computed once. Nothing of a network
says where it can be cut, so it is tried: one forward pass shows which layers ran before, these are
taken out, and the rest must give the same embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.backbones.edgeface import EdgeFace
from faceguide.train.models.backbones.inception_resnet import InceptionResnetV1
from faceguide.train.models.backbones.ir import IR
from faceguide.train.models.backbones.mbf import ArcFaceMobileFaceNet
from faceguide.train.models.backbones.vit import ViT

Module = TypeVar("Module", bound=nn.Module)

_LISTED = 40  # layers in a message
_TOLERANCE = 1e-4


def default_layer(network: FaceBackbone) -> str:
    """The first of the last blocks: of convolutional networks about those of 14×14 and 7×7 cells,
    of deep ones a few blocks before the last stage, of transformers the last third."""
    if isinstance(network, IR):
        return f"body.{network.last_stage - min(network.units[2] - 1, 3)}"
    if isinstance(network, ViT):
        return f"blocks.{len(network.blocks) * 2 // 3}"
    if isinstance(network, ArcFaceMobileFaceNet):
        return "layers.5"
    if isinstance(network, EdgeFace):
        return "stages.2"
    return "repeat_2" if isinstance(network, InceptionResnetV1) else "features.6"


class _Passed(nn.Module):
    def forward(self, x: Tensor, *_: Any) -> Tensor:
        """What comes in."""
        return x


class _Given(nn.Module):
    value: Tensor

    def forward(self, *_: Any) -> Tensor:
        """The maps of this call."""
        return self.value


@dataclass(frozen=True)
class LastLayers:
    """The layers from a cut on.

    Attributes:
        layer: the first of them.
        trained: names of their parameters in the network.
    """

    layer: str
    trained: frozenset[str]
    _network: FaceBackbone
    _given: _Given | None  # None = nothing is frozen, and maps are prepared pixels

    def __call__(self, maps: Tensor, **beside: Tensor) -> tuple[Tensor, Tensor]:
        """What the network makes of the maps before the cut.

        Args:
            maps: (N, …) as `before` gives them.
            beside: `keypoints`, where the network needs them.

        Returns:
            The raw embedding (N, E), and the last map.
        """
        network, pixels = self._network, maps
        if self._given is not None:
            self._given.value = maps
            side = network.input_spec.size
            # Nothing looks at them, or at most one layer that is not part of the answer.
            pixels = maps.new_zeros(1, 3, side, side).expand(len(maps), -1, -1, -1)
        raw, found = network.run(pixels, (network.map_side,), **beside)
        return raw, found[network.map_side]


class _Reached(Exception):
    """The layer is about to run; what comes after it is not needed."""


def before(network: FaceBackbone, layer: str, pixels: Tensor, **beside: Tensor) -> Tensor:
    """What a layer is given of prepared pixels, (N, …); neither it nor what follows is run."""
    kept: list[Tensor] = []

    def stop(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        kept.append(given[0])
        raise _Reached

    with network.get_submodule(layer).register_forward_pre_hook(stop), suppress(_Reached):
        network.run(pixels, **beside)
    return kept[0]


@torch.no_grad()
def cut(network: FaceBackbone, layer: str) -> LastLayers:
    """The network from a layer on; its parameters are shared, not copied.

    Args:
        network: in eval mode.

    Raises:
        ModelError: when there is no such layer, or what comes before it reaches the embedding by
            another way too; says which one can be taken.
    """
    modules = dict(network.named_modules())
    side = network.input_spec.size
    source = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, side, side, generator=source) * 2 - 1
    beside = {}
    if network.needs_keypoints:
        beside["keypoints"] = torch.rand(2, 5, 2, generator=source)
    started, finished = _order(network, modules, pixels, beside)
    if layer not in started:
        known = [name for name in started if name.count(".") <= 1]
        listed = ", ".join(known[:_LISTED]) + (" …" if len(known) > _LISTED else "")
        raise ModelError(f"--from-layer {layer}: not a layer that runs; choose one of {listed}")
    first = started.index(layer)
    done = set(finished[: finished.index(layer)]) & set(started[:first])
    ancestors = {name for name in modules if layer.startswith(name + ".") or name == ""}
    later = [modules[name] for name in started[first:] if name not in ancestors]
    own = {id(parameter) for module in later for parameter in module.parameters(recurse=False)}
    trained = frozenset(
        name
        for name, parameter in network.named_parameters()
        if id(parameter) in own and parameter.requires_grad
    )
    expected = network.run(pixels, **beside)[0]
    maps = before(network, layer, pixels, **beside)
    # Of modules inside modules the outermost.
    outer = [n for n in finished if n in done and n.rpartition(".")[0] not in done]
    if not outer:
        return LastLayers(layer, trained, network, None)
    parent = layer.rpartition(".")[0]
    for chosen in (outer, [name for name in outer if name.rpartition(".")[0] == parent]):
        if not chosen:
            continue
        given = _Given()
        instead: dict[str, nn.Module] = {name: _Passed() for name in chosen[:-1]}
        rest = LastLayers(layer, trained, _with(network, {**instead, chosen[-1]: given}), given)
        try:
            found = rest(maps, **beside)[0]
        except (RuntimeError, TypeError, IndexError):  # shapes of layers that are not bypassed
            continue
        if bool((found - expected).norm() <= _TOLERANCE * expected.norm()):
            return rest
    raise ModelError(
        f"--from-layer {layer}: what comes before it reaches the embedding by another way too; "
        f"choose the first layer of a block, such as {default_layer(network)}"
    )


def _order(
    network: FaceBackbone,
    modules: Mapping[str, nn.Module],
    pixels: Tensor,
    beside: Mapping[str, Tensor],
) -> tuple[list[str], list[str]]:
    """Names of the modules in the order in which they start, and in which they finish."""
    started: list[str] = []
    finished: list[str] = []
    handles = []
    for name, module in modules.items():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: started.append(name)))
        handles.append(module.register_forward_hook(lambda *_, name=name: finished.append(name)))
    try:
        network.run(pixels, **beside)
    finally:
        for handle in handles:
            handle.remove()
    return started, finished


def _with(network: FaceBackbone, instead: Mapping[str, nn.Module]) -> FaceBackbone:
    """The network with other modules in these places; everything else is shared with it."""
    view = _shallow(network)
    for name, module in instead.items():
        *path, last = name.split(".")
        at: nn.Module = view
        for part in path:
            inside = at._modules[part]
            assert inside is not None
            at._modules[part] = at = _shallow(inside)
        at._modules[last] = module
    return view


def _shallow(module: Module) -> Module:
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied
