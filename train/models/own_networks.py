"""A network of the user's own: `module:function` in place of a name.

The function gets the path of the weights, or None where training starts from nothing or fills the
network itself, and returns an `nn.Module` with

* `input_spec`, an `InputSpec`: side, colour order, mean and std of its pixels;
* a forward that gives raw embeddings (N, E), or unit embeddings and norms as ours do;
* `map_layers`, {7: name of a layer, 14: name of a layer}, for everything that compares maps: the
  layers whose outputs are the 7×7 and the 14×14 map. A `FaceBackbone` has its maps already.

Only what was named on the command line is imported. A file that names a network, such as a run's
run.json, is never reason enough to run its code.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faceguide.core.errors import CacheError, ModelError
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.input_spec import InputSpec


def is_own(name: object) -> bool:
    """Whether a name is `module:function`."""
    return isinstance(name, str) and ":" in name


def load_object(reference: str) -> Any:
    """What `module:name` names; the module is imported from the Python path.

    Raises:
        ModelError: when it is not there.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is the user's: it may raise anything
        raise ModelError(
            f"{reference}: cannot be imported ({error}); expected module:function on the Python "
            "path (PYTHONPATH=. for a file of this folder)"
        ) from None


def fault_of(error: BaseException) -> str:
    """An error inside the user's code in one line: kind, text and the line of theirs it is from."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if "site-packages" not in frame.filename]
    last = (theirs or frames)[-1]
    text = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {text} ({Path(last.filename).name}, line {last.lineno})"


def own_network(reference: str, weights: Path | None) -> nn.Module:
    """The user's network as their function makes it.

    Args:
        reference: `module:function`, as given on the command line.

    Raises:
        ModelError: when it cannot be imported, or lacks what is needed.
    """
    function: Callable[[Path | None], Any] = load_object(reference)
    if not callable(function):
        raise ModelError(f"{reference}: expected a function, found {type(function).__name__}")
    try:
        module = function(weights)
    except CacheError:  # the disk failed
        raise
    except Exception as error:  # as above
        given = "" if weights is None else f" on {weights}"
        raise ModelError(f"{reference}: fails{given} with {fault_of(error)}") from None
    if not isinstance(module, nn.Module):
        raise ModelError(f"{reference}: expected an nn.Module, found {type(module).__name__}")
    if not isinstance(getattr(module, "input_spec", None), InputSpec):
        raise ModelError(
            f"{reference}: the network needs an attribute input_spec (faceguide.train.models."
            "input_spec.InputSpec): side, colour order, mean and std of its pixels"
        )
    return module


class OwnBackbone(FaceBackbone):
    """A user's network as a face backbone; its maps are the outputs of named layers.

    Args:
        network: from `own_network`; it is called once here, on two black images.

    Raises:
        ModelError: when a layer does not exist or its output is not the map that it should be.
    """

    def __init__(self, network: nn.Module, reference: str) -> None:
        super().__init__()
        self.network, self.reference = network, reference
        # An in-place `div_` would change the pixels that others look at after it.
        network.register_forward_pre_hook(_copied)
        self.input_spec = network.input_spec  # type: ignore[assignment]
        self.layers: dict[int, str] = dict(getattr(network, "map_layers", {}))
        tail = getattr(network, "linear_tail", None)
        if tail is not None:  # the visible embedding looks for this method
            self.linear_tail = tail
        shown = getattr(network, "cam_layers", None)
        if shown is not None:
            self.cam_layers = tuple(f"network.{name}" for name in shown)
        named = dict(network.named_modules())
        for side, name in self.layers.items():
            if side not in (7, 14) or name not in named:
                raise ModelError(
                    f"{reference}: map_layers must be {{7: name, 14: name}} with names of layers, "
                    f"found {self.layers}"
                )
        self.embedding_size, self.map_channels = _measured(self, reference)

    def feature_map(self, images: Tensor, map_size: int | None = None, **beside: Tensor) -> Tensor:
        """The output of the layer that `map_layers` names; the whole network runs."""
        side = self._check(images, map_size, beside)
        return self.run(images, (side,))[1][side]

    def run(
        self, images: Tensor, sides: Collection[int] = (), **beside: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The raw embedding (N, E), and the maps of these sides."""
        maps: dict[int, Tensor] = {}

        def keep(side: int) -> Callable[..., None]:
            return lambda layer, given, output: maps.update({side: output})

        hooks = [
            self.network.get_submodule(self.layers[side]).register_forward_hook(keep(side))
            for side in sides
        ]
        try:
            found = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return raw_of(found, len(images), self.reference), maps


def raw_of(found: object, count: int, reference: str) -> Tensor:
    """The raw embeddings (N, E) in what a network gave for `count` images.

    Raises:
        ModelError: for anything but embeddings (N, E), or a tuple of those of length 1 and norms.
    """
    match found:
        case Tensor(ndim=2) if len(found) == count and found.is_floating_point():
            return found.float()
        case (Tensor(ndim=2) as unit, Tensor() as norm) if (
            isinstance(found, tuple)
            and len(unit) == count
            and tuple(norm.shape) in ((count, 1), (count,))
            and unit.is_floating_point()
        ):
            return unit.float() * norm.float().reshape(count, 1)
    raise ModelError(
        f"{reference}: its forward must give embeddings (N, E), or those of length 1 and their "
        f"norms (N, 1); found {shape_of(found)} for {count} image{'s' * (count > 1)}"
    )


def _copied(module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.clone() if isinstance(one, Tensor) else one for one in given)


def shape_of(found: object) -> str:
    """What a forward gave, for messages: "a tuple of 2: Tensor (4, 512), Tensor (4, 10)"."""
    if isinstance(found, tuple | list):
        return f"a {type(found).__name__} of {len(found)}: {', '.join(map(_shape, found[:4]))}"
    if isinstance(found, dict):
        listed = ", ".join(f"{name}: {_shape(one)}" for name, one in list(found.items())[:4])
        return f"a {type(found).__name__} of {len(found)}: {listed}"
    return _shape(found)


def _shape(found: object) -> str:
    shape, dtype = getattr(found, "shape", None), getattr(found, "dtype", None)
    if shape is None:
        return type(found).__name__
    kind = "" if dtype == torch.float32 else f" {str(dtype).removeprefix('torch.')}"
    return f"{type(found).__name__} {tuple(shape)}{kind}"


@torch.no_grad()
def _measured(backbone: OwnBackbone, reference: str) -> tuple[int, dict[int, int]]:
    """Numbers in the embedding, and channels of each map, from one pass in eval mode."""
    size = backbone.input_spec.size
    was_training = backbone.network.training
    device = next((p.device for p in backbone.network.parameters()), torch.device("cpu"))
    try:
        backbone.network.eval()
        raw, maps = backbone.run(
            torch.zeros(2, 3, size, size, device=device), tuple(backbone.layers)
        )
    except ModelError:
        raise
    except Exception as error:  # the forward is the user's
        raise ModelError(
            f"{reference}: its forward fails with {fault_of(error)}{precision(backbone)}"
        ) from None
    finally:
        backbone.network.train(was_training)
    for side, name in backbone.layers.items():
        shape = tuple(maps[side].shape) if side in maps else None
        if shape is None or len(shape) != 4 or shape[2:] != (side, side):
            raise ModelError(
                f"{reference}: map_layers names {name} for the {side}×{side} map, but its output "
                f"for two images of {size} pixels is {shape}"
            )
    return raw.shape[1], {side: maps[side].shape[1] for side in backbone.layers}


def precision(network: nn.Module) -> str:
    """The remedy where weights are not of the pixels' precision; "" where they are."""
    others = {tensor.dtype for tensor in network.parameters() if tensor.dtype != torch.float32}
    if not others:
        return ""
    found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
    return f"; its weights are {found} and its pixels float32: call .float() on the network"


def own_backbone(reference: str, weights: Path | None) -> FaceBackbone:
    """The user's network with the interface of a face backbone.

    Raises:
        ModelError: as `own_network` and `OwnBackbone`.
    """
    network = own_network(reference, weights)
    if isinstance(network, FaceBackbone):
        for name in ("embedding_size", "map_channels"):
            if not hasattr(network, name):
                raise ModelError(f"{reference}: a FaceBackbone needs an attribute {name}")
        return network
    return OwnBackbone(network, reference)


def inner(backbone: nn.Module) -> nn.Module:
    """The user's network inside, whose names its weights files bear; else the same module."""
    return backbone.network if isinstance(backbone, OwnBackbone) else backbone
