"""Exported weights: safetensors in the container of `faceguide.core.formats.container`.

Their metadata has one layout, all text: `arch` (a name for `create`, or module:function of the
user's own), `arguments` (JSON, for `create`) and, of a network that takes images, `input_size`,
`colour`, `mean` and `std` (JSON, three numbers, shares of full scale); `step` where it was trained.
Files of others are read as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from faceguide.core.errors import CheckpointError
from faceguide.core.formats.container import intact, metadata_of, write_sealed
from faceguide.train.models.input_spec import InputSpec


def write_weights(
    path: Path,
    tensors: dict[str, Tensor],
    arch: str,
    arguments: Mapping[str, Any],
    spec: InputSpec | None = None,
    step: int | None = None,
) -> None:
    """Write weights, whole or not at all; the same ones give the same bytes.

    Args:
        tensors: by name; contiguous, without shared memory.
        step: at which it was trained so far.

    Raises:
        CacheError: when the system refuses the write.
    """
    about = {"arch": arch, "arguments": json.dumps(dict(arguments), sort_keys=True)}
    if spec is not None:
        about |= {
            "input_size": str(spec.size),
            "colour": spec.colour,
            "mean": json.dumps(spec.mean),
            "std": json.dumps(spec.std),
        }
    if step is not None:
        about["step"] = str(step)
    write_sealed(path, save(tensors), about)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the text metadata of a `.safetensors` file.

    Raises:
        CheckpointError: when the file is missing, is not safetensors, or is one of ours that was
            changed since it was written.
    """
    try:
        whole = path.read_bytes()
        tensors = load(whole)
        metadata = metadata_of(whole)
    except (SafetensorError, OSError, ValueError) as fault:
        text = (str(fault).splitlines() or [type(fault).__name__])[0][:160]
        raise CheckpointError(f"cannot read {path} as safetensors: {text}") from None
    # Ours hold both a digest and what builds the network: one flipped bit leaves one of them.
    if intact(whole) is False or (intact(whole) is None and "arguments" in metadata):
        raise CheckpointError(f"{path}: changed since it was written; copy or export it once more")
    return tensors, metadata
