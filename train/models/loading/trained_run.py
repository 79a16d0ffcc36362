"""The networks of a run of `train`, out of its directory."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from faceguide.core.commands.run_directory import file_of_run, read_run
from faceguide.core.errors import EvaluationError
from faceguide.core.files import file_sha256
from faceguide.train.models import blank
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.cal_network import WSDANCAL
from faceguide.train.models.colour import ORDERS, Colour, feed
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.loading.network_file import (
    UNASKED,
    first_line,
    outline_within,
    refuse_own_colour,
    whole,
)
from faceguide.train.models.matchers.qaconv import QAConv
from faceguide.train.models.occlusion_head import OcclusionHead
from faceguide.train.models.own_networks import inner, is_own, own_backbone
from faceguide.train.models.weights import find_state


@dataclass(frozen=True)
class TrainedRun:
    """What a run left; see `Network` for the meaning of each.

    Attributes:
        name: of the backbone.
        backbone: filled, and fed in its colour order.
        sha256: of all weights files.
        map_side: side of the maps that matcher and occlusion head look at.
        matcher: or None.
        occlusion_head: or None.
        notes: what was loaded, a line each.
        colour: None for a user's network.
    """

    name: str
    backbone: nn.Module
    sha256: str
    map_side: int
    matcher: QAConv | None
    occlusion_head: OcclusionHead | None
    notes: list[str]
    colour: Colour | None


def read_trained(backbone: str | None, run: Path, asked: str | None) -> TrainedRun:
    """The networks of a run, filled.

    Args:
        backbone: its name, which is checked, or a user's `module:function`; None = as the run says.
        run: its directory.
        asked: "RGB" or "BGR", as the user says, or None.

    Raises:
        EvaluationError: when the run does not describe its models, or not these.
        CheckpointError: when a file cannot be read or does not hold the whole of one.
    """
    record = read_run(run)
    models = record.get("models")
    if not isinstance(models, dict) or not isinstance(models.get("backbone"), dict):
        raise EvaluationError(
            f"{run / 'run.json'}: names no models; give --backbone and a weights file instead"
        )
    name = models["backbone"].get("name")
    if is_own(name) and backbone is None:
        raise EvaluationError(UNASKED.format(where=run, name=name))
    if backbone not in (None, name):
        raise EvaluationError(
            f"{run}: was trained with {name}, not {backbone}; leave --backbone out"
            + (f" or give {name}" if is_own(name) else "")
        )
    loaded: dict[str, nn.Module] = {}
    hashes, notes = hashlib.sha256(), []
    for role in ("backbone", "matcher", "occlusion_head"):
        entry = models.get(role)
        if entry is None:
            continue
        sound = (
            isinstance(entry, dict)
            and isinstance(entry.get("name"), str)
            and isinstance(entry.get("weights"), str)
            and isinstance(entry.get("arguments", {}), dict)
        )
        if not sound:
            raise EvaluationError(
                f"{run / 'run.json'}: models.{role} needs name, arguments and weights"
            )
        path = file_of_run(run, entry["weights"])
        if path is None:
            raise EvaluationError(f"{run / 'run.json'}: models.{role} lies outside the run")
        own = role == "backbone" and is_own(entry["name"])
        loaded[role] = (
            own_backbone(entry["name"], None) if own else _created(run, role, entry, path)
        )
        state = find_state(path, inner(loaded[role]))
        notes.append(whole(inner(loaded[role]), state, path).summary())
        hashes.update(file_sha256(path).encode())
    matcher, head = loaded.get("matcher"), loaded.get("occlusion_head")
    if not isinstance(matcher, QAConv | None) or not isinstance(head, OcclusionHead | None):
        raise EvaluationError(f"{run / 'run.json'}: matcher must be qaconv, head occlusion_head")
    module = loaded["backbone"]
    if not isinstance(module, FaceBackbone | WSDANCAL):
        raise EvaluationError(f"{run / 'run.json'}: expected a face network, found {name}")
    sides = sorted(module.map_channels) if isinstance(module, FaceBackbone) else [7, 14]
    side = record.get("map", matcher.height if matcher else getattr(module, "map_side", 7))
    if type(side) is not int or (side not in sides and (matcher or head or "map" in record)):
        raise EvaluationError(f"{run / 'run.json'}: map must be one of {sides}, found {side!r}")
    colour = _colour_of_run(module, run, models["backbone"], asked)
    return TrainedRun(name, module, hashes.hexdigest(), side, matcher, head, notes, colour)


def _colour_of_run(module: nn.Module, run: Path, models: Any, asked: str | None) -> Colour | None:
    """The order that training fed its network; runs of earlier versions fed the network's own."""
    name = models["name"]
    if is_own(name):
        refuse_own_colour(name, asked)
        return None
    stated = models.get("colour")
    if stated not in (None, *ORDERS):
        raise EvaluationError(
            f"{run / 'run.json'}: models.backbone.colour must be RGB or BGR, found {stated!r}"
        )
    spec: InputSpec = module.input_spec  # type: ignore[assignment]
    order = str(stated or spec.colour)
    if asked not in (None, order):
        raise EvaluationError(f"--colour: {run} was trained on {order}; leave --colour out")
    feed(module, order)
    return Colour(order, "run")


def _created(run: Path, role: str, entry: dict[str, Any], weights: Path) -> nn.Module:
    """An empty model of a run, once it is known to be no larger than its weights."""
    arguments = entry.get("arguments", {})
    try:
        outline_within(entry["name"], arguments, weights)
        module: nn.Module = blank(entry["name"], **arguments)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError) as error:
        raise EvaluationError(
            f"{run / 'run.json'}: models.{role} cannot be built ({first_line(error)})"
        ) from None
    return module
