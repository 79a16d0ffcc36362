"""Weights for others: one safetensors file a model, with what a reader must know as metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from faceguide.core.errors import TrainError
from faceguide.train.models.own_networks import inner
from faceguide.train.models.safetensors_file import write_weights
from faceguide.train.run.checkpoint import BEST, load_state

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

    A user's network is written under its own names; `write_weights` says what the metadata hold.

    Args:
        recipe: digest of the settings, as in the checkpoint.
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
        spec: Any = getattr(part, "input_spec", None)
        if spec is not None and crop is not None:
            spec = replace(spec, size=crop)
        path = directory / f"{role}.safetensors"
        write_weights(path, weights, name, arguments, spec, state.step)
