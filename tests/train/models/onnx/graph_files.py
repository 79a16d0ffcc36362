"""A small network as an ONNX file, as others would export it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SIDE, NUMBERS = 112, 16


def graph_file(
    path: Path,
    *,
    batch: int | str = "batch",
    side: int | str = SIDE,
    scaled: bool = False,
    last: bool = False,
    outputs: Sequence[str] = ("embedding",),
    beside: str = "",
) -> Path:
    """A network of one convolution and one product, as others would export it.

    Args:
        batch, side: as the input states them.
        scaled: (x − 127.5) / 128 inside, under the names of MXNet.
        last: the channels lie last.
        outputs: names; all but the first are of the convolution.
        beside: the file next to it that holds the tensors; "" = none.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    tensors = {
        "kernel": rng.normal(0, 0.1, (8, 3, 16, 16)).astype(np.float32),
        "matrix": rng.normal(0, 0.1, (8 * 49, NUMBERS)).astype(np.float32),
        "minus": np.float32(127.5),
        "times": np.float32(1 / 128),
    }
    nodes, now = [], "data"
    if last:
        nodes.append(helper.make_node("Transpose", [now], ["first"], perm=[0, 3, 1, 2]))
        now = "first"
    if scaled:
        nodes.append(helper.make_node("Sub", [now, "minus"], ["moved"], name="_minusscalar0"))
        nodes.append(helper.make_node("Mul", ["moved", "times"], ["scaled"], name="_mulscalar0"))
        now = "scaled"
    nodes.append(helper.make_node("Conv", [now, "kernel"], ["map"], strides=[16, 16]))
    nodes.append(helper.make_node("Flatten", ["map"], ["flat"]))
    nodes.append(helper.make_node("MatMul", ["flat", "matrix"], [outputs[0]]))
    results = [helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, [batch, NUMBERS])]
    for name in outputs[1:]:
        nodes.append(helper.make_node("Identity", ["map"], [name]))
        results.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 8, 7, 7]))
    shape = [batch, side, side, 3] if last else [batch, 3, side, side]
    images = helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        nodes, "small", [images], results,
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    more: dict[str, Any] = {}
    if beside:
        more = {"save_as_external_data": True, "location": beside, "size_threshold": 0}
    onnx.save_model(model, str(path), **more)
    return path
