"""A network with weights, ready to describe faces."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.run_directory import RUN
from faceguide.core.errors import EvaluationError
from faceguide.core.files import file_sha256
from faceguide.train.models import BACKBONES
from faceguide.train.models.backbones.backbone import FaceBackbone, mirrored_points
from faceguide.train.models.cal_network import WSDANCAL
from faceguide.train.models.colour import Colour
from faceguide.train.models.embedder import embed
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.loading.network_file import read_network, read_own
from faceguide.train.models.loading.trained_run import read_trained
from faceguide.train.models.matchers.qaconv import QAConv
from faceguide.train.models.occlusion_head import OcclusionHead
from faceguide.train.models.onnx import onnx_network
from faceguide.train.models.onnx.onnx_graph import is_onnx, read_graph
from faceguide.train.models.onnx.onnx_network import OnnxNetwork
from faceguide.train.models.own_networks import is_own
from faceguide.train.models.weights import untrained


class NotFiniteError(EvaluationError):
    """A face whose embedding, map or visibility holds NaN or infinity.

    Attributes:
        place: of the face in its batch.
    """

    def __init__(self, network: str, column: str, place: int, face: str = "a face") -> None:
        super().__init__(
            f"{network}: {column} of {face} is not finite; look at this image, or are these the "
            "wrong weights for this network?"
        )
        self.network, self.column, self.place = network, column, place


@dataclass(frozen=True)
class Network:
    """What turns crops into embeddings, maps and visibility.

    Attributes:
        name: of the backbone.
        backbone: a face backbone or a CAL model, in eval mode.
        sha256: of all weights files.
        map_side: side of the feature maps, 7 or 14.
        matcher: trained QAConv, or None.
        occlusion_head: or None.
        run: the training run's directory, or None for a weights file.
        notes: what was loaded, a line each.
        source: the weights file or the run, or None.
        colour: order of the channels, and how it is known; None for a user's network.
        output: of an ONNX graph, as it was asked for; None otherwise.
        doubts: about the weights.
        heads: of its attention, where the user had to say it.
        hidden: what becomes of occluded cells: "zero", they do not count; or "drop", a vision
            transformer does not see them.
        precision: "float32", or "bf16": forward passes in bfloat16 where torch allows it.
    """

    name: str
    backbone: nn.Module
    sha256: str
    map_side: int = 7
    matcher: QAConv | None = None
    occlusion_head: OcclusionHead | None = None
    run: Path | None = None
    notes: list[str] = field(default_factory=list)
    source: Path | None = None
    colour: Colour | None = None
    output: str | None = None
    doubts: Doubts = field(default_factory=Doubts)
    heads: int | None = None
    hidden: str = "zero"
    precision: str = "float32"

    @property
    def needs_keypoints(self) -> bool:
        """Whether it must be told where five landmarks of each face lie."""
        return bool(getattr(self.backbone, "needs_keypoints", False))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a cache that it needs of a face, besides the image."""
        drops = ("visibility", "known") if self.hidden == "drop" else ()
        return (("landmarks",) if self.needs_keypoints else ()) + drops

    @property
    def device(self) -> torch.device:
        """Where it works."""
        return next(self.backbone.parameters()).device

    @property
    def input_spec(self) -> InputSpec:
        """The pixels that it was trained on."""
        spec: InputSpec = self.backbone.input_spec  # type: ignore[assignment]
        return spec

    @property
    def is_foreign(self) -> bool:
        """Whether others built it, so that it is tried on a few faces before it is believed."""
        return is_own(self.name) or isinstance(self.backbone, OnnxNetwork)

    @property
    def has_maps(self) -> bool:
        """Whether it offers feature maps to local matchers."""
        return (
            isinstance(self.backbone, FaceBackbone) and self.map_side in self.backbone.map_channels
        )

    def key(self) -> dict[str, Any]:
        """What the rows of a store depend on, apart from the images."""
        key = {"backbone": self.name, "weights": self.sha256, "map": self.map_side}
        if self.colour is not None and self.colour.source not in ("network", "run"):
            key["colour"] = self.colour.order  # the same file may be fed either way
        if self.heads is not None:
            key["heads"] = self.heads
        if self.hidden != "zero":
            key["hidden"] = self.hidden
        if self.precision != "float32":
            key["precision"] = self.precision
        if self.output is not None:
            key["output"] = self.output
        return key

    def record(self) -> dict[str, Any]:
        """Which weights and how they are fed, as run.json holds it."""
        output = {} if self.output is None else {"onnx_output": self.output}
        return {
            "backbone": self.name,
            **output,
            "weights": None if self.source is None else str(self.source.resolve()),
            "weights_sha256": self.sha256,
            "colour": self.input_spec.colour,
            "colour_from": "network" if self.colour is None else self.colour.source,
            **({} if self.heads is None else {"heads": self.heads}),
            "precision": self.precision,
        }

    def check_size(self, size: int, where: str) -> None:
        """Crops of this side can be embedded, or an EvaluationError.

        CAL's attention networks take any side; all others their own only.
        """
        if not isinstance(self.backbone, WSDANCAL) and size != self.input_spec.size:
            raise EvaluationError(
                f"{where}: its crops are {size} pixels, {self.name} was trained on "
                f"{self.input_spec.size}; make them with `prep landmarks --size "
                f"{self.input_spec.size}` or fg.align(…, size={self.input_spec.size})"
            )

    @torch.inference_mode()
    def describe(
        self,
        images: torch.Tensor,
        groups: frozenset[str],
        keypoints: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Columns of the named groups of a store.

        Embedding × norm of an image and of its mirror image are added and scaled to length 1, as
        published for AdaFace. Maps and visibility are those of the image itself.

        Args:
            images: (N, S, S, 3) uint8 RGB.
            groups: names in `store.GROUPS`.
            keypoints: (N, 5, 2) x and y in 0…1 of the crop, where `needs_keypoints`.
            visible: (N, g, g) 1 = visible, 0 = occluded, where `hidden` is "drop".

        Returns:
            column → (N, …), see `store`.
        """
        beside = {} if keypoints is None else {"keypoints": keypoints.to(self.device)}
        mirror = {name: mirrored_points(points) for name, points in beside.items()}
        if visible is not None and isinstance(self.backbone, FaceBackbone):
            visible = visible.to(self.device)
            beside["seen"] = self.backbone.seen_cells(visible)
            mirror["seen"] = self.backbone.seen_cells(visible.flip(2))
        pixels = self.input_spec.prepare(images.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            out = self._columns(pixels, groups, beside, mirror)
        for column, values in out.items():
            finite = torch.isfinite(values)
            if not finite.all():
                raise NotFiniteError(self.name, column, int((~finite).nonzero()[0, 0]))
        return {column: values.cpu().numpy() for column, values in out.items()}

    def _columns(
        self,
        pixels: torch.Tensor,
        groups: frozenset[str],
        beside: dict[str, torch.Tensor],
        mirror: dict[str, torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """As `describe`, of prepared pixels.

        Args:
            pixels: (N, 3, S, S).
            groups: names in `store.GROUPS`.
            beside: what the network takes besides pixels.
            mirror: the same of the mirrored images.
        """
        out: dict[str, torch.Tensor] = {}
        maps: torch.Tensor | None = None
        if groups & {"plain", "embedding"}:
            plain, norm, maps = embed(self.backbone, pixels, self.map_side, **beside)
            out["plain_embedding"], out["plain_norm"] = plain, norm[:, 0]
            if "embedding" in groups:
                mirrored, mirrored_norm, _ = embed(
                    self.backbone, pixels.flip(3), self.map_side, **mirror
                )
                fused = plain * norm + mirrored * mirrored_norm
                length = torch.linalg.vector_norm(fused, dim=1, keepdim=True)
                out["embedding"] = fused / length.clamp_min(torch.finfo(torch.float32).tiny)
                out["norm"] = length[:, 0]
        elif isinstance(self.backbone, FaceBackbone) and self.has_maps:
            maps = self.backbone.feature_map(pixels, self.map_side, **beside)
        if groups & {"map", "visibility"} and maps is None:
            raise EvaluationError(f"{self.name} has no feature maps; choose --matcher cosine")
        if "map" in groups and maps is not None:
            out["feature_map"] = maps.to(torch.float16)
        if "visibility" in groups and maps is not None:
            if self.occlusion_head is None:
                raise EvaluationError(
                    "no occlusion head in these weights; give a training run, or --visibility cache"
                )
            out["visibility"] = self.occlusion_head(maps)[:, 0].to(torch.float16)
        return out


def load_network(
    backbone: str | None,
    weights: Path,
    device: str | torch.device = "cpu",
    colour: str | None = None,
    heads: int | None = None,
    output: str | None = None,
    precision: str = "float32",
) -> Network:
    """Load a weights file, a downloaded folder or a training run.

    Args:
        backbone: its name, which is checked, or `module:function` (see
            `train.models.own_networks`); None = as the run, the file or its tensors say.
        weights: the file, the folder, or the run's directory.
        device: where it will work.
        colour: "RGB" or "BGR", the order of the channels that the weights were trained on; None =
            as the file or the network says.
        heads: of a vision transformer whose shape is not known.
        output: of an ONNX file, the result that is the embedding; None where there is one.
        precision: "float32" or "bf16".

    Raises:
        EvaluationError: when there is no such name or the run does not describe its models.
        ModelError: when a user's network lacks what is needed.
        CheckpointError: when a file cannot be read, is not known, does not hold the whole network,
            tells another name or colour order, or leaves open what only the user can say.
    """
    if is_onnx(weights):
        network = _onnx(backbone, weights, colour, output, device)
    elif output is not None:
        raise EvaluationError(f"--onnx-output is for ONNX files, and {weights} is none")
    elif (weights / RUN).exists() or (weights.is_dir() and is_own(backbone)):
        network = _trained(backbone, weights, colour)
    elif backbone is not None and is_own(backbone):
        module, notes = read_own(backbone, weights, colour)
        network = Network(backbone, module, file_sha256(weights), notes=notes, source=weights)
    else:
        network = _ours(backbone, weights, colour, heads)
    if untrained(network.backbone):
        network.doubts.add("untrained", f"{network.name} of {weights}")
    for part in (network.backbone, network.matcher, network.occlusion_head):
        if part is not None:
            part.eval().requires_grad_(False).to(device)
    if precision != "float32" and isinstance(network.backbone, OnnxNetwork):
        raise EvaluationError(f"--precision {precision}: {weights} has the precision of its graph")
    return replace(network, precision=precision)


def _ours(name: str | None, weights: Path, asked: str | None, heads: int | None) -> Network:
    if name is not None and name not in BACKBONES:
        raise EvaluationError(f"no backbone {name!r}; choose one of {', '.join(BACKBONES)}")
    found = read_network(weights, name, asked, heads)
    notes = [found.report.summary()]
    if found.colour.source == "layout":
        notes.append(f"{weights}: laid out as CVLFace's weights are, which are fed RGB")
    return Network(
        found.name,
        found.module,
        file_sha256(found.path),
        getattr(found.module, "map_side", 7),
        notes=notes,
        source=weights,
        colour=found.colour,
        heads=heads,
    )


def _onnx(
    name: str | None, weights: Path, asked: str | None, output: str | None, device: Any
) -> Network:
    """An ONNX file; what is assumed of it is a doubt."""
    if name not in (None, onnx_network.NAME):
        raise EvaluationError(f"--backbone {name}: {weights} is an ONNX file; leave --backbone out")
    graph = read_graph(weights)
    module = OnnxNetwork(graph, asked, output, device)
    network = Network(
        onnx_network.NAME, module, graph.sha256, source=weights,
        colour=Colour(module.input_spec.colour, "option" if graph.colour is None else "file"),
        output=None if output is None else module.output,
    )  # fmt: skip
    if graph.scale_from == "assumed":
        network.doubts.add("scale_assumed", f"{weights}: its pixels as (x - 127.5) / 127.5")
    return network


def _trained(backbone: str | None, directory: Path, asked: str | None) -> Network:
    """The networks of a run of `train`."""
    found = read_trained(backbone, directory, asked)
    return Network(
        found.name, found.backbone, found.sha256, found.map_side, found.matcher,
        found.occlusion_head, directory, found.notes, directory, found.colour,
    )  # fmt: skip


def on_device(device: str) -> torch.device:
    """A torch device, `auto` being CUDA if available; or an EvaluationError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0][:120]
        raise EvaluationError(f"--device {device}: {first}; choose cpu") from None
    return found
