"""What networks there are, and what a file of weights is, before anything is computed with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from faceguide.core.errors import ModelError
from faceguide.train.models import BACKBONES, outline
from faceguide.train.models.backbones.backbone import FaceBackbone, HasLinearTail
from faceguide.train.models.cal_network import WSDANCAL
from faceguide.train.models.colour import UnsaidError
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.loading.network import load_network
from faceguide.train.models.onnx.onnx_graph import is_onnx, read_graph
from faceguide.train.models.onnx.onnx_network import NAME, OnnxNetwork, session


def works_with(module: nn.Module, name: str) -> list[str]:
    """Names of matchers, of kinds of attribution and of trainings that suit a network of a name."""
    found = ["cosine"]
    if isinstance(module, FaceBackbone) and module.map_channels:
        found += ["qaconv", "qaconv+occlusion"]
        if isinstance(module, HasLinearTail):
            found.append("visible-embedding")
    found.append("occlusion maps")
    if not isinstance(module, OnnxNetwork):
        found.append("gradients")
    if hasattr(module, "attention_matrices"):
        found.append("rollout")
    if isinstance(module, WSDANCAL):
        found += ["attention-cam", "train cal"]
    elif isinstance(module, FaceBackbone) and (name != "vit" or module.needs_keypoints):
        found.append("train oaml")
    return found


def networks() -> list[dict[str, Any]]:
    """Every network by its name: its pixels, and what works with it."""
    rows = []
    for name in BACKBONES:
        try:
            module = outline(name, **({"num_classes": 1} if name.startswith("cal_") else {}))
        except ModelError:  # it needs sizes that a file tells
            continue
        rows.append({"network": name, **_pixels(module), "works_with": works_with(module, name)})
    return rows


def _pixels(module: nn.Module) -> dict[str, Any]:
    spec: InputSpec = module.input_spec  # type: ignore[assignment]
    return {"side": spec.size, "colour": spec.colour, "mean": spec.mean, "std": spec.std}


def describe_file(
    path: Path,
    backbone: str | None = None,
    colour: str | None = None,
    heads: int | None = None,
    output: str | None = None,
) -> dict[str, Any]:
    """What a weights file, a folder or a run is.

    Args:
        path: what is looked at; it is read whole.
        backbone, colour, heads, output: what the user says, as `load_network` takes it.

    Returns:
        network, side, colour, mean, std, assumed, works_with and sha256. `assumed` says, a line
        each, what the file does not tell by itself and what becomes of it; where only the user
        can tell the colour order, `colour` is None.

    Raises:
        FaceguideError: when the file cannot be read or is no network that is known.
    """
    if is_onnx(path) and backbone is None:
        return _describe_onnx(path, colour, output)
    unsaid: list[str] = []
    while True:
        try:
            given = "RGB" if "--colour" in unsaid else colour, 1 if "--heads" in unsaid else heads
            network = load_network(backbone, path, "cpu", *given, output)
            break
        except UnsaidError as lack:
            unsaid.append(lack.option)
    assumed = [_UNSAID[option] for option in unsaid]
    pixels = _pixels(network.backbone)
    if "--colour" in unsaid:
        pixels["colour"] = None
    elif network.colour is not None and network.colour.source == "layout":
        assumed.append(f"colour: {network.colour.order}, as its names are laid out")
    return {
        "network": network.name,
        **pixels,
        "assumed": assumed,
        "works_with": works_with(network.backbone, network.name),
        "sha256": network.sha256,
    }


_UNSAID = {
    "--colour": "colour: the file does not tell it; --colour rgb or bgr is needed",
    "--heads": "heads: no shape tells how many its attention has; --heads is needed",
}


def _describe_onnx(path: Path, colour: str | None, output: str | None) -> dict[str, Any]:
    graph = read_graph(path)
    session(graph)  # it can be run
    if graph.size is None:
        graph.spec(colour)  # says how to fix it
    assumed = []
    order = colour or graph.colour
    if order is None:
        assumed.append("colour: no ONNX graph tells it; --colour rgb or bgr is needed")
    else:
        graph.spec(colour)
    if graph.scale_from == "assumed":
        assumed.append("mean, std: 127.5, as the graph does not scale its pixels")
    chosen: str | None = None
    candidates = [one.name for one in graph.outputs if one.may_embed]
    if output is None and graph.arch is None and len(graph.outputs) > 1 and candidates:
        assumed.append(f"embedding: --onnx-output is needed, {' or '.join(candidates)}")
    else:
        chosen = graph.output(output).name
    return {
        "network": NAME,
        "side": graph.size,
        "colour": order,
        "mean": (graph.mean,) * 3,
        "std": (graph.std,) * 3,
        "assumed": assumed,
        "works_with": ["cosine", "occlusion maps"],
        "sha256": graph.sha256,
        "exported_from": graph.arch,
        "outputs": {one.name: one.shape for one in graph.outputs},
        "embedding": chosen,
    }
