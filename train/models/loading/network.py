"""A network with weights, ready to describe faces."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.run_directory import file_of_run, read_run
from faceguide.core.errors import CheckpointError, EvaluationError
from faceguide.core.files import file_sha256
from faceguide.train.models import MODELS, create, outline
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.cal_network import WSDANCAL
from faceguide.train.models.colour import ORDERS, Colour, assumed, colour_of, feed
from faceguide.train.models.embedder import embed
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.layout import State, Table
from faceguide.train.models.matchers.qaconv import QAConv
from faceguide.train.models.occlusion_head import OcclusionHead
from faceguide.train.models.onnx import onnx_network
from faceguide.train.models.onnx.onnx_graph import is_onnx, read_graph
from faceguide.train.models.onnx.onnx_network import OnnxNetwork
from faceguide.train.models.own_networks import inner, is_own, own_backbone
from faceguide.train.models.recognise import looks_like, recognised
from faceguide.train.models.safetensors_file import read_safetensors
from faceguide.train.models.weights import LoadReport, fill, find_state, read_tables, untrained

# A file is no reason to run the code that it names; the user's own word is.
_UNASKED = (
    "{where}: was trained with a network of your own, {name}; give --backbone {name} to import it"
)
BACKBONES = tuple(
    name
    for name in MODELS
    if name.startswith(("mobilefacenet", "ir_", "inception_resnet", "vit_", "cal_"))
)
# Which tensor's first side holds a size that `create` needs.
_SIZES = (
    ("conv3.weight", "embedding_size"),
    ("output_layer.3.weight", "embedding_size"),
    ("project.weight", "embedding_size"),
)
_CAL_SIZES = (("fc.weight", "num_classes"), ("attentions.conv.weight", "heads"))


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
        if self.colour is not None and self.colour.source in ("option", "layout"):
            key["colour"] = self.colour.order  # the same file may be fed either way
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
    def describe(self, images: torch.Tensor, groups: frozenset[str]) -> dict[str, NDArray[Any]]:
        """Columns of the named groups of a store.

        Embedding × norm of an image and of its mirror image are added and scaled to length 1, as
        published for AdaFace. Maps and visibility are those of the image itself.

        Args:
            images: (N, S, S, 3) uint8 RGB.
            groups: names in `store.GROUPS`.

        Returns:
            column → (N, …), see `store`.
        """
        pixels = self.input_spec.prepare(images.to(self.device))
        out: dict[str, torch.Tensor] = {}
        maps: torch.Tensor | None = None
        if groups & {"plain", "embedding"}:
            plain, norm, maps = embed(self.backbone, pixels, self.map_side)
            out["plain_embedding"], out["plain_norm"] = plain, norm[:, 0]
            if "embedding" in groups:
                mirrored, mirrored_norm, _ = embed(self.backbone, pixels.flip(3), self.map_side)
                fused = plain * norm + mirrored * mirrored_norm
                length = torch.linalg.vector_norm(fused, dim=1, keepdim=True)
                out["embedding"] = fused / length.clamp_min(torch.finfo(torch.float32).tiny)
                out["norm"] = length[:, 0]
        elif isinstance(self.backbone, FaceBackbone) and self.has_maps:
            maps = self.backbone.feature_map(pixels, self.map_side)
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
        for column, values in out.items():
            finite = torch.isfinite(values)
            if not finite.all():
                raise NotFiniteError(self.name, column, int((~finite).nonzero()[0, 0]))
        return {column: values.cpu().numpy() for column, values in out.items()}


def load_network(
    backbone: str | None,
    weights: Path,
    device: str | torch.device = "cpu",
    colour: str | None = None,
    output: str | None = None,
) -> Network:
    """Load a weights file or a training run.

    Args:
        backbone: its name, or `module:function` (see `train.models.own`); None for a run or a
            file that names one of ours, or whose tensors do.
        weights: the file, or the run's directory.
        device: where it will work.
        colour: "RGB" or "BGR", the order of the channels that the weights were trained on; None =
            as the file or the network says.
        output: of an ONNX file, the result that is the embedding; None where there is one.

    Raises:
        EvaluationError: when the name is missing or the run does not describe its models.
        ModelError: when a user's network lacks what is needed.
        CheckpointError: when a file cannot be read, does not hold the whole network, or tells
            another colour order.
    """
    if is_onnx(weights):
        network = _onnx(backbone, weights, colour, output, device)
    elif output is not None:
        raise EvaluationError(f"--onnx-output is for ONNX files, and {weights} is none")
    elif weights.is_dir():
        network = _load_run(backbone, weights, colour)
    else:
        name = backbone or _named_in(weights)
        network = _own(name, weights, colour) if is_own(name) else _ours(name, weights, colour)
    if untrained(network.backbone):
        network.doubts.add("untrained", f"{network.name} of {weights}")
    for part in (network.backbone, network.matcher, network.occlusion_head):
        if part is not None:
            part.eval().requires_grad_(False).to(device)
    return network


def _ours(name: str, weights: Path, asked: str | None) -> Network:
    if name not in BACKBONES:
        raise EvaluationError(f"no backbone {name!r}; choose one of {', '.join(BACKBONES)}")
    least = {"num_classes": 1} if name.startswith("cal_") else {}
    state = find_state(weights, outline(name, **least))
    sizes = _CAL_SIZES if least else _SIZES
    found = {size: len(state.tensors[key]) for key, size in sizes if key in state.tensors}
    module: nn.Module = create(name, **{**least, **found})
    notes = [_whole(module, weights, state).summary()]
    colour = colour_of(module, state, asked)
    feed(module, colour.order)
    if colour.source == "layout":
        notes.append(f"{weights}: laid out as CVLFace's weights are, which are fed {colour.order}")
    network = Network(
        name, module, file_sha256(weights), notes=notes, source=weights, colour=colour
    )
    if colour.source == "assumed":
        network.doubts.add("colour_assumed", assumed(colour, weights))
    return network


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


def _own(reference: str, weights: Path, asked: str | None) -> Network:
    """A user's network, filled by its function; here where training wrote the file."""
    _require_own_colour(reference, asked)
    notes: list[str] = []
    if _arch(weights) != reference:
        module = own_backbone(reference, weights)
    else:
        module = own_backbone(reference, None)
        notes.append(_whole(inner(module), weights).summary())
    return Network(reference, module, file_sha256(weights), notes=notes, source=weights)


def _require_own_colour(reference: str, asked: str | None) -> None:
    if asked is not None:
        raise EvaluationError(
            f"--colour: {reference} says its colour order in input_spec; leave --colour out"
        )


def _arch(weights: Path) -> str | None:
    """The network that a `.safetensors` file says it is for."""
    return read_safetensors(weights)[1].get("arch") if weights.suffix == ".safetensors" else None


def _named_in(weights: Path) -> str:
    arch = _arch(weights)
    if is_own(arch):
        raise EvaluationError(_UNASKED.format(where=weights, name=arch))
    name = arch or recognised(read_tables(weights))
    if name is None:
        raise EvaluationError(
            f"{weights}: does not say which network it is for; give --backbone, one of "
            f"{', '.join(BACKBONES)}"
        )
    return name


def _whole(module: nn.Module, weights: Path, state: State | None = None) -> LoadReport:
    """Fill a network; a file that leaves a tensor at its random start is refused."""
    state = state or find_state(weights, module)
    report = fill(module, state, weights)
    if report.missing or report.dropped:
        other = looks_like([Table("", state.tensors, {})], module, "--backbone")
        raise CheckpointError(
            f"{weights} does not hold a whole {type(module).__name__}: {report.summary()}"
            + (f"; {other}" if other else "")
        )
    return report


def _load_run(backbone: str | None, run: Path, asked: str | None) -> Network:
    record = read_run(run)
    models = record.get("models")
    if not isinstance(models, dict) or not isinstance(models.get("backbone"), dict):
        raise EvaluationError(
            f"{run / 'run.json'}: names no models; give --backbone and a weights file instead"
        )
    name = models["backbone"].get("name")
    if is_own(name) and backbone is None:
        raise EvaluationError(_UNASKED.format(where=run, name=name))
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
        notes.append(_whole(inner(loaded[role]), path).summary())
        hashes.update(file_sha256(path).encode())
    matcher, head = loaded.get("matcher"), loaded.get("occlusion_head")
    if not isinstance(matcher, QAConv | None) or not isinstance(head, OcclusionHead | None):
        raise EvaluationError(f"{run / 'run.json'}: matcher must be qaconv, head occlusion_head")
    side = record.get("map", matcher.height if matcher else 7)
    if side not in (7, 14):
        raise EvaluationError(f"{run / 'run.json'}: map must be 7 or 14, found {side!r}")
    if not isinstance(loaded["backbone"], FaceBackbone | WSDANCAL):
        raise EvaluationError(f"{run}: {name}: unknown backbone; expected one of {BACKBONES}")
    return Network(
        name, loaded["backbone"], hashes.hexdigest(), side, matcher, head, run, notes, run,
        _colour_of_run(loaded["backbone"], run, models["backbone"], asked),
    )  # fmt: skip


def _colour_of_run(module: nn.Module, run: Path, models: Any, asked: str | None) -> Colour | None:
    """The order that training fed its network; runs of earlier versions fed the network's own."""
    name = models["name"]
    if is_own(name):
        _require_own_colour(name, asked)
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
        sizes = [tensor.numel() for tensor in outline(entry["name"], **arguments).parameters()]
        stored = weights.stat().st_size if weights.is_file() else 0
        if sum(sizes) > max(stored, 1 << 20):
            raise ValueError(f"{sum(sizes)} numbers do not come out of {stored} bytes of weights")
        module: nn.Module = create(entry["name"], **arguments)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise EvaluationError(
            f"{run / 'run.json'}: models.{role} cannot be built ({text})"
        ) from None
    return module


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
