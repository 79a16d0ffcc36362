"""The models of a `train oaml` run: built, filled, handed to an optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from click.core import ParameterSource
from torch import nn

from faceguide.cache.plan import read_identities
from faceguide.core.commands.console import say
from faceguide.core.commands.doubts import phrase
from faceguide.core.commands.run_directory import RUN
from faceguide.core.errors import ModelError, TrainError
from faceguide.core.files import read_json
from faceguide.train.models import create
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.colour import ORDERS, colour_of, feed
from faceguide.train.models.layout import find
from faceguide.train.models.loading.network_file import arguments_in, name_in, weights_in
from faceguide.train.models.margin_heads import MarginHead
from faceguide.train.models.own_networks import inner, is_own, own_backbone
from faceguide.train.models.weights import fill, find_state, load_weights, read_tables, untrained
from faceguide.train.oaml.oaml_settings import BACKBONES, OamlRun
from faceguide.train.oaml.oaml_step import OamlTrainee
from faceguide.train.training_settings import LoopSettings

MOMENTUM = 0.9
# AdaFace's steps at epochs 12, 20 and 24 of 26.
MILESTONES = (12 / 26, 20 / 26, 24 / 26)


Described = dict[str, tuple[str, dict[str, Any]]]


def build(
    run: OamlRun, classes: int, directory: Path, fresh: bool
) -> tuple[Described, dict[str, Any]]:
    """Every model of the run.

    Args:
        fresh: training starts, so that `run.init` is read, by a user's network itself.

    Returns:
        role → name and arguments, and role → module.

    Raises:
        ModelError: when the backbone lacks the map, or a user's network what is needed.
    """
    own = is_own(run.backbone)
    reads = fresh and run.init is not None and not run.init.is_dir()
    arguments = {} if own else _arguments(run, directory, fresh)
    probe: FaceBackbone = (
        own_backbone(run.backbone, run.init if reads else None)
        if own
        else create(run.backbone, **arguments)
    )
    side = run.recipe.map_size
    if side not in probe.map_channels:
        raise ModelError(
            f"{run.backbone}: has maps of side {sorted(probe.map_channels)}, --map {side} was "
            f"asked for; a network of your own names the layer in map_layers = {{{side}: …}}"
        )
    channels = probe.map_channels[side]
    size = {"embedding_size": probe.embedding_size}
    described: Described = {
        "backbone": (run.backbone, {} if own else {**arguments, **size}),
        "occlusion_head": ("occlusion_head", {"channels": channels}),
    }
    if run.recipe.part != "occlusion":
        if run.sample_classes is None:
            described["head"] = (run.head, {"num_classes": classes, **size})
        described["matcher"] = (
            "qaconv",
            {"version": run.qaconv, "channels": channels, "height": side, "width": side,
             "weighting": run.weighting},
        )  # fmt: skip
    parts = {
        role: probe if own and role == "backbone" else create(name, **arguments)
        for role, (name, arguments) in described.items()
    }
    return described, parts


def _arguments(run: OamlRun, directory: Path, fresh: bool) -> dict[str, Any]:
    """How the network is built: as the run's record says, or the weights that it starts from."""
    if not fresh:
        entry = read_json(directory / RUN).get("models", {}).get("backbone", {})
        return dict(entry.get("arguments", {}))
    return {} if run.init is None else arguments_in(weights_in(run.init), run.backbone)


def margin_of(run: OamlRun, loop: LoopSettings) -> MarginHead:
    """The margin head of a run that samples its classes: margin and statistics, no kernel.

    Raises:
        TrainError: for options that sampling does not go with.
    """
    if run.recipe.part != "all":
        raise TrainError("--sample-classes is for --train all; leave it out")
    if loop.accumulate > 1 or loop.amp == "fp16":
        raise TrainError("--sample-classes needs --accumulate 1 and --amp off or bf16")
    head: MarginHead = create(run.head, num_classes=1, embedding_size=1)
    head.kernel = None
    return head


def initialise(parts: dict[str, Any], run: OamlRun, people: Sequence[str], speak: bool) -> None:
    """Fill the models with the weights of `run.init`, and feed the backbone as those were.

    Args:
        parts: role → module.
        run: what is asked for. Of a weights file backbone and margin head are taken, the head
            where it has as many classes; of a finished run every model, the head where it learnt
            the same identities.
        people: the identities to be learnt, in the order of their classes.
        speak: say what was taken, one line per model, and what stays random.

    Raises:
        CheckpointError: when a tensor does not fit.
        TrainError: when a frozen backbone would stay random, or parts of it.
    """
    own, backbone = is_own(run.backbone), parts["backbone"]
    if own and run.colour is not None:
        raise TrainError(
            f"--colour: {run.backbone} says its colour order in input_spec; leave --colour out"
        )
    lines: list[str] = []
    if run.init is None:
        lines.append(_random(run))
        if run.colour is not None:
            feed(backbone, run.colour.upper())
    elif own and not run.init.is_dir():
        lines.append(
            f"{run.init}: read by {run.backbone} itself; the margin head starts from random weights"
        )
    else:
        file = weights_in(run.init)
        state = find_state(file, inner(backbone))
        report = fill(inner(backbone), state, file)
        if run.recipe.part != "all" and (report.missing or report.dropped):
            raise TrainError(
                f"--train {run.recipe.part} leaves the backbone as it is, and parts of it would "
                f"stay random: {report.summary()}"
            )
        lines.append(report.summary())
        if run.recipe.part != "all" and untrained(backbone):
            lines.append(f"Warning: {file}: {phrase('untrained', 1)}")
        lines.extend(_others(parts, run.init, people))
        if not own:
            asked = run.colour and run.colour.upper()
            feed(backbone, colour_of(backbone, state, file, asked).order)
    if speak:
        for line in lines:
            say(line)


def name_of(run: OamlRun, given: ParameterSource | None) -> str:
    """The name of the network to train: where none was given, that in the weights to start from.

    Raises:
        CheckpointError: when they do not say it.
        TrainError: for a network that is not trained here.
    """
    init = run.init if given is ParameterSource.DEFAULT else None
    if init is None:
        return run.backbone
    name = name_in(weights_in(init))
    if name not in BACKBONES:
        raise TrainError(f"{init}: holds {name}; train oaml trains {', '.join(BACKBONES)}")
    if name == "vit" and "heads" not in arguments_in(weights_in(init), name):
        raise TrainError(
            f"{init}: a vision transformer whose number of heads no shape tells; train oaml trains "
            "those of known shapes, which `evaluate networks` lists"
        )
    return name


def feed_as_before(directory: Path, backbone: nn.Module) -> None:
    """Feed the backbone of a resumed run as its record says."""
    stated = read_json(directory / RUN).get("models", {}).get("backbone", {}).get("colour")
    if stated in ORDERS:
        feed(backbone, stated)


def _random(run: OamlRun) -> str:
    """What to say of a start from nothing; a frozen backbone must not have one."""
    if not is_own(run.backbone):
        if run.recipe.part != "all":
            raise TrainError(
                f"--train {run.recipe.part} leaves the backbone as it is, and without --init it is "
                "random: give --init, the weights of a face network or a run of train oaml"
            )
        return "Warning: no --init: the network starts from random weights"
    if run.recipe.part != "all":
        return (
            f"Warning: no --init: {run.backbone} stays as its function made it, which must be "
            f"trained already, since --train {run.recipe.part} leaves it as it is"
        )
    return f"Warning: no --init: the network starts as {run.backbone} makes it"


def _others(parts: dict[str, Any], path: Path, people: Sequence[str]) -> list[str]:
    """Fill the models other than the backbone; what was taken, a line each."""
    lines = []
    for role, module in parts.items():
        if role == "backbone":
            continue
        if path.is_dir():
            file = path / f"{role}.safetensors"
            if not file.exists():
                continue
            if role == "head" and read_identities(path) != list(people):
                lines.append(f"{file}: left out, its classes are other identities")
                continue
            lines.append(load_weights(module, file).summary())
        elif role == "head" and (state := find(read_tables(path), module)) is not None:
            lines.append(fill(module, state, f"{path} (head)").summary())
    return lines


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
        return torch.optim.SGD(groups, run.start_rate, momentum=MOMENTUM)
    return torch.optim.AdamW(groups, run.start_rate)


def rate_at(run: OamlRun, done: float) -> float:
    """AdaFace's three steps for the whole network, a cosine for parts."""
    if run.recipe.part == "all":
        return run.start_rate * 0.1 ** sum(done >= milestone for milestone in MILESTONES)
    return run.start_rate * max(0.5 * (1.0 + float(np.cos(np.pi * min(done, 1.0)))), 1e-3)
