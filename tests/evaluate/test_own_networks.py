"""Networks of the user's own that are used wrongly: noticed before anything is computed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.numpy import load_file
from tests.evaluate.builder import pairs_csv, small_cache, usable_pairs

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import ModelError
from faceguide.evaluate.cli import main
from faceguide.train.models.own_check import check_own, distinct
from faceguide.train.models.own_networks import own_backbone
from faceguide.train.oaml_command import oaml_command

SOURCE = '''
import torch
from torch import nn
from torch.nn import functional as F
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.input_spec import InputSpec

torch.manual_seed(3)
FIRST, LAST = torch.randn(8, 3, 8, 8) / 8, torch.randn(16, 8 * 14 * 14) / 40


class Net(nn.Module):
    input_spec = InputSpec(112, "RGB", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    map_layers = {14: "first"}

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 8, 8, bias=False)
        self.last = nn.Linear(8 * 14 * 14, 16, bias=False)
        self.first.weight.data.copy_(FIRST)
        self.last.weight.data.copy_(LAST)

    def raw(self, x):
        return self.last(torch.tanh(self.first(x)).flatten(1))

    def forward(self, x):
        return self.raw(x)


def network(give, change=lambda x: x):
    def build(weights):
        class Changed(Net):
            def forward(self, x):
                return give(self.raw(change(x)))

        return Changed()

    return build


# right
raw = network(lambda e: e)
pair = network(lambda e: (F.normalize(e), e.norm(dim=1, keepdim=True)))
flat_norm = network(lambda e: (F.normalize(e), e.norm(dim=1)))
copying = network(lambda e: e, lambda x: (x * 0.7) - 0.2)
in_place = network(lambda e: e, lambda x: x.mul_(0.7).sub_(0.2))
# not embeddings
two_embeddings = network(lambda e: (e, e.flip(1)))
logits = network(lambda e: (e, e[:, :10]))
listed = network(lambda e: [F.normalize(e), e.norm(dim=1, keepdim=True)])
named = network(lambda e: {"embedding": e})
single = network(lambda e: (e,))
numbers = network(lambda e: e.detach().numpy())
squeezed = network(lambda e: e.squeeze())
spatial = network(lambda e: e[:, :, None, None])
whole = network(lambda e: e.round().long())
quality = network(lambda e: (e, e[:, :1].abs()))
signed_norm = network(lambda e: (F.normalize(e), -e.norm(dim=1, keepdim=True)))
# not a function of the face
dropout = network(lambda e: F.dropout(e, 0.1, training=True))
noise = network(lambda e: e + 0.05 * torch.randn_like(e))
batch_mean = network(lambda e: e - 0.5 * e.mean(0, keepdim=True))
batch_scale = network(lambda e: e, lambda x: x / x.std())
first_of_batch = network(lambda e: e + 0.1 * e[:1])
constant = network(lambda e: e * 0 + 1)
zeros = network(lambda e: e * 0)


def half(weights):
    return Net().half()


def double(weights):
    return Net().double()


def half_by_itself(weights):
    class Half(Net):
        def forward(self, x):
            return self.raw(x.bfloat16())

    return Half().bfloat16()


def batch_norm(weights):
    class Normed(Net):
        def forward(self, x):
            return F.batch_norm(self.raw(x), None, None, training=True)

    return Normed()


def failing(weights):
    raise KeyError("state")


class Cut(FaceBackbone):
    """One of ours, cut at its maps, that changes its pixels."""

    input_spec, embedding_size, map_channels = Net.input_spec, 16, {14: 8, 7: 8}

    def __init__(self):
        super().__init__()
        self.net = Net()

    def to_map14(self, images):
        return torch.tanh(self.net.first(images.mul_(0.5)))

    def map14_to_map7(self, map14):
        return F.avg_pool2d(map14, 2)

    def map7_to_embedding(self, map7):
        return map7.flatten(1)[:, :16]


def cut(weights):
    return Cut()
'''

WRONG = {
    "two_embeddings": "found a tuple of 2: Tensor (2, 16), Tensor (2, 16)",
    "logits": "found a tuple of 2: Tensor (2, 16), Tensor (2, 10)",
    "listed": "found a list of 2: Tensor (2, 16), Tensor (2, 1)",
    "named": "found a dict of 1: embedding: Tensor (2, 16)",
    "single": "found a tuple of 1: Tensor (2, 16)",
    "numbers": "found ndarray (2, 16) float32",
    "squeezed": "found Tensor (16,) for 1 image",
    "spatial": "found Tensor (2, 16, 1, 1)",
    "whole": "found Tensor (2, 16) int64",
    "quality": "must be embeddings of length 1 and their norms above 0",
    "signed_norm": "must be embeddings of length 1 and their norms above 0",
    "dropout": "gives other embeddings of the same faces each time",
    "noise": "gives other embeddings of the same faces each time",
    "batch_mean": "depends on the other faces of its batch",
    "batch_scale": "depends on the other faces of its batch",
    "first_of_batch": "depends on the other faces of its batch",
    "batch_norm": "its forward fails on 1 image with ValueError",
    "constant": "gives 4 different faces the same embedding",
    "zeros": "gives 4 different faces the same embedding",
    "half": "its weights are float16 and its pixels float32: call .float() on the network",
    "double": "its weights are float64 and its pixels float32: call .float() on the network",
    "failing": "fails on",
    "cut": "changes its input in place; begin its forward with a clone()",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache, pairs, a file of weights that nobody reads, and the networks on the path."""
    folder = tmp_path_factory.mktemp("own")
    small_cache(folder / "cache", occlusion=False)
    pairs_csv(folder / "pairs.csv", usable_pairs())
    torch.save({"a": torch.ones(1)}, folder / "w.pt")
    (folder / "tried_networks.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("tried_networks", None)


def evaluate(place: Path, command: str, name: str, out: Path, *more: str) -> Result:
    words = [command, str(place / "cache"), "--backbone", f"tried_networks:{name}"]
    words += ["--weights", str(place / "w.pt"), "--device", "cpu", "--out", str(out), *more]
    return CliRunner().invoke(main, words)


def verify(place: Path, name: str, out: Path) -> Result:
    pairs = str(place / "pairs.csv")
    return evaluate(place, "verification", name, out, "--pairs", pairs, "--bootstrap", "0",
                    "--json")  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_network_that_is_used_wrongly_is_refused_in_a_line(
    place: Path, tmp_path: Path, name: str
) -> None:
    result = verify(place, name, tmp_path / "out")
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"Error: tried_networks:{name}: ")
    assert WRONG[name] in line
    assert not (tmp_path / "out" / "verification.json").exists()


@pytest.mark.parametrize("name", ["raw", "pair", "flat_norm", "half_by_itself"])
def test_a_network_that_is_used_rightly_says_nothing(
    place: Path, tmp_path: Path, name: str
) -> None:
    result = verify(place, name, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""


def scores(place: Path, name: str, out: Path) -> np.ndarray:
    result = verify(place, name, out)
    assert result.exit_code == 0, result.output
    return load_file(out / "scores.safetensors")["score"]


def test_pixels_changed_in_place_are_a_copy(place: Path, tmp_path: Path) -> None:
    copying, in_place = (scores(place, n, tmp_path / n) for n in ("copying", "in_place"))
    assert np.array_equal(copying, in_place)
    plain = scores(place, "raw", tmp_path / "raw")
    assert np.abs(copying - plain).max() > 1e-3, "the change matters"


def test_maps_are_those_of_unchanged_pixels(place: Path, tmp_path: Path) -> None:
    kept = {}
    for name in ("copying", "in_place"):
        out = tmp_path / name
        words = ["--pairs", str(place / "pairs.csv"), "--limit", "2", "--bootstrap", "0"]
        words += ["--methods", "saliency,integrated-gradients", "--infills", "blur", "--anyway"]
        result = evaluate(place, "attribution", name, out, *words)
        assert result.exit_code == 0, result.output
        kept[name] = (out / "pairs.csv").read_text()
    assert kept["copying"] == kept["in_place"]


@pytest.mark.parametrize("command", ["embed", "identification", "attribution"])
@pytest.mark.parametrize("name", ["dropout", "constant", "two_embeddings"])
def test_every_command_tries_the_network(
    place: Path, tmp_path: Path, command: str, name: str
) -> None:
    more = ["--pairs", str(place / "pairs.csv")] if command == "attribution" else []
    result = evaluate(place, command, name, tmp_path / "out", *more)
    assert result.exit_code == 1, result.output
    assert WRONG[name] in result.stderr


def test_training_tries_it_too(place: Path, tmp_path: Path) -> None:
    for name in ("batch_mean", "dropout", "logits"):
        result = CliRunner().invoke(
            oaml_command,
            [str(place / "cache"), "--out", str(tmp_path / name), "--map", "14",
             "--backbone", f"tried_networks:{name}", "--steps", "1", "--device", "cpu"],
        )  # fmt: skip
        assert result.exit_code == 1, result.output
        assert WRONG[name] in str(result.exception or result.output)
        assert not (tmp_path / name).exists(), "a start that did nothing leaves nothing"


def test_trying_changes_neither_the_mode_nor_the_random_numbers(place: Path) -> None:
    backbone = own_backbone("tried_networks:raw", None).train()
    backbone.network.last.eval()
    rows = FaceCache.open(place / "cache")
    images = torch.from_numpy(rows.read(rows.select()[:6], ["image"])["image"])
    torch.manual_seed(5)
    check_own(backbone, "x", images)
    found = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(found, torch.rand(3))
    assert backbone.network.training
    assert not backbone.network.last.training
    # Equal faces have equal embeddings: only different ones are compared.
    check_own(own_backbone("tried_networks:constant", None), "x", images[:1].repeat(4, 1, 1, 1))
    repeated = torch.cat([images[:1], images])
    assert len(distinct(repeated)) == 4
    with pytest.raises(ModelError, match="gives 4 different faces the same"):
        check_own(own_backbone("tried_networks:constant", None), "x", repeated)
