"""An ONNX graph as a network that gives embeddings and nothing else: a black box."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from faceguide.core.errors import CheckpointError, ModelError
from faceguide.train.models.onnx.onnx_graph import KEYPOINTS, OnnxGraph, package

NAME = "onnx"


class OnnxNetwork(nn.Module):
    """A graph, run by ONNX Runtime with as many threads as torch has.

    Args:
        colour: "RGB" or "BGR", as the user says, or None.
        output: name of the result that is the embedding, or None where there is one.
        device: with "cuda", ONNX Runtime's CUDA provider is used where it is installed.

    Raises:
        CheckpointError: when the graph cannot be run, or colour order, side or output are unclear.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        colour: str | None = None,
        output: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.output = graph.output(output).name
        self.input_spec = graph.spec(colour)
        self.batch, self.input, self.channels_first = graph.batch, graph.input, graph.channels_first
        self.path, self.needs_keypoints = graph.path, graph.needs_keypoints
        self._session = session(graph, device)
        # Without numbers: it says where pixels are wanted, as the weights of others do.
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, pixels: Tensor, keypoints: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) prepared pixels → unit embedding (N, E) and norm (N, 1).

        Args:
            pixels: of N faces.
            keypoints: (N, 5, 2), where they are needed.

        Raises:
            ModelError: when a gradient is asked for, or the graph fails.
        """
        if pixels.requires_grad and torch.is_grad_enabled():
            raise ModelError(f"{self.path}: no gradient passes through an ONNX graph")
        size = self.input_spec.size
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
            raise ModelError(
                f"{self.path} expects images of (N, 3, {size}, {size}), found "
                f"{tuple(pixels.shape)}; cut or resize the crops to {size} pixels"
            )
        images = pixels.detach().cpu().contiguous().numpy()
        if not self.channels_first:
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))  # (N, S, S, 3)
        given = {self.input: images}
        if self.needs_keypoints and keypoints is not None:
            given[KEYPOINTS] = keypoints.detach().cpu().contiguous().numpy()
        step = self.batch or max(1, len(images))
        parts = [
            self._run({name: one[start : start + step] for name, one in given.items()})
            for start in range(0, len(images), step)
        ]
        raw = torch.from_numpy(np.concatenate(parts)).to(pixels.device)
        norm = torch.linalg.vector_norm(raw, dim=1, keepdim=True)
        return raw / norm.clamp_min(torch.finfo(raw.dtype).tiny), norm

    def _run(self, given: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """(n, E) raw embeddings; the last batch of a graph of fixed batch is filled up."""
        count = len(given[self.input])
        lacking = 0 if self.batch is None else self.batch - count
        given = {
            name: np.concatenate([one, np.repeat(one[-1:], lacking, 0)])
            for name, one in given.items()
        }
        try:
            (found,) = self._session.run([self.output], given)
        except Exception as fault:  # ONNX Runtime raises classes of its own
            raise ModelError(f"{self.path}: fails on {count} images: {_line(fault)}") from None
        found = np.asarray(found, np.float32)
        images = count + lacking
        if len(found) != images or found.size % max(1, images):
            raise ModelError(
                f"{self.path}: {self.output} is {found.shape} for {images} images; expected "
                "one embedding per image: export it with a dynamic batch"
            )
        return found.reshape(images, -1)[:count]


def session(graph: OnnxGraph, device: torch.device | str = "cpu") -> Any:
    """The graph in ONNX Runtime.

    Raises:
        CheckpointError: when it is not one that can be run.
    """
    runtime = package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what it has to say, the exception says
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that wait leave their cores to others: on a busy machine half the time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if all(node.op_type != "QuantizeLinear" for node in graph.proto.graph.node):
        # Only weights are integers: they are unpacked once, not in every pass.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    wanted = ["CPUExecutionProvider"]
    if torch.device(device).type == "cuda":
        wanted.insert(0, "CUDAExecutionProvider")
    there = [name for name in wanted if name in runtime.get_available_providers()]
    beside = any(tensor.external_data for tensor in graph.proto.graph.initializer)
    source = str(graph.path) if beside else graph.proto.SerializeToString()
    try:
        return runtime.InferenceSession(source, options, providers=there)
    except Exception as fault:  # as above
        raise CheckpointError(
            f"{graph.path}: ONNX Runtime cannot run it: {_line(fault)}; re-export it"
        ) from None


def _line(fault: BaseException) -> str:
    """The first line of ONNX Runtime's message, without its error codes."""
    text = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
    return text.rpartition("] : ")[2].removeprefix("0 : ")[:160]
