"""Weights as training code of others leaves them: tables, wrappers, means, colour order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.evaluate.builder import random_module
from tests.train.models.parity_fill import load_case
from tests.train.models.test_networks_of_others import shapes_of
from torch import Tensor, nn

from faceguide.core.errors import CheckpointError, EvaluationError
from faceguide.train.models import create
from faceguide.train.models.backbones.resnet import IMAGENET_PREFIXES, resnet_features
from faceguide.train.models.loading.network import load_network
from faceguide.train.models.weights import find_state, load_weights, read_state

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def weights() -> State:
    return dict(random_module("mobilefacenet").state_dict())


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def drifted(state: State) -> State:
    """What a mean over steps holds: the same names, other numbers."""
    return {
        name: value + 0.5 if name.endswith("weight") else value for name, value in state.items()
    }


def compiled_inside(state: State) -> State:
    """torch.compile on one part of the network."""
    return {name.replace("features.", "features._orig_mod.", 1): v for name, v in state.items()}


# What is saved; the network, and then the place and the prefix that must be found.
LAYOUTS: dict[str, tuple[Callable[[State], Any], str, str]] = {
    "compiled": (lambda s: under("_orig_mod.", s), "", "_orig_mod."),
    "parallel, compiled": (lambda s: under("module._orig_mod.", s), "", "module._orig_mod."),
    "compiled, parallel": (lambda s: under("_orig_mod.module.", s), "", "_orig_mod.module."),
    "Lightning, parallel": (
        lambda s: {"state_dict": under("model.module.", s)}, "state_dict", "model.module."),
    "model_state_dict": (
        lambda s: {"epoch": 3, "model_state_dict": s, "optimizer_state_dict": {}},
        "model_state_dict", ""),
    "partial FC": (
        lambda s: {"state_dict_backbone": under("module.", s), "state_optimizer": {},
                   "state_dict_softmax_fc": {"weight": torch.ones(9, 128)}},
        "state_dict_backbone", "module."),
    "backbone.": (lambda s: under("backbone.", s), "", "backbone."),
    "network.": (lambda s: {"state_dict": under("network.", s)}, "state_dict", "network."),
    "CVLFace": (lambda s: under("model.net.", s), "", "model.net."),
    "criterion beside it": (
        lambda s: under("model.", s) | {"criterion.w": torch.zeros(3)}, "", "model."),
    # not among the reported ones
    "Fabric over FSDP": (
        lambda s: {"model": under("_forward_module._fsdp_wrapped_module.", s)},
        "model", "_forward_module._fsdp_wrapped_module."),
    "table in a table": (
        lambda s: {"checkpoint": {"model": {"backbone": s, "head": {"kernel": torch.ones(2, 2)}}}},
        "checkpoint.model.backbone", ""),
    "an attribute of any name": (
        lambda s: {"state_dict": under("recogniser.", s)}, "state_dict", "recogniser."),
    "one part compiled": (compiled_inside, "", ""),
    "AveragedModel": (lambda s: {"n_averaged": torch.tensor(7), **under("module.", s)},
                      "", "module."),
    "only a mean": (lambda s: {"model_ema": s, "updates": 7}, "model_ema", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_network_is_found_wherever_it_lies(
    tmp_path: Path, weights: State, name: str, suffix: str
) -> None:
    wrap, place, prefix = LAYOUTS[name]
    payload, path = wrap(weights), tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        if place:
            pytest.skip("safetensors has no tables")
        save_file({key: value.contiguous().clone() for key, value in payload.items()}, path)
    else:
        torch.save(payload, path)
    network = load_network("mobilefacenet", path)
    for key, value in network.backbone.state_dict().items():
        assert torch.equal(value, weights[key]), key
    assert len(network.notes) == 1
    assert not network.doubts
    found = find_state(path, create("mobilefacenet"))
    assert (found.place, found.prefix, found.others) == (place, prefix, ())


@pytest.mark.parametrize(
    ("payload", "elsewhere"),
    [
        (lambda s: {"state_dict": s, "state_dict_ema": drifted(s)}, "state_dict_ema"),
        (lambda s: {"ema": drifted(s), "model": s}, "ema"),
        (
            lambda s: {"state_dict": under("ema_model.module.", drifted(s)) | under("model.", s)},
            "state_dict:ema_model.module.",
        ),
        (lambda s: under("teacher.", drifted(s)) | under("student.", s), "teacher."),
    ],
)
def test_trained_weights_go_before_their_mean_and_it_is_said(
    tmp_path: Path, weights: State, payload: Callable[[State], Any], elsewhere: str
) -> None:
    torch.save(payload(weights), tmp_path / "w.pt")
    network = load_network("mobilefacenet", tmp_path / "w.pt")
    assert torch.equal(network.backbone.bn.weight, weights["bn.weight"])
    assert f"left out: {elsewhere}" in network.notes[0]
    same = {"state_dict": weights, "state_dict_ema": {k: v.clone() for k, v in weights.items()}}
    torch.save(same, tmp_path / "same.pt")
    assert "other numbers" not in load_network("mobilefacenet", tmp_path / "same.pt").notes[0]


def test_a_prefix_that_is_the_networks_own_stays(tmp_path: Path) -> None:
    class Wrapper(nn.Module):
        """As EdgeFace's: `model` is an attribute of the network itself."""

        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))

    own = Wrapper()
    for prefix in ("", "module.", "model.", "module.model."):
        torch.save(under(prefix, own.state_dict()), tmp_path / "w.pt")
        other = Wrapper()
        assert load_weights(other, tmp_path / "w.pt").loaded == 4
        assert torch.equal(other.model[1].weight, own.model[1].weight)
    torch.save(under("module.", own.state_dict()), tmp_path / "w.pt")
    assert set(read_state(tmp_path / "w.pt")) == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_names_that_everybody_has_are_no_network(tmp_path: Path) -> None:
    torch.save({"layer1.bn.weight": torch.ones(128), "x.bn.bias": torch.ones(128)}, tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"no tensor of .* belongs to MobileFaceNet"):
        load_weights(create("mobilefacenet"), tmp_path / "w")


IR = "ir_18"


@pytest.fixture(scope="module")
def ir() -> State:
    return dict(create(IR).state_dict())


@pytest.mark.parametrize(
    ("payload", "order", "source"),
    [
        (lambda s: under("net.", s), "RGB", "layout"),
        (lambda s: under("model.net.", s), "RGB", "layout"),
        (
            lambda s: {"state_dict": under("model.", s) | {"head.kernel": torch.ones(512, 3)}},
            "BGR",
            "network",
        ),
        (lambda s: s, None, ""),
        (lambda s: {"state_dict": under("module.", s)}, None, ""),
    ],
)
def test_the_layout_tells_the_colour_order_or_it_is_asked_for(
    tmp_path: Path, ir: State, payload: Callable[[State], Any], order: str | None, source: str
) -> None:
    path = tmp_path / "w.pt"
    torch.save(payload(ir), path)
    if order is None:
        with pytest.raises(CheckpointError, match=r"--colour bgr .*AdaFace, --colour rgb"):
            load_network(None, path)
        for asked in ("RGB", "BGR"):
            given = load_network(None, path, colour=asked)
            assert given.input_spec.colour == asked
            assert given.record()["colour_from"] == "option"
        return
    network = load_network(IR, path)
    assert network.colour is not None
    assert (network.colour.order, network.colour.source) == (order, source)
    assert network.input_spec.colour == order


def test_the_users_word_on_colour_goes_before_the_layout(tmp_path: Path, ir: State) -> None:
    torch.save(under("net.", ir), tmp_path / "w.pt")
    other = load_network(IR, tmp_path / "w.pt", colour="BGR")
    assert other.input_spec.colour == "BGR"
    assert other.key() != load_network(IR, tmp_path / "w.pt").key(), "embeddings are others"
    save_file({k: v.contiguous() for k, v in ir.items()}, tmp_path / "w.safetensors",
              {"colour": "RGB"})  # fmt: skip
    assert load_network(IR, tmp_path / "w.safetensors").input_spec.colour == "RGB"
    with pytest.raises(CheckpointError, match=r"--colour bgr: .*RGB"):
        load_network(IR, tmp_path / "w.safetensors", colour="BGR")


def test_mean_and_deviation_follow_the_channels(tmp_path: Path, weights: State) -> None:
    torch.save(weights, tmp_path / "w.pt")
    spec = load_network("mobilefacenet", tmp_path / "w.pt", colour="BGR").input_spec
    images = torch.randint(0, 256, (1, 4, 4, 3), dtype=torch.uint8)
    usual = create("mobilefacenet").input_spec.prepare(images)
    torch.testing.assert_close(spec.prepare(images), usual.flip(1))


def imagenet(depth: int) -> State:
    """A torchvision ResNet's state dict."""
    named = {ours: theirs for theirs, ours in IMAGENET_PREFIXES.items()}
    state = {}
    for name, value in resnet_features(depth).state_dict().items():
        start, _, rest = name.partition(".")
        if depth >= 50 or not name.endswith(("conv1.bias", "conv2.bias")):
            state[named[f"{start}."] + rest] = value
    width = 512 if depth < 50 else 2048
    return state | {"fc.weight": torch.zeros(1000, width), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(
    ("model", "state", "message"),
    [
        (
            "cal_resnet18",
            "mobilefacenet",
            "looks like mobilefacenet: use --model cal_mobilefacenet",
        ),
        ("cal_mobilefacenet", "imagenet 18", "looks like resnet18: use --model cal_resnet18"),
        # All layers of the one are in the other: nothing would be missing, or only some.
        ("cal_resnet18", "imagenet 34", "looks like resnet34: use --model cal_resnet34"),
        ("cal_resnet34", "imagenet 18", "looks like resnet18: use --model cal_resnet18"),
        ("cal_resnet34", "wrapped 18", "looks like resnet18: use --model cal_resnet18"),
        ("cal_resnet18", "ir_18", "looks like ir_18, which --model does not offer"),
        ("ir_50", "ir_se_50", "looks like ir_se_50: use --backbone ir_se_50"),
        ("ir_18", "ir_34", "looks like ir_34: use --backbone ir_34"),
        ("ir_18", "imagenet 18", "looks like resnet18 of ImageNet, not a face network"),
        ("ir_18", "arcface_torch", "looks like iresnet_18: use --backbone iresnet_18"),
        ("mobilefacenet", "inception_resnet_v1", "use --backbone inception_resnet_v1"),
    ],
)
def test_a_file_of_another_network_names_it(
    tmp_path: Path, model: str, state: str, message: str
) -> None:
    kind, _, depth = state.partition(" ")
    if kind in ("imagenet", "wrapped"):
        found = imagenet(int(depth))
        found = {"state_dict": under("module.backbone.", found)} if kind == "wrapped" else found
    elif kind == "arcface_torch":
        shapes = shapes_of(load_case("arcface_r18"))
        found = {name: torch.ones(()).expand(shape) for name, shape in shapes.items()}
    else:
        found = create(kind).state_dict()
    path = tmp_path / "w.pt"
    torch.save(found, path)
    is_cal = model.startswith("cal_")
    module = create(model, **({"num_classes": 4, "heads": 2} if is_cal else {}))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(module, path, "--model" if is_cal else "--backbone")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_weights_of_a_network_that_was_never_trained_are_a_doubt(tmp_path: Path) -> None:
    torch.save(create("mobilefacenet").state_dict(), tmp_path / "w.pt")
    assert load_network("mobilefacenet", tmp_path / "w.pt").doubts.counts() == {"untrained": 1}


def test_a_pickled_network_is_refused_with_the_remedy(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"save model\.state_dict\(\), not the model itself"):
        load_network("mobilefacenet", tmp_path / "w.pt")


def test_no_colour_where_a_network_tells_its_own(tmp_path: Path, weights: State) -> None:
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(EvaluationError, match="says its colour order in input_spec"):
        load_network("tests.train.small_network:build", tmp_path / "w.pt", colour="RGB")


def test_an_outline_has_the_names_and_shapes_and_loads_no_compiler() -> None:
    code = (
        "import sys\nfrom faceguide.train.models import MODELS, create, outline\n"
        "for name in ('mobilefacenet', 'ir_18', 'vit_tiny', 'inception_resnet_v1'):\n"
        "    empty, full = outline(name).state_dict(), create(name).state_dict()\n"
        "    assert all(tensor.is_meta for tensor in empty.values())\n"
        "    shapes = [{k: v.shape for k, v in state.items()} for state in (empty, full)]\n"
        "    assert shapes[0] == shapes[1]\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
