"""The order of the channels that weights were trained on, as far as their file tells it.

Tensors do not: AdaFace's IR networks want BGR, CVLFace's, with the same names and shapes, RGB. What
is known is what training code leaves next to them.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from faceguide.core.errors import CheckpointError
from faceguide.train.models.backbones.ir import IR
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.layout import State

ORDERS = ("RGB", "BGR")


@dataclass(frozen=True)
class Colour:
    """A colour order and how it is known.

    Attributes:
        order: "RGB" or "BGR".
        source: "option", "file", "layout" (of the names in it), "network" (all weights of this
            network have it), "run", or "assumed".
    """

    order: str
    source: str


def assumed(colour: Colour, path: object) -> str:
    """What to say of an order that nothing tells."""
    return f"{path}: {colour.order} is assumed, --colour rgb or bgr says it"


def colour_of(module: nn.Module, state: State, asked: str | None = None) -> Colour:
    """The colour order of weights.

    Args:
        module: the network.
        state: its weights, as they lay in the file.
        asked: what the user says, or None.

    Raises:
        CheckpointError: when the user contradicts what the file says of itself.
    """
    stated = state.metadata.get("colour", "").upper()
    if stated in ORDERS:
        if asked not in (None, stated):
            raise CheckpointError(
                f"--colour {asked.lower()}: the file says {stated} of itself; leave --colour out"
            )
        return Colour(stated, "file")
    if asked is not None:
        return Colour(asked, "option")
    spec: InputSpec = module.input_spec  # type: ignore[assignment]
    if not isinstance(module, IR) or "arch" in state.metadata:
        return Colour(spec.colour, "network")
    if state.prefix.split(".")[-2:] == ["net", ""]:
        return Colour("RGB", "layout")
    # AdaFace's own checkpoints: a Lightning module with `model` and, next to it, the margin head.
    if state.prefix == "model." and state.place == "state_dict" and "head.kernel" in state.tensors:
        return Colour(spec.colour, "network")
    return Colour(spec.colour, "assumed")


def feed(module: nn.Module, order: str) -> None:
    """Have the network's pixels prepared in this order."""
    spec: InputSpec = module.input_spec  # type: ignore[assignment]
    module.input_spec = spec.in_colour(order)  # type: ignore[assignment]
