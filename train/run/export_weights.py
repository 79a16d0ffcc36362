"""Weights for others: one safetensors file a model, with what a reader must know as metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from faceguide.core.errors import TrainError
from faceguide.core.files import write_bytes
from faceguide.core.formats.safetensors_file import safetensors_bytes
from faceguide.train.loop import BEST
from faceguide.train.models.own_networks import inner
from faceguide.train.run.checkpoint import load_state

BACKBONE = "backbone.safetensors"

# Role → the name that `create` builds the model by, and its arguments.
Described = Mapping[str, tuple[str, dict[str, Any]]]


def export(
    directory: Path,
    recipe: str,
    described: Described,
    parts: Mapping[str, nn.Module],
    *,
    saved_as: Mapping[str, str] | None = None,
    crop: int | None = None,
) -> None:
    """Write each model of `best.pt` as ROLE.safetensors, whole or not at all.

    A user's network is written under its own names. Metadata, all text: `arch`, the arguments,
    and of a network that takes images `crop` (pixels a side), `colour`, `mean`, `std` and `step`.

    Args:
        directory: of the run.
        recipe: digest of the settings, as in the checkpoint.
        described: the models to write.
        parts: role → module.
        saved_as: role → the checkpoint's name of it, where that is another.
        crop: side of the images it was trained on; None = that of the network.

    Raises:
        TrainError: when there is no `best.pt` of these settings.
    """
    state = load_state(directory / BEST, recipe)
    if state is None:
        raise TrainError(f"{directory / BEST}: not there, so nothing can be exported")
    for role, (name, arguments) in described.items():
        part = parts[role]
        prefix = (saved_as or {}).get(role, role) + ("." if inner(part) is part else ".network.")
        # Cloned: a user's network may hold one tensor under two names.
        weights = {
            key.removeprefix(prefix): tensor.contiguous().clone()
            for key, tensor in state.module.items()
            if key.startswith(prefix)
        }
        metadata = {"arch": name, **{key: str(value) for key, value in arguments.items()}}
        spec: Any = getattr(part, "input_spec", None)
        if spec is not None:
            metadata |= {
                "crop": str(crop or spec.size),
                "colour": spec.colour,
                "mean": ",".join(map(str, spec.mean)),
                "std": ",".join(map(str, spec.std)),
                "step": str(state.step),
            }
        write_bytes(directory / f"{role}.safetensors", safetensors_bytes(weights, metadata))
