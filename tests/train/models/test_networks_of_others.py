"""Networks that users hold: recognised by keys and shapes, equal to the originals' numbers."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.train.models.parity_fill import drawn, load_case, relative_error, smooth_images
from torch import Tensor, nn

from faceguide.core.errors import CheckpointError, ModelError
from faceguide.train.models import blank, create, outline
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.layout import find, tables
from faceguide.train.models.loading.description import describe_file
from faceguide.train.models.loading.network import load_network
from faceguide.train.models.loading.network_file import read_network
from faceguide.train.models.recognise import recognised, the_network
from faceguide.train.models.weights import fill

State = dict[str, Tensor]
CASES = {
    "arcface_mbf": "mbf",
    "arcface_r18": "iresnet_18",
    "arcface_r50": "iresnet_50",
    "arcface_vit_t": "vit_t",
    "cvlface_vit_kprpe_small": "cvlface_kprpe_small",
    "edgeface_xs_gamma_06": "edgeface_xs_gamma_06",
}


def shapes_of(case: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    named = (str(line).split(" ") for line in case["keys"])
    return {
        name: tuple(int(side) for side in shape.strip("()").split(",") if side)
        for name, shape in named
    }


def original(case: dict[str, np.ndarray]) -> State:
    """The state dict that the originals were run with."""
    state = {}
    for name, shape in shapes_of(case).items():
        value = torch.as_tensor(drawn(name, shape, 1))
        state[name] = value.float() if value.is_floating_point() else value
    return state


def opened(payload: Any) -> FaceBackbone:
    """The network of a file with this content, without the file."""
    there = tables(payload)
    found = the_network(there, None, "w.pt")
    assert found is not None
    module: FaceBackbone = blank(found.name, **found.arguments)
    state = find(there, module)
    assert state is not None
    report = fill(module, state, "w.pt")
    assert (report.missing, report.unexpected, report.dropped) == ((), (), ())
    return module.eval()


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_equal_weights_give_the_original_numbers(name: str) -> None:
    case = load_case(name)
    images, points = smooth_images((3, 3, 112, 112)), {}
    if "keypoints" in case:
        points["keypoints"] = torch.from_numpy(case["keypoints"])
    state = original(case)
    for gain in ("", "_gain2"):
        if gain:
            state = {key: value * 2 if value.ndim > 1 else value for key, value in state.items()}
        network = opened(state)
        embedding, norm, maps = network.forward_all(images, **points)
        assert relative_error(embedding * norm, case[f"embedding{gain}"]) < 1e-5
        if name.startswith("edgeface"):
            assert not hasattr(network, "linear_tail")
        elif not gain:
            tail, cells = network.linear_tail(), maps.flatten(2)
            assert tail.weight.shape[0] == {"vit_t": 144}.get(CASES[name], 196 if points else 49)
            found = torch.einsum("ncs,sce->ne", cells, tail.weight) + tail.bias
            assert relative_error(found, (embedding * norm).numpy()) < 2e-5, "the sum of cells"
        if not gain:
            torch.testing.assert_close(network(images, **points), (embedding, norm))
            torch.testing.assert_close(network.feature_map(images, **points), maps)
        if name.startswith("edgeface"):
            maps = network.stages[3](maps)  # theirs is this 3×3 map
        if len(case["feature_map_shape"]) == 3:
            maps = maps.flatten(2).transpose(1, 2)
        assert tuple(maps.shape) == tuple(case["feature_map_shape"])
        expected = case[f"feature_map_sample{gain}"]
        places = torch.linspace(0, maps.numel() - 1, len(expected)).long()  # float32, as theirs
        assert relative_error(maps.flatten()[places], expected) < 1e-5


@pytest.mark.parametrize(
    ("name", "arguments", "tensors", "millions"),
    [
        ("iresnet_34", {}, 331, 34.139328),
        ("iresnet_100", {}, 925, 65.156160),
        ("iresnet_200", {}, 1807, 118.833920),
        ("mbf", {}, 333, 2.059520),
        ("vit_t", {}, 150, 19.1),
        ("vit_s", {}, 150, 76.0),
        ("vit_b", {}, 282, 113.8),
        ("vit_l", {}, 282, 255.7),
        ("edgeface_xxs", {}, 160, 1.244744),
        ("edgeface_xs", {}, 214, 2.242620),
        ("edgeface_xs_gamma_06", {}, 257, 1.770492),
        ("edgeface_s", {}, 214, 5.437992),
        ("edgeface_s_gamma_05", {}, 257, 3.652520),
        ("edgeface_base", {}, 214, 18.225812),
    ],
)
def test_other_sizes_have_the_published_counts(
    name: str, arguments: dict[str, Any], tensors: int, millions: float
) -> None:
    made = outline(name, **arguments)
    numbers = sum(parameter.numel() for parameter in made.parameters())
    assert len(made.state_dict()) == tensors
    assert abs(numbers / 1e6 - millions) < (0.06 if round(millions, 1) == millions else 1e-9)


ARGUMENTS: dict[str, dict[str, Any]] = {
    "edgeface_s": {"rank_ratio": 0.35, "embedding_size": 512},
    "mbf": {"embedding_size": 128},
    "cal_resnet18": {"num_classes": 5, "heads": 3},
}
# What the names of arcface_torch are here, backwards.
INSIDE = {"res_layer.0": "bn1", "res_layer.1": "conv1", "res_layer.2": "bn2",
          "res_layer.3": "prelu", "res_layer.4": "conv2", "res_layer.5": "bn3",
          "shortcut_layer": "downsample"}  # fmt: skip
OUTSIDE = {
    **{"input_layer.0": "conv1", "input_layer.1": "bn1", "input_layer.2": "prelu"},
    **{"output_layer.0": "bn2", "output_layer.3": "fc", "output_layer.4": "features"},
}


def as_published(name: str, state: State) -> State:
    """An iresnet's names as arcface_torch has them; others as they are."""
    if not name.startswith("iresnet"):
        return state
    units = [(stage, i) for stage, n in enumerate(outline(name).units, 1) for i in range(n)]
    renamed = {}
    for key, value in state.items():
        if key.startswith("body."):
            _, unit, rest = key.split(".", 2)
            part = next(part for part in INSIDE if rest.startswith(part))
            stage, place = units[int(unit)]
            key = f"layer{stage}.{place}.{INSIDE[part]}{rest.removeprefix(part)}"
        else:
            part = ".".join(key.split(".")[:2])
            key = OUTSIDE[part] + key.removeprefix(part)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize(
    "name",
    ["mobilefacenet", "ir_18", "ir_34", "ir_50", "ir_101", "ir_se_50", "iresnet_18", "iresnet_34",
     "iresnet_50", "iresnet_100", "iresnet_200", "mbf", "mbf_large", "inception_resnet_v1",
     "vit_tiny", "vit_t", "vit_s", "vit_b", "vit_l", "vit_h", "cvlface_vit_small",
     "cvlface_vit_base", "cvlface_kprpe_small", "cvlface_kprpe_base", "edgeface_xxs",
     "edgeface_xs", "edgeface_s", "edgeface_base", "edgeface_xs_gamma_06", "edgeface_s_gamma_05",
     "cal_resnet18", "cal_mobilefacenet"],
)  # fmt: skip
def test_every_network_is_told_by_its_keys_and_shapes(name: str) -> None:
    prefix = "" if name.startswith("ir") else "module.model.net."
    arguments = ARGUMENTS.get(name, {})
    if name == "cal_mobilefacenet":
        arguments = ARGUMENTS["cal_resnet18"]
    state = as_published(name, outline(name, **arguments).state_dict())
    (found,) = recognised(tables({prefix + key: value for key, value in state.items()}))
    assert (found.name, found.prefix, found.missing) == (name, prefix, "")
    assert arguments.items() <= found.arguments.items()
    made = as_published(name, outline(name, **found.arguments).state_dict())
    assert {key: value.shape for key, value in made.items()} == {
        key: value.shape for key, value in state.items()
    }


def small_vit(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    arguments = {"width": 24, "depth": 2, "heads": 3, "patch": 16, "embedding_size": 16}
    module: nn.Module = create("vit", **{**arguments, **changes}).eval()
    return module


def test_the_heads_of_an_unknown_vision_transformer_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(small_vit().state_dict(), path)
    with pytest.raises(CheckpointError, match=r"2 blocks of width 24.*--heads"):
        load_network(None, path)
    few, many = (load_network(None, path, heads=heads) for heads in (3, 8))
    assert few.backbone.blocks[0].attn.heads == 3
    assert few.key() != many.key()
    assert few.record()["heads"] == 3
    torch.save(small_vit(keypoints=True).state_dict(), path)
    assert load_network(None, path).backbone.heads == 3  # told by KP-RPE's layer
    torch.save(create("vit_tiny").state_dict(), path)
    with pytest.raises(CheckpointError, match="--heads 4: vit_tiny has 3"):
        load_network(None, path, heads=4)


def test_keypoints_that_are_missing_are_one_clear_error() -> None:
    network = small_vit(keypoints=True)
    images = torch.zeros(2, 3, 112, 112)
    for points in ({}, {"keypoints": torch.zeros(1, 5, 2)}):
        with pytest.raises(ModelError, match=r"keypoints="):
            network(images, **points)
    assert network(images, keypoints=torch.rand(2, 5, 2))[0].shape == (2, 16)


def test_tokens_that_are_left_out_change_nothing() -> None:
    network = small_vit(keypoints=True)
    points = torch.rand(2, 5, 2)
    images = torch.randn(2, 3, 112, 112)
    seen = torch.rand(2, 49) > 0.4
    changed = images.clone()
    hidden = ~seen.reshape(2, 1, 7, 1, 7, 1).expand(-1, -1, -1, 16, -1, 16).reshape(2, 1, 112, 112)
    changed = torch.where(hidden, torch.randn_like(images), images)
    with torch.no_grad():
        first, second = (
            network.tokens(pixels, keypoints=points, seen=seen) for pixels in (images, changed)
        )
        plain = network.tokens(images, keypoints=points)
        # Leaving them out is what it is for a transformer that never had them.
        matrices: list[Tensor] = []
        network.tokens(images, matrices, keypoints=points, seen=seen)
        nothing = network.tokens(images, keypoints=points, seen=torch.zeros_like(seen))
    torch.testing.assert_close(first, second)
    assert (first - plain)[seen].abs().max() > 1e-3
    assert all(matrix.transpose(1, 3)[~seen].abs().max() == 0 for matrix in matrices)
    torch.testing.assert_close(first[~seen], network.mask_token[0].expand_as(first[~seen]))
    torch.testing.assert_close(nothing, plain)


def cvlface_ir(prefix: str) -> State:
    return {prefix + name: value for name, value in create("ir_18").state_dict().items()}


@pytest.mark.parametrize("named", ["RGB", "BGR"])
@pytest.mark.parametrize("file", ["pretrained_model/model.pt", "model.safetensors", "model.pt"])
def test_a_downloaded_folder_states_its_colour_order(tmp_path: Path, named: str, file: str) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    state = cvlface_ir("model.net." if path.suffix == ".safetensors" else "net.")
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    about = tmp_path / ("model.yaml" if file == "model.pt" else "pretrained_model/model.yaml")
    about.parent.mkdir(exist_ok=True)
    about.write_text(f"name: ir18\ninput_size: [3, 112, 112]\ncolor_space: '{named}'\n")
    for given in (tmp_path, path):
        network = load_network(None, given)
        assert (network.name, network.input_spec.colour) == ("ir_18", named)
        assert network.colour is not None
        assert network.colour.source == "file"
        assert network.key()["colour"] == named


def test_a_resume_file_holds_the_backbone(tmp_path: Path) -> None:
    case = load_case("arcface_mbf")
    state = original(case)
    payload = {
        "epoch": 3, "global_step": 100, "state_dict_backbone": state,
        "state_dict_softmax_fc": {"weight": torch.zeros(10, 512)},
        "state_optimizer": {}, "state_lr_scheduler": {},
    }  # fmt: skip
    torch.save(payload, tmp_path / "checkpoint_gpu_0.pt")
    network = load_network(None, tmp_path / "checkpoint_gpu_0.pt")
    assert (network.name, network.input_spec.colour, network.map_side) == ("mbf", "RGB", 7)
    assert network.input_spec.mean == (0.5, 0.5, 0.5)
    with torch.inference_mode():
        embedding, norm = network.backbone(smooth_images((3, 3, 112, 112)))
    assert relative_error(embedding * norm, case["embedding"]) < 1e-5


def mobilefacenet(prefix: str = "") -> State:
    return {prefix + name: v for name, v in create("mobilefacenet").state_dict().items()}


def test_a_given_name_is_checked_and_decides_among_several(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(mobilefacenet(), path)
    with pytest.raises(CheckpointError, match=r"mobilefacenet, .*, not mbf"):
        load_network("mbf", path)
    both = mobilefacenet("student.") | {
        f"teacher.{name}": value for name, value in create("vit_tiny").state_dict().items()
    }
    torch.save(both, path)
    with pytest.raises(CheckpointError, match=r"holds .*vit_tiny.*; choose one by --backb"):
        load_network(None, path)
    assert load_network("vit_tiny", path).name == "vit_tiny"
    assert load_network("mobilefacenet", path).name == "mobilefacenet"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def packed(path: Path) -> None:
    with zipfile.ZipFile(path) as old:
        entries = {entry.filename: old.read(entry) for entry in old.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in entries.items():
            new.writestr(name, data)


def program(path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def without(*names: str) -> Callable[[], State]:
    return lambda: {
        key: value
        for key, value in original(load_case("arcface_mbf")).items()
        if not key.startswith(names)
    }


BAD: dict[str, tuple[Callable[[], Any], Callable[[Path], None] | None, str]] = {
    "cut": (mobilefacenet, cut, "it breaks off before its end; take another copy"),
    "packed": (mobilefacenet, packed, "it is a packed archive"),
    "program": (mobilefacenet, program, "TorchScript program|packed"),
    "module": (lambda: nn.Linear(2, 2), None, r"save model\.state_dict\(\), not the model itself"),
    "foreign": (lambda: {"a.b": torch.ones(2)}, None, r"not say which network .* names are like a"),
    "lacks a layer": (without("layers.3.layers.1."), None, r"does not hold a whole ArcFaceMobile"),
    "lacks its size": (without("features."), None,
                       r"looks like the mbf .*, but it lacks features\.layers\.2\.weight"),
    "imagenet": (lambda: {f"layer{n}.{i}.conv1.weight": torch.ones(2) for n in (1, 2, 3, 4)
                          for i in (0, 1)}, None, "resnet18 of ImageNet, not a face network"),
    "timm": (lambda: {"cls_token": torch.ones(1, 1, 8),
                      "patch_embed.proj.weight": torch.ones(8, 3, 16, 16)}, None,
             "looks like a vision transformer, but it has no layers `feature`"),
    "odd size": (lambda: {"input_layer.0.weight": torch.ones(64, 3, 3, 3),
                          "output_layer.3.weight": torch.ones(512, 8),
                          "body.0.res_layer.1.weight": torch.ones(64, 64, 3, 3)}, None,
                 "looks like an IR network .*, but its size is not among those"),
    "larger than its bytes": (
        lambda: {**mobilefacenet(), "conv3.weight": torch.ones(1).expand(1 << 22, 512, 1, 1)},
        None, r"its mobilefacenet cannot be built \(\d+ numbers do not come out of"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    make, spoil, message = BAD[kind]
    path = tmp_path / "w.pt"
    torch.save(make(), path)
    if spoil is not None:
        spoil(path)
    with pytest.raises(CheckpointError, match=message) as refused:
        read_network(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_what_only_the_user_can_say_is_described_as_such(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(small_vit().state_dict(), path)
    found = describe_file(path)
    assert (found["network"], found["colour"]) == ("vit", "RGB")
    (assumed,) = found["assumed"]
    assert "--heads" in assumed
    assert describe_file(path, heads=3)["assumed"] == []
    torch.save(create("ir_18").state_dict(), path)
    found = describe_file(path)
    assert (found["network"], found["side"], found["colour"]) == ("ir_18", 112, None)
    assert "--colour rgb or bgr is needed" in found["assumed"][0]
