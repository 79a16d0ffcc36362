"""The face backbones against the numbers of the originals, and their cut into map and tail."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tests.train.models.parity_fill import fill, load_case, relative_error, sample, smooth_images

from faceguide.train.models import ModelError, create
from faceguide.train.models.input_spec import InputSpec
from faceguide.train.models.weights import load_weights

SIZES = {
    "ir_18": (179, 24_020_352),
    "ir_34": (323, 34_134_080),
    "ir_50": (467, 43_585_600),
    "ir_101": (917, 65_150_912),
    "ir_se_50": (515, 43_808_320),
}


@pytest.mark.parametrize("name", ["ir_18", "ir_50"])
def test_equal_weights_give_the_original_ir(name: str) -> None:
    case = load_case(f"adaface_{name}")
    model = create(name).eval()
    fill(model)
    with torch.inference_mode():
        embedding, norm, feature_map = model.forward_all(smooth_images((3, 3, 112, 112)))
    assert relative_error(embedding, case["embedding"]) < 1e-5
    assert relative_error(norm, case["norm"]) < 1e-5
    assert tuple(feature_map.shape) == tuple(case["feature_map_shape"])
    expected = case["feature_map_sample"]
    assert relative_error(sample(feature_map, expected), expected) < 1e-5


@pytest.mark.parametrize("name", SIZES)
def test_ir_has_the_published_keys_and_size(name: str) -> None:
    with torch.device("meta"):
        model = create(name)
    state = model.state_dict()
    assert (len(state), sum(p.numel() for p in model.parameters())) == SIZES[name]
    for key in ("input_layer.2.weight", "output_layer.3.bias", "body.1.res_layer.5.running_var"):
        assert key in state
    assert "output_layer.4.weight" not in state
    assert ("body.0.res_layer.se_block.fc1.weight" in state) == (name == "ir_se_50")
    first_of_stage_two = {"ir_18": 2, "ir_34": 3, "ir_50": 3, "ir_101": 3, "ir_se_50": 3}[name]
    assert f"body.{first_of_stage_two}.shortcut_layer.0.weight" in state


def test_real_weights_give_the_original_mobilefacenet(shared: Path) -> None:
    case = load_case("mobilefacenet")
    model = create("mobilefacenet").eval()
    report = load_weights(model, shared / "data/weights/mobilefacenet.pt")
    assert (report.loaded, report.missing, report.unexpected) == (307, (), ())
    with torch.inference_mode():
        embedding, norm, feature_map = model.forward_all(smooth_images((3, 3, 112, 112)))
    assert relative_error(embedding * norm, case["embedding"]) < 1e-5
    expected = case["feature_map_sample"]
    assert relative_error(sample(feature_map, expected), expected) < 1e-5


def test_real_faces_get_the_original_cosines(shared: Path) -> None:
    case = load_case("mobilefacenet_lfw112_dev")
    root = shared / "data/lfw112_dev"
    with (root / "pairs.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))[::40]
    names = sorted({pair[side] for pair in pairs for side in ("a", "b")})
    model = create("mobilefacenet").eval()
    load_weights(model, shared / "data/weights/mobilefacenet.pt")
    unit = {}
    with torch.inference_mode():
        for start in range(0, len(names), 64):
            block = names[start : start + 64]
            pixels = [cv2.imread(str(root / "images" / name))[:, :, ::-1] for name in block]
            unit.update(
                zip(block, model(model.input_spec.prepare(np.stack(pixels)))[0], strict=True)
            )
    cosine = torch.stack([unit[pair["a"]] @ unit[pair["b"]] for pair in pairs]).numpy()
    assert np.abs(cosine - case["cosine"][::40]).max() < 1e-4


@pytest.mark.parametrize(
    ("name", "channels"), [("mobilefacenet", {7: 512, 14: 128}), ("ir_18", {7: 512, 14: 256})]
)
def test_one_forward_gives_what_the_single_calls_give(name: str, channels: dict[int, int]) -> None:
    model = create(name).eval()
    fill(model)
    images = smooth_images((2, 3, 112, 112))
    with torch.inference_mode():
        embedding, norm = model(images)
        for side in (7, 14):
            every = model.forward_all(images, map_size=side)
            assert tuple(every.feature_map.shape) == (2, channels[side], side, side)
            assert torch.equal(every.feature_map, model.feature_map(images, map_size=side))
            assert torch.equal(every.embedding, embedding)
            assert torch.equal(every.norm, norm)
        # The 14×14 map is really what the rest of the network reads.
        rest = model.map7_to_embedding(model.map14_to_map7(model.feature_map(images, 14)))
    torch.testing.assert_close(rest, embedding * norm)
    assert norm.shape == (2, 1)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("name", ["mobilefacenet", "ir_18", "ir_se_50"])
def test_the_tail_is_one_linear_map_per_cell(name: str) -> None:
    model = create(name).eval()
    fill(model)
    map7 = torch.randn(3, 512, 7, 7, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model.map7_to_embedding(map7)
        tail = model.linear_tail()
        found = torch.einsum("ncs,sce->ne", map7.flatten(2), tail.weight) + tail.bias
    assert relative_error(found, expected.numpy()) < 1e-5


def test_gradients_reach_the_first_layer_from_each_output() -> None:
    model = create("mobilefacenet")
    images = smooth_images((2, 3, 112, 112))
    for pick in range(3):
        model.zero_grad()
        model.forward_all(images)[pick].square().mul(torch.rand(1)).sum().backward()
        gradient = model.conv1[0].weight.grad
        assert gradient.isfinite().all()
        # The squares of a unit embedding sum to 1: nothing but rounding flows from that sum.
        assert (gradient.abs().max() > 1e-4) == (pick != 0)


def test_a_zero_embedding_stays_finite() -> None:
    model = create("mobilefacenet").eval()
    torch.nn.init.zeros_(model.bn.weight)
    embedding, norm = model(smooth_images((1, 3, 112, 112)))
    assert embedding.abs().max() == 0
    assert norm.item() == 0


def test_wrong_images_and_maps_are_refused() -> None:
    model = create("ir_18")
    with pytest.raises(
        ModelError, match=r"IR expects images of \(N, 3, 112, 112\), found \(1, 3, "
    ):
        model(torch.zeros(1, 3, 96, 112))
    with pytest.raises(ModelError, match=r"maps of side \[7, 14\], asked for 28"):
        model.feature_map(torch.zeros(1, 3, 112, 112), map_size=28)


def test_each_backbone_states_its_pixels() -> None:
    pixels = np.zeros((1, 2, 2, 3), np.uint8)
    pixels[..., 0] = 255  # pure red
    adaface = create("ir_18").input_spec
    assert adaface.colour == "BGR"
    prepared = adaface.prepare(pixels)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared[0, :, 0, 0], torch.tensor([-1.0, -1.0, 1.0]))
    with torch.device("meta"):
        cal = create("cal_resnet18", num_classes=2).input_spec
        small = create("cal_mobilefacenet", num_classes=2).input_spec
    assert (cal.size, small.size, cal.colour) == (448, 112, "RGB")
    expected = (torch.tensor([1.0, 0.0, 0.0]) - torch.tensor(cal.mean)) / torch.tensor(cal.std)
    for spec in (cal, small, create("mobilefacenet").input_spec):
        torch.testing.assert_close(spec.prepare(torch.as_tensor(pixels))[0, :, 1, 1], expected)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (np.zeros((1, 4, 4, 3), np.float32), r"found \(1, 4, 4, 3\) float32"),
        (np.zeros((1, 3, 4, 4), np.uint8), r"found \(1, 3, 4, 4\) uint8"),
        (np.zeros((4, 4, 3), np.uint8), r"found \(4, 4, 3\) uint8"),
    ],
)
def test_prepare_refuses_other_arrays(wrong: np.ndarray, found: str) -> None:
    with pytest.raises(ModelError, match=r"\(N, H, W, 3\) uint8 RGB, " + found):
        create("mobilefacenet").input_spec.prepare(wrong)


def test_an_impossible_input_statement_is_refused() -> None:
    ones = (1.0, 1.0, 1.0)
    with pytest.raises(ModelError, match="RGB or BGR, found 'RBG'"):
        InputSpec(112, "RBG", ones, ones)
    with pytest.raises(ModelError, match="std above 0"):
        InputSpec(112, "RGB", ones, (1.0, 0.0, 1.0))
    with pytest.raises(ModelError, match="at least 1 pixel, found 0"):
        InputSpec(0, "RGB", ones, ones)
