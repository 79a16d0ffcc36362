"""A trained backbone as one `.safetensors` file that says by itself what it expects as input."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from torch import nn

from faceguide.core.errors import CheckpointError
from faceguide.core.formats.safetensors_file import (
    read_safetensors,
    safetensors_bytes,
)
from faceguide.train.models import create
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.weights import load_matching

FORMAT = "faceguide-backbone-1"


def export_backbone(backbone: nn.Module, path: Path | str, arch: str) -> None:
    """Write weights with their architecture and input statement; the file appears whole or not.

    Metadata, all text: `format`, `arch`, `embedding_size`, `input_size`, `colour`, `mean` and
    `std` (three numbers as JSON, shares of full scale).

    Args:
        backbone: a backbone with `input_spec` and `embedding_size`.
        path: the file to write.
        arch: the name that `create` builds it by, or `module:function` of the user's own.

    Raises:
        CheckpointError: when the package safetensors is not installed.
    """
    spec: InputSpec = backbone.input_spec  # type: ignore[assignment]
    metadata = {
        "format": FORMAT,
        "arch": arch,
        "embedding_size": str(backbone.embedding_size),
        "input_size": str(spec.size),
        "colour": spec.colour,
        "mean": json.dumps(spec.mean),
        "std": json.dumps(spec.std),
    }
    state = {k: v.detach().cpu().contiguous() for k, v in backbone.state_dict().items()}
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with temporary.open("wb") as file:
        file.write(safetensors_bytes(state, metadata))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def import_backbone(path: Path | str) -> nn.Module:
    """The backbone of a file that `export_backbone` wrote, in eval mode.

    Raises:
        CheckpointError: when the file is not such a file, names an architecture that cannot be
            built here, states another input than that architecture's, or lacks tensors.
    """
    path = Path(path)
    state, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"expected metadata format {FORMAT}, found {metadata.get('format')!r} in {path}; "
            "load plain weights with load_weights instead"
        )
    try:
        arch = metadata["arch"]
        embedding_size = int(metadata["embedding_size"])
        mean, std = json.loads(metadata["mean"]), json.loads(metadata["std"])
        stated = InputSpec(
            int(metadata["input_size"]),
            metadata["colour"],
            (mean[0], mean[1], mean[2]),
            (std[0], std[1], std[2]),
        )
    except (KeyError, ValueError, TypeError, IndexError) as fault:
        raise CheckpointError(f"the metadata of {path} is incomplete or wrong: {fault!r}") from None
    backbone = create(arch, embedding_size=embedding_size)
    if backbone.input_spec != stated:
        raise CheckpointError(
            f"{path} was trained with {stated}, but {arch} prepares {backbone.input_spec}"
        )
    report = load_matching(backbone, state, str(path), class_layers=())
    if report.missing or report.unexpected:
        raise CheckpointError(f"{path} does not hold a whole {arch}: {report.summary()}")
    return backbone.eval()
