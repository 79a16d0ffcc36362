"""The order of the channels that weights were trained on, as far as their file tells it.

Tensors do not: AdaFace's IR networks want BGR, CVLFace's, with the same names and shapes, RGB. What
is known is what training code leaves beside them; otherwise it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from faceguide.core.errors import CheckpointError
from faceguide.train.models.backbones.ir import IR
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.layout import State

ORDERS = ("RGB", "BGR")


class UnsaidError(CheckpointError):
    """A weights file that leaves open what only the user can say.

    Attributes:
        option: by which it is said, "--colour" or "--heads".
    """

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True)
class Colour:
    """A colour order and how it is known.

    Attributes:
        order: "RGB" or "BGR".
        source: "option", "file", "layout" (of the names in it), "network" (all weights of this
            network have it), or "run".
    """

    order: str
    source: str


def known_colour(module: nn.Module, state: State) -> Colour | None:
    """The colour order of weights as far as it is known without asking.

    Args:
        state: its weights, as they lay in the file.
    """
    stated = state.metadata.get("colour", "").upper()
    if stated in ORDERS:
        return Colour(stated, "file")
    spec: InputSpec = module.input_spec  # type: ignore[assignment]
    if not isinstance(module, IR) or module.arcface or "arch" in state.metadata:
        return Colour(spec.colour, "network")
    if state.prefix.split(".")[-2:] == ["net", ""]:
        return Colour("RGB", "layout")
    # AdaFace's own checkpoints: a Lightning module with `model` and, beside it, the margin head.
    if state.prefix == "model." and state.place == "state_dict" and "head.kernel" in state.tensors:
        return Colour(spec.colour, "network")
    return None


def colour_of(module: nn.Module, state: State, where: object, asked: str | None = None) -> Colour:
    """The colour order of weights.

    Args:
        state: its weights, as they lay in the file.
        asked: what the user says, or None.

    Raises:
        UnsaidError: when nobody says it.
        CheckpointError: when the user contradicts what the file says of itself.
    """
    known = known_colour(module, state)
    if asked is None:
        if known is None:
            raise UnsaidError(
                "--colour",
                f"{where}: an IR network, whose names do not tell the order of its channels: give "
                "--colour bgr for weights of AdaFace, --colour rgb for those of CVLFace",
            )
        return known
    if known is not None and known.source == "file" and known.order != asked:
        raise CheckpointError(
            f"--colour {asked.lower()}: the file says {known.order} of itself; leave --colour out"
        )
    return known if known is not None and known.source == "file" else Colour(asked, "option")


def feed(module: nn.Module, order: str) -> None:
    """Have the network's pixels prepared in this order."""
    spec: InputSpec = module.input_spec  # type: ignore[assignment]
    module.input_spec = spec.in_colour(order)  # type: ignore[assignment]
