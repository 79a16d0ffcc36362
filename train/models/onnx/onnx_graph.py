"""What an ONNX file says of itself: the pixels it takes, whether it scales them, what it gives.

Normalisation inside the graph is found as insightface's reader finds it
(python-package/insightface/model_zoo/arcface_onnx.py): a subtraction and a product first, then the
pixels are 0…255; else they are (x − 127.5) / 127.5. The order of the channels stands in no graph;
files that `train export` wrote say it in their metadata, and a few published ones are known by
their digest.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceguide.core.errors import CacheError, CheckpointError, ModelError
from faceguide.core.files import file_sha256
from faceguide.train.models.colour import ORDERS
from faceguide.train.models.input_spec import InputSpec

SUFFIX = ".onnx"
EMBEDDING, VISIBILITY = "embedding", "visibility"  # outputs of the files that are written here
KEYPOINTS = "keypoints"  # a second input, (N, 5, 2) in 0…1 of the crop
PREFIX = "faceguide."  # of their metadata
_FIRST = 8  # nodes among which insightface looks for a normalisation
_MIXES = ("Conv", "MatMul", "Gemm")  # layers: what comes after is no normalisation
# Digests of files whose channel order their publisher states: OpenCV's SFace in two precisions,
# fed RGB by cv2.FaceRecognizerSF.
_KNOWN = {
    "0ba9fbfa01b5270c96627c4ef784da859931e02f04419c829e83484087c34e79": "RGB",
    "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee": "RGB",
}


@dataclass(frozen=True)
class Output:
    """One result of a graph: its name, and its shape with None where a side is not fixed."""

    name: str
    shape: tuple[int | None, ...]

    @property
    def may_embed(self) -> bool:
        """Whether it may be (N, E), or (N, E, 1, 1)."""
        return len(self.shape) in (0, 2) or self.shape[2:] == (1, 1)

    def __str__(self) -> str:
        sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} ({sides})"


@dataclass(frozen=True)
class OnnxGraph:
    """What an ONNX file says of itself.

    Attributes:
        sha256: of the file, or of the digests of all files where tensors lie beside it.
        proto: the graph, without the inputs that nothing uses.
        input: name of the one that takes images.
        channels_first: (N, 3, S, S), or (N, S, S, 3).
        batch: images that it takes at once; None = any number.
        size: side of the images, or None.
        mean, std: shares of full scale, as `InputSpec` has them.
        colour: "RGB", "BGR" or None.
        scale_from: how mean and std are known: "graph" or "assumed".
        arch: the network it was exported from here, or None.
        needs_keypoints: whether it takes five landmarks of each face too.
    """

    path: Path
    sha256: str
    proto: Any
    input: str
    channels_first: bool
    batch: int | None
    size: int | None
    mean: float
    std: float
    colour: str | None
    scale_from: str
    arch: str | None
    outputs: tuple[Output, ...]
    needs_keypoints: bool = False

    def output(self, asked: str | None) -> Output:
        """The result that is the embedding.

        Args:
            asked: its name, or None where there is one or the file is of ours.

        Raises:
            CheckpointError: naming all when several are there and none is asked for, or when the
                one is no embedding.
        """
        listed = ", ".join(map(str, self.outputs))
        named = {output.name: output for output in self.outputs}
        if not any(output.may_embed for output in self.outputs):
            raise CheckpointError(
                f"{self.path} gives {listed}, none of them an embedding (N, E); choose an ONNX "
                "file of a network that describes faces"
            )
        if asked is None and self.arch is not None:
            asked = EMBEDDING
        if asked is None and len(self.outputs) > 1:
            raise CheckpointError(
                f"{self.path} gives {len(self.outputs)} results: {listed}; say which one is the "
                "embedding, by --onnx-output NAME"
            )
        if asked is not None and asked not in named:
            raise CheckpointError(f"{self.path} has no output {asked!r}; it gives {listed}")
        chosen = self.outputs[0] if asked is None else named[asked]
        if not chosen.may_embed:
            raise CheckpointError(
                f"{self.path}: {chosen} is not an embedding (N, E); choose another of {listed}"
            )
        return chosen

    def spec(self, asked: str | None) -> InputSpec:
        """The pixels that it takes.

        Args:
            asked: "RGB" or "BGR", what the user says, or None.

        Raises:
            CheckpointError: when side or channel order are not known, or the user contradicts.
        """
        if self.size is None:
            raise CheckpointError(
                f"{self.path}: its graph takes images of any side, so the one it was trained on is "
                "not known; fix it: python -m onnxruntime.tools.make_dynamic_shape_fixed "
                f"--input_name {self.input} --input_shape 1,3,112,112 {self.path} fixed.onnx"
            )
        if asked is not None and self.colour is not None and asked != self.colour:
            raise CheckpointError(
                f"--colour {asked.lower()}: {self.path} takes {self.colour}; leave --colour out"
            )
        order = asked or self.colour
        if order is None:
            raise CheckpointError(
                f"{self.path}: an ONNX graph does not say the order of its channels; give --colour "
                "rgb (as insightface feeds its networks) or --colour bgr"
            )
        return InputSpec(self.size, order, (self.mean,) * 3, (self.std,) * 3)


def is_onnx(path: Path) -> bool:
    """Whether a path names an ONNX file."""
    return path.suffix.lower() == SUFFIX


def package(name: str) -> Any:
    """A package of the extra.

    Raises:
        ModelError: when it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ModelError(
            f"ONNX files need the package {name}: pip install 'faceguide[onnx]'"
        ) from None


def read_graph(path: Path) -> OnnxGraph:
    """Read an ONNX file, without its tensors where they lie beside it.

    Raises:
        CheckpointError: when it is missing, damaged, or takes something else than images.
        CacheError: when the system refuses to read it.
        ModelError: when the extra is not installed.
    """
    onnx = package("onnx")
    try:
        proto = onnx.load_model(str(path), load_external_data=False)
    except FileNotFoundError:
        raise CheckpointError(f"no weights file {path}") from None
    except OSError as fault:
        raise CacheError(f"{path}: cannot be read ({fault.strerror})") from None
    except Exception as fault:  # protobuf's own; a damaged file raises more than it documents
        text = (str(fault).splitlines() or [type(fault).__name__])[0][:120]
        raise CheckpointError(
            f"{path}: no whole ONNX file ({text}); copy or re-export it"
        ) from None
    graph = proto.graph
    used = {name for node in graph.node for name in node.input}
    stored = {tensor.name for tensor in graph.initializer}
    made = {name for node in graph.node for name in node.output}
    inputs = [one for one in graph.input if one.name in used and one.name not in stored | made]
    if not graph.node or not graph.output:
        raise CheckpointError(f"{path}: no ONNX graph in it; copy or re-export it")
    # Initialisers among the inputs would not be folded, and unused inputs would have to be fed.
    del graph.input[:]
    graph.input.extend(inputs)
    name, shape = _image_input(path, inputs)
    about = {
        entry.key.removeprefix(PREFIX): entry.value
        for entry in proto.metadata_props
        if entry.key.startswith(PREFIX)
    }
    first = shape[1] == 3
    sides = set(shape[2:] if first else shape[1:3])
    size = sides.pop() if len(sides) == 1 else None
    sha256 = _sha256(path, proto)
    mean, std, source = _scale(graph, name)
    stated = about.get("colour")
    return OnnxGraph(
        path, sha256, proto, name, first, shape[0], size, mean, std,
        stated if stated in ORDERS else _KNOWN.get(sha256), source, about.get("arch"),
        tuple(Output(one.name, _shape(one)) for one in graph.output), len(inputs) > 1,
    )  # fmt: skip


def _shape(value: Any) -> tuple[int | None, ...]:
    sides = value.type.tensor_type.shape.dim
    return tuple(side.dim_value if side.dim_value > 0 else None for side in sides)


def _image_input(path: Path, inputs: list[Any]) -> tuple[str, tuple[int | None, ...]]:
    listed = ", ".join(str(Output(one.name, _shape(one))) for one in inputs) or "none"
    images = [one for one in inputs if one.name != KEYPOINTS or _shape(one)[1:] != (5, 2)]
    # 1 = float32 in ONNX's table of types
    floats = all(one.type.tensor_type.elem_type == 1 for one in inputs)
    if floats and len(images) == 1:
        shape = _shape(images[0])
        if len(shape) == 4 and 3 in (shape[1], shape[3]):
            return images[0].name, shape
    raise CheckpointError(
        f"{path}: expected one input of float32 images, (N, 3, S, S) or (N, S, S, 3), found "
        f"{listed}; choose an ONNX file of a network that describes faces"
    )


def _scale(graph: Any, name: str) -> tuple[float, float, str]:
    """Mean and std as shares of full scale, and how they are known."""
    kinds = set(_first_kinds(graph, name))
    if {"Sub", "Mul"} <= kinds:
        return 0.0, 1.0 / 255.0, "graph"
    return 0.5, 0.5, "assumed"


def _first_kinds(graph: Any, name: str) -> Iterator[str]:
    """ "Sub" and "Mul" for each such node that the images meet before the first layer."""
    reached, met = {name}, 0
    for node in graph.node:
        if reached.isdisjoint(node.input):
            continue  # of weights that are unpacked first
        reached.update(node.output)
        met += 1
        if met > _FIRST or node.op_type in _MIXES:
            return
        if node.op_type in ("Sub", "Add") or node.name.startswith(("Sub", "_minus")):
            yield "Sub"
        if node.op_type in ("Mul", "Div") or node.name.startswith(("Mul", "_mul")):
            yield "Mul"


def _sha256(path: Path, proto: Any) -> str:
    """The digest of the file, together with those of the files that hold its tensors."""
    folder = path.parent.resolve()
    beside = sorted(set(_places(proto)))
    digests = [file_sha256(path)]
    for place in beside:
        file = (folder / place).resolve()
        if not file.is_relative_to(folder) or not file.is_file():
            raise CheckpointError(
                f"{path}: its tensors are in {place}, which is not in its folder; copy both files"
            )
        digests.append(file_sha256(file))
    if not beside:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _places(proto: Any) -> Iterator[str]:
    """Where tensors lie that are not in the file, relative to it."""
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                yield entry.value
