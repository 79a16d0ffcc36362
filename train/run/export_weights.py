"""Weights for others: safetensors, with what a reader must know of their input as metadata."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from faceguide.core.errors import TrainError
from faceguide.train.loop import BEST
from faceguide.train.models import create
from faceguide.train.models.safetensors_file import write_weights
from faceguide.train.run.checkpoint import load_state

BACKBONE = "backbone.safetensors"


def export(directory: Path, model: str, arguments: dict[str, Any], crop: int, recipe: str) -> None:
    """Write the model of `best.pt` as `backbone.safetensors`, whole or not at all.

    Args:
        directory: of the run.
        model: its name.
        arguments: of `create`.
        crop: side of the images it was trained on.
        recipe: digest of the settings, as in the save.

    Raises:
        TrainError: when there is no `best.pt` of these settings.
    """
    state = load_state(directory / BEST, recipe)
    if state is None:
        raise TrainError(f"{directory / BEST}: not there, so nothing can be exported")
    weights = {
        name.removeprefix("model."): tensor.contiguous()
        for name, tensor in state.module.items()
        if name.startswith("model.")
    }
    # The side that it was trained on may be another than that of the published weights.
    spec = replace(create(model, **arguments).input_spec, size=crop)
    write_weights(directory / BACKBONE, weights, model, arguments, spec, state.step)
