"""The models of a `train oaml` run: built, filled, handed to an optimiser, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from faceguide.cache.console import say
from faceguide.cache.files import write_bytes
from faceguide.train.errors import TrainError
from faceguide.train.loop import BEST
from faceguide.train.models import create
from faceguide.train.models.backbone import FaceBackbone
from faceguide.train.models.checkpoint import load_matching, read_state, split_head
from faceguide.train.models.safetensors_file import safetensors_bytes
from faceguide.train.oaml import OamlTrainee
from faceguide.train.oaml_request import OamlRun
from faceguide.train.resume import load_state

MOMENTUM = 0.9
# AdaFace's steps at epochs 12, 20 and 24 of 26.
MILESTONES = (12 / 26, 20 / 26, 24 / 26)


def build(run: OamlRun, classes: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Role → name and arguments of every model of the run."""
    probe: FaceBackbone = create(run.backbone)
    side = run.recipe.map_size
    channels = probe.map_channels[side]
    models: dict[str, tuple[str, dict[str, Any]]] = {
        "backbone": (run.backbone, {"embedding_size": probe.embedding_size}),
        "occlusion_head": ("occlusion_head", {"channels": channels}),
    }
    if run.recipe.part != "occlusion":
        models["head"] = (
            run.head,
            {"num_classes": classes, "embedding_size": probe.embedding_size},
        )
        models["matcher"] = (
            "qaconv",
            {"version": run.qaconv, "channels": channels, "height": side, "width": side,
             "weighting": run.weighting},
        )  # fmt: skip
    return models


def initialise(parts: dict[str, Any], path: Path, speak: bool) -> None:
    """Backbone, and the margin head where the file has one of as many classes."""
    backbone, head = split_head(read_state(path))
    lines = [load_matching(parts["backbone"], backbone, str(path)).summary()]
    if head and "head" in parts:
        lines.append(load_matching(parts["head"], head, f"{path} (head)").summary())
    if speak:
        for line in lines:
            say(line)


def optimiser_of(trainee: OamlTrainee, run: OamlRun) -> torch.optim.Optimizer:
    """SGD for the whole network, AdamW for parts on a frozen one; no decay on BatchNorm."""
    norms: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in trainee.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.requires_grad:
                is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
                (norms if is_norm else others).append(parameter)
    groups = [
        {"params": others, "weight_decay": run.weight_decay},
        {"params": norms, "weight_decay": 0.0},
    ]
    if run.recipe.part == "all":
        return torch.optim.SGD(groups, run.rate, momentum=MOMENTUM)
    return torch.optim.AdamW(groups, run.rate)


def rate_at(run: OamlRun, done: float) -> float:
    """AdaFace's three steps for the whole network, a cosine for parts."""
    if run.recipe.part == "all":
        return run.rate * 0.1 ** sum(done >= milestone for milestone in MILESTONES)
    return run.rate * max(0.5 * (1.0 + float(np.cos(np.pi * min(done, 1.0)))), 1e-3)


def export(directory: Path, described: dict[str, tuple[str, Any]], recipe: str) -> None:
    """Each model of the best save as safetensors."""
    state = load_state(directory / BEST, recipe)
    if state is None:
        raise TrainError(f"{directory / BEST}: not there, so nothing can be exported")
    for role, (name, arguments) in described.items():
        prefix = f"{role}."
        weights = {
            key.removeprefix(prefix): tensor.contiguous()
            for key, tensor in state.module.items()
            if key.startswith(prefix)
        }
        metadata = {"arch": name, **{key: str(value) for key, value in arguments.items()}}
        write_bytes(directory / f"{role}.safetensors", safetensors_bytes(weights, metadata))
