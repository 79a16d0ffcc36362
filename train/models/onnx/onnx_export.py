"""A network as an ONNX file that takes RGB pixels as they are, 0 to 255.

Colour order, mean and std are inside the graph, where insightface's reader looks for them, so that
no reader has to know them. torch.onnx traces the network once, with any number of images.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError
from faceguide.core.files import write_bytes
from faceguide.train.models.embedder import embed
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.occlusion_head import OcclusionHead
from faceguide.train.models.onnx.onnx_graph import EMBEDDING, KEYPOINTS, PREFIX, VISIBILITY, package

TOLERANCE = 1e-5  # largest difference from torch, as a share of the largest number
_INPUT = "data"
_TRIED = 3  # images of the comparison; another number than was traced


class _Whole(nn.Module):
    """RGB pixels (N, 3, S, S), 0 to 255 → raw embeddings (N, E), and visibility (N, h, w).

    Of a network that needs them, keypoints (N, 5, 2) are a second input.
    """

    order: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, backbone: nn.Module, head: OcclusionHead | None, map_side: int) -> None:
        super().__init__()
        self.backbone, self.head, self.map_side = backbone, head, map_side
        spec: InputSpec = backbone.input_spec  # type: ignore[assignment]
        self.swaps = spec.colour == "BGR"
        self.register_buffer("order", torch.tensor([2, 1, 0]))
        self.register_buffer("mean", torch.tensor(spec.mean)[None, :, None, None] * 255)
        self.register_buffer("scale", 1 / (torch.tensor(spec.std)[None, :, None, None] * 255))

    def forward(self, data: Tensor, keypoints: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.swaps:
            data = data.index_select(1, self.order)
        pixels = (data - self.mean) * self.scale
        beside = {} if keypoints is None else {KEYPOINTS: keypoints}
        side = self.map_side if self.head else None
        unit, norm, maps = embed(self.backbone, pixels, side, **beside)
        if self.head is None or maps is None:
            return (unit * norm,)
        return unit * norm, self.head(maps)[:, 0]


def export_onnx(
    backbone: nn.Module,
    path: Path,
    arch: str,
    head: OcclusionHead | None = None,
    map_side: int = 7,
) -> dict[str, float]:
    """Write a network, once ONNX Runtime gives what torch gives.

    Args:
        backbone: in eval mode, on the CPU; has an `input_spec`.
        path: the file; written whole or not at all.
        arch: name of the network, for the metadata.
        head: gives the second output, or None.
        map_side: of the map that the head looks at.

    Returns:
        Output → largest difference from torch, as a share of its largest number. "embedding" is
        the raw embedding (N, E), whose length is the norm; "visibility" (N, h, w) is 1 where a
        cell can be seen.

    Raises:
        ModelError: when an extra is missing, torch cannot export the network, or the numbers
            differ by more than `TOLERANCE` and rounding.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        package(name)
    spec: InputSpec = backbone.input_spec  # type: ignore[assignment]
    whole = _Whole(backbone, head, map_side).eval()
    names = [EMBEDDING, VISIBILITY][: 1 if head is None else 2]
    random = np.random.default_rng(0)
    pictures = torch.from_numpy(random.random((_TRIED, 3, 8, 8), np.float32)) * 255
    pictures = nn.functional.interpolate(pictures, size=(spec.size, spec.size), mode="bicubic")
    given = {_INPUT: pictures.clamp(0, 255).round()}
    if getattr(backbone, "needs_keypoints", False):
        given[KEYPOINTS] = torch.from_numpy(random.random((_TRIED, 5, 2), np.float32))
    proto = _traced(whole, given, names, arch)
    for key, value in (("arch", arch), ("colour", "RGB")):
        entry = proto.metadata_props.add()
        entry.key, entry.value = PREFIX + key, value
    _name_scaling(proto.graph)
    try:
        content = proto.SerializeToString()
    except ValueError:
        raise ModelError(f"{arch}: larger than the 2 GB that an ONNX file may hold") from None
    found = _compared(whole, content, given, names, arch)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)
    return found


def _traced(whole: _Whole, given: dict[str, Tensor], names: list[str], arch: str) -> Any:
    """The graph as torch.onnx makes it, of all but the last of these faces."""
    batch = torch.export.Dim("batch")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                whole, tuple(one[:-1] for one in given.values()), dynamo=True, verbose=False,
                input_names=list(given), output_names=names,
                dynamic_shapes={name: {0: batch} for name in given},
            )  # fmt: skip
    except Exception as fault:  # the network may be a user's
        text = (str(fault).strip().splitlines() or [type(fault).__name__])[0][:160]
        raise ModelError(f"{arch}: torch.onnx cannot export it: {text}") from None
    assert program is not None
    return program.model_proto


def _name_scaling(graph: Any) -> None:
    """Name the two nodes of the normalisation as insightface's reader looks for them."""
    for node in graph.node[:8]:
        if node.op_type in ("Sub", "Mul"):
            node.name = f"{node.op_type}_{node.name}"


def _compared(
    whole: _Whole, content: bytes, faces: dict[str, Tensor], names: list[str], arch: str
) -> dict[str, float]:
    """Output → largest difference from torch, as a share of its largest number.

    Random weights can make rounding larger than the tolerance; then it is twice what torch itself
    is away from double precision.
    """
    runtime = package("onnxruntime")
    try:
        session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
        given = session.run(names, {name: one.numpy() for name, one in faces.items()})
    except Exception as fault:  # ONNX Runtime raises classes of its own
        text = " ".join(str(fault).split())[:200]
        raise ModelError(
            f"{arch}: ONNX Runtime cannot run what torch.onnx made of it on {_TRIED} images: {text}"
        ) from None
    with torch.no_grad():
        wanted = whole(*faces.values())
    found = {}
    for place, (name, one) in enumerate(zip(names, given, strict=True)):
        found[name] = _share(torch.from_numpy(one), wanted[place])
        if found[name] > TOLERANCE:
            with torch.no_grad():
                exact = copy.deepcopy(whole).double()(*(one.double() for one in faces.values()))
            if found[name] > 2 * _share(wanted[place], exact[place]):
                raise ModelError(
                    f"{arch}: {name} of ONNX Runtime differs from torch's by {found[name]:.1e}, "
                    f"more than {TOLERANCE:.0e}; nothing is written"
                )
    return found


def _share(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max().clamp_min(1e-30))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's notes on operators of packages that are not installed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
