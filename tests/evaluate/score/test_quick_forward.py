"""The frozen graph of a network gives the network's own numbers, whatever the batch."""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from tests.cache.builder import build

from faceguide.evaluate.cli import main
from faceguide.evaluate.score.quick_forward import in_threads, quickened, workers_of
from faceguide.train.models import create
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.loading.network import Network
from faceguide.train.models.safetensors_file import write_weights


def network(name: str, **more: object) -> Network:
    """Random weights, biases and statistics: a new network's are 0 and 1, which hides a loss."""
    torch.manual_seed(0)
    backbone = create(name).eval().requires_grad_(False)
    for key, tensor in backbone.state_dict().items():
        if key.endswith(("bias", "running_mean")):
            tensor.normal_(0.0, 0.1)
        elif key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return Network(name, backbone, "0" * 64, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["mobilefacenet", "ir_18", "cvlface_kprpe_small"])
def test_a_graph_gives_the_numbers_of_its_network(name: str) -> None:
    plain = network(name)
    groups = frozenset({"plain", "embedding"} | ({"map"} if plain.has_maps else set()))
    images = torch.randint(0, 256, (5, 112, 112, 3), dtype=torch.uint8)
    points = torch.rand(5, 5, 2) if plain.needs_keypoints else None
    expected = plain.describe(images, groups, keypoints=points)
    quick = quickened(plain)
    assert quick.backbone is not plain.backbone
    for count in (5, 2):
        some = None if points is None else points[:count]
        found = quick.describe(images[:count], groups, keypoints=some)
        assert found.keys() == expected.keys()
        for column, values in found.items():
            scale = float(abs(expected[column]).max())
            assert values == pytest.approx(expected[column][:count], abs=2e-3 * scale)
            if values.dtype != "float16":
                assert values == pytest.approx(expected[column][:count], abs=2e-5 * scale)


class ReadTwice(FaceBackbone):
    """A convolution whose output is read before its BatchNorm too."""

    embedding_size = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8)
        torch.nn.init.uniform_(self.norm.running_mean, 1, 2)  # type: ignore[arg-type]

    def run(
        self, images: torch.Tensor, sides: Collection[int] = (), **beside: torch.Tensor
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
        found = self.conv(images)
        return (found + self.norm(found)).mean((2, 3)), {}


def test_a_convolution_that_is_read_twice_is_not_folded() -> None:
    plain, backbone = network("mobilefacenet"), ReadTwice().eval().requires_grad_(False)
    backbone.input_spec, backbone.map_channels = plain.input_spec, {}
    plain = replace(plain, backbone=backbone)
    images = torch.randint(0, 256, (3, 112, 112, 3), dtype=torch.uint8)
    expected, found = (
        one.describe(images, frozenset({"plain"}))["plain_embedding"]
        for one in (plain, quickened(plain))
    )
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["mobilefacenet", "ir_18"])
def test_a_graph_has_the_precision_that_is_asked_for(name: str) -> None:
    images = torch.randint(0, 256, (5, 112, 112, 3), dtype=torch.uint8)
    exact, plain, quick = (
        one.describe(images, frozenset({"plain"}))["plain_embedding"]
        for one in (
            network(name), network(name, precision="bf16"),
            quickened(network(name, precision="bf16")),
        )
    )  # fmt: skip
    change = abs(plain - exact).max()
    assert change > 1e-4
    assert change / 3 < abs(quick - exact).max() < 3 * change


def test_normalisation_after_a_convolution_is_folded() -> None:
    left = quickened(network("mobilefacenet")).backbone.modules()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in left)


def test_networks_of_others_run_as_they_are() -> None:
    one = network("mobilefacenet")
    own = Network("nets:small", one.backbone, "0" * 64)
    assert quickened(own) is own
    assert workers_of(own) == 1
    assert workers_of(one) == torch.get_num_threads()


def test_a_crew_gives_results_in_order_and_shares_no_worker() -> None:
    busy: set[str] = set()

    def work(worker: str, item: int) -> tuple[int, int]:
        assert worker not in busy
        busy.add(worker)
        time.sleep(0.001 * (item % 3))
        busy.remove(worker)
        return item, torch.get_num_threads()

    assert [item for item, _ in in_threads(work, range(20), ["a"])] == list(range(20))
    assert list(in_threads(work, range(20), ["a", "b"])) == [(item, 1) for item in range(20)]
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda worker, item: 1 // item, [2, 1, 0], ["a", "b"]))


def test_bf16_says_what_it_changes_and_fills_a_store_of_its_own(tmp_path: Path) -> None:
    build(tmp_path / "cache", rows=12, shard_rows=12, size=112)
    torch.manual_seed(0)
    module = create("mobilefacenet")
    assert isinstance(module, FaceBackbone)
    weights = tmp_path / "w.safetensors"
    write_weights(weights, module.state_dict(), "mobilefacenet", {}, module.input_spec)

    def embed(*more: str) -> str:
        words = ["embed", tmp_path / "cache", "--weights", weights, "--out", tmp_path / "out"]
        done = CliRunner().invoke(main, [*map(str, words), "--json", *more])
        assert done.exit_code == 0, done.stderr
        json.loads(done.stdout)
        return done.stderr

    assert "--precision" not in embed()
    said = embed("--precision", "bf16")
    assert "--precision bf16 changes the cosines of the first" in said
    stores = list((tmp_path / "out").glob("embeddings-*"))
    assert len(stores) == 2
