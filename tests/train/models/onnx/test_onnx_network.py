"""ONNX files: what they say of themselves, how they are run, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.models.onnx.graph_files import NUMBERS, SIDE, graph_file

from faceguide.core.errors import CheckpointError, FaceguideError, ModelError
from faceguide.train.models.onnx.onnx_graph import read_graph
from faceguide.train.models.onnx.onnx_network import OnnxNetwork

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def pictures(count: int) -> torch.Tensor:
    """(N, 112, 112, 3) uint8, the same each time."""
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (count, SIDE, SIDE, 3), "u1"))


def embedded(path: Path, count: int = 5) -> torch.Tensor:
    """(N, 16) raw embeddings of `pictures`."""
    network = OnnxNetwork(read_graph(path), "RGB")
    unit, norm = network(network.input_spec.prepare(pictures(count)))
    return unit * norm


def expected(count: int, minus: float, divide: float) -> torch.Tensor:
    """The same by torch."""
    rng = np.random.default_rng(0)
    kernel = torch.from_numpy(rng.normal(0, 0.1, (8, 3, 16, 16)).astype(np.float32))
    matrix = torch.from_numpy(rng.normal(0, 0.1, (8 * 49, NUMBERS)).astype(np.float32))
    pixels = (pictures(count).permute(0, 3, 1, 2).float() - minus) / divide
    return torch.conv2d(pixels, kernel, stride=16).flatten(1) @ matrix


@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_a_graph_that_does_not_scale_gets_what_insightface_gives(
    tmp_path: Path, batch: int | str
) -> None:
    path = graph_file(tmp_path / "a.onnx", batch=batch)
    assert read_graph(path).scale_from == "assumed"
    torch.testing.assert_close(embedded(path), expected(5, 127.5, 127.5), rtol=1e-4, atol=1e-4)


def test_a_graph_that_scales_gets_its_pixels_as_they_are(tmp_path: Path) -> None:
    path = graph_file(tmp_path / "a.onnx", scaled=True)
    assert read_graph(path).scale_from == "graph"
    torch.testing.assert_close(embedded(path), expected(5, 127.5, 128), rtol=1e-4, atol=1e-4)


def test_channels_may_lie_last_and_tensors_beside_the_file(tmp_path: Path) -> None:
    path = graph_file(tmp_path / "a.onnx", last=True, beside="a.data")
    torch.testing.assert_close(embedded(path), expected(5, 127.5, 127.5), rtol=1e-4, atol=1e-4)
    before = read_graph(path).sha256
    data = bytearray((tmp_path / "a.data").read_bytes())
    data[100] ^= 1
    (tmp_path / "a.data").write_bytes(data)
    assert read_graph(path).sha256 != before
    (tmp_path / "a.data").unlink()
    with pytest.raises(CheckpointError, match=r"a\.data, which is not in its folder"):
        read_graph(path)


def test_tensors_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = graph_file(tmp_path / "in" / "a.onnx", beside="a.data")
    (tmp_path / "in" / "a.data").rename(tmp_path / "a.data")
    model = onnx.load_model(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../a.data"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="not in its folder"):
        read_graph(path)


def test_the_order_of_the_channels_is_asked_for(tmp_path: Path) -> None:
    graph = read_graph(graph_file(tmp_path / "a.onnx"))
    with pytest.raises(CheckpointError, match=r"--colour rgb .* --colour bgr"):
        OnnxNetwork(graph)
    assert OnnxNetwork(graph, "BGR").input_spec.colour == "BGR"


def test_a_graph_of_any_side_says_how_to_fix_it(tmp_path: Path) -> None:
    graph = read_graph(graph_file(tmp_path / "a.onnx", side="side"))
    with pytest.raises(CheckpointError, match="make_dynamic_shape_fixed --input_name data"):
        OnnxNetwork(graph, "RGB")


def test_several_outputs_are_named_and_asked_for(tmp_path: Path) -> None:
    graph = read_graph(graph_file(tmp_path / "a.onnx", outputs=("vector", "cells")))
    with pytest.raises(CheckpointError, match=r"vector \(\?, 16\), cells .* --onnx-output NAME"):
        OnnxNetwork(graph, "RGB")
    with pytest.raises(CheckpointError, match="no output 'face'"):
        OnnxNetwork(graph, "RGB", "face")
    with pytest.raises(CheckpointError, match="is not an embedding"):
        OnnxNetwork(graph, "RGB", "cells")
    assert OnnxNetwork(graph, "RGB", "vector").output == "vector"


@pytest.mark.parametrize(
    "content", [b"", b"not an ONNX file at all", b"\x00" * 4096, b"PK\x03\x04", b"\x08\x08" * 99]
)
def test_foreign_files_are_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.onnx: no (whole ONNX file|ONNX graph)") as found:
        read_graph(path)
    assert "\n" not in str(found.value)


def test_truncated_files_are_one_line(tmp_path: Path) -> None:
    whole = graph_file(tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "a.onnx"
    for share in np.linspace(0.01, 0.99, 25):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(FaceguideError) as found:
            OnnxNetwork(read_graph(path), "RGB")
        assert "\n" not in str(found.value)
        assert "a.onnx" in str(found.value)


def test_no_gradient_passes(tmp_path: Path) -> None:
    network = OnnxNetwork(read_graph(graph_file(tmp_path / "a.onnx")), "RGB")
    pixels = torch.zeros(1, 3, SIDE, SIDE, requires_grad=True)
    with pytest.raises(ModelError, match="no gradient passes"):
        network(pixels)
