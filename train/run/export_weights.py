"""Weights for others: safetensors, with what a reader must know of their input as metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from faceguide.core.errors import TrainError
from faceguide.core.files import write_bytes
from faceguide.core.formats.safetensors_file import safetensors_bytes
from faceguide.train.loop import BEST
from faceguide.train.models import create
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
    spec = create(model, **arguments).input_spec
    described = {
        "arch": model,
        **{name: str(value) for name, value in arguments.items()},
        "crop": str(crop),
        "colour": spec.colour,
        "mean": ",".join(map(str, spec.mean)),
        "std": ",".join(map(str, spec.std)),
        "step": str(state.step),
    }
    write_bytes(directory / BACKBONE, safetensors_bytes(weights, described))
