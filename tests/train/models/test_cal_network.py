"""WSDAN-CAL against the numbers of the original, its draws and its pretrained weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.train.models.parity_fill import fill, load_case, relative_error, sample, smooth_images
from torch import Tensor, nn

from faceguide.train.models import ModelError, cal_network, create
from faceguide.train.models.attention_crop import attention_crop
from faceguide.train.models.backbones.mobilefacenet import MobileFaceNetTrunk
from faceguide.train.models.cal_network import CalParts, attention_pool, draw_maps
from faceguide.train.models.weights import load_matching, load_weights


def test_equal_weights_give_the_original() -> None:
    case = load_case("cal_resnet50")
    model = create("cal_resnet50", num_classes=10, heads=32).eval()
    fill(model)
    images = smooth_images((2, 3, 224, 224))
    with torch.inference_mode():
        output, maps, feature_map = model(images, parts=True)
        logits, effect, features, attention = output
    assert relative_error(logits, case["logits"]) < 1e-4
    assert relative_error(effect, case["effect"]) < 1e-4
    assert relative_error(attention, case["attention_mean"]) < 1e-4
    assert tuple(feature_map.shape) == tuple(case["feature_map_shape"])
    crop = attention_crop(images, attention, 0.3, 0.1)
    for tensor, name in (
        (features, "feature_sample"),
        (feature_map, "feature_map_sample"),
        (maps, "attention_sample"),
        (crop, "crop_sample"),
    ):
        assert relative_error(sample(tensor, case[name]), case[name]) < 1e-4, name
    with torch.inference_mode():
        plain = model(images)
    assert len(plain) == 4
    assert all(torch.equal(a, b) for a, b in zip(plain, output, strict=True))


@pytest.mark.parametrize(
    ("depth", "tensors", "parameters"),
    [
        (34, 255, 24_585_472),
        (50, 325, 36_680_832),
        (101, 631, 55_672_960),
        (152, 937, 71_316_608),
    ],
)
@pytest.mark.parametrize("stride", [16, 32])
def test_keys_and_sizes_are_the_published_ones(
    depth: int, tensors: int, parameters: int, stride: int
) -> None:
    with torch.device("meta"):
        model = create(f"cal_resnet{depth}", num_classes=200, stride=stride)
    state = model.state_dict()
    assert (len(state), sum(p.numel() for p in model.parameters())) == (tensors, parameters)
    assert state["attentions.conv.weight"].shape == (32, 512 if depth == 34 else 2048, 1, 1)
    assert ("features.7.0.conv1.bias" in state) == (depth == 34)
    assert {"features.0.weight", "features.7.0.downsample.1.running_var"} <= set(state)
    assert "fc.bias" not in state
    assert model.attentions.bn.eps == 1e-3


@pytest.mark.parametrize(("stride", "side"), [(16, 4), (32, 2)])
@pytest.mark.parametrize("name", ["cal_resnet18", "cal_mobilefacenet"])
def test_the_stride_sets_the_side_of_the_map(name: str, stride: int, side: int) -> None:
    model = create(name, num_classes=3, heads=5, stride=stride)
    pixels = 64 if name == "cal_resnet18" else 32
    images = smooth_images((2, 3, pixels, pixels))
    logits, effect, features, attention = model(images)
    assert (logits.shape, effect.shape) == ((2, 3), (2, 3))
    assert features.shape == (2, 5 * 512)
    assert attention.shape == (2, 2, side, side)
    assert model.eval()(images)[3].shape == (2, 1, side, side)


def test_training_draws_can_be_given() -> None:
    model = create("cal_mobilefacenet", num_classes=3, heads=4)
    images = smooth_images((2, 3, 32, 32))
    draws, fake = torch.rand(2, 2), torch.rand(2, 4, 4, 4) * 2
    first, second = (model(images, draws=draws, fake_attention=fake) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    torch.manual_seed(0)
    free = model(images)
    torch.testing.assert_close(free.logits, first.logits)
    assert not torch.equal(free.effect, first.effect)  # fresh fake maps
    # The effect is what the logits lose under the given fake maps.
    parts: CalParts = model(images, draws=draws, fake_attention=fake, parts=True)
    expected = model.fc(
        100
        * (attention_pool(parts.feature_map, parts.maps) - attention_pool(parts.feature_map, fake))
    )
    torch.testing.assert_close(parts.output.effect, expected, rtol=1e-4, atol=1e-4)


def test_fake_attention_is_drawn_in_training_and_ones_in_eval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = create("cal_mobilefacenet", num_classes=3, heads=64)
    pooled: list[Tensor] = []

    def watch(feature_map: Tensor, attention: Tensor) -> Tensor:
        pooled.append(attention)
        return attention_pool(feature_map, attention)

    monkeypatch.setattr(cal_network, "attention_pool", watch)
    images = smooth_images((8, 3, 112, 112))
    for _ in range(2):
        model(images)
    first, second = pooled[1], pooled[3]
    assert 0 <= first.min() < 0.001 < 1.999 < first.max() < 2
    assert first.mean().item() == pytest.approx(1.0, abs=0.01)
    assert not torch.equal(first, second)
    model.eval()(images)
    assert torch.equal(pooled[5], torch.ones_like(pooled[5]))


def test_pooling_by_hand() -> None:
    feature_map = torch.tensor([[[[1.0, 2.0]], [[-3.0, 0.0]]]])  # (1, C=2, 1, 2)
    attention = torch.tensor([[[[1.0, 0.0]], [[0.5, 1.0]]]])  # (1, M=2, 1, 2)
    pooled = torch.tensor([0.5, -1.5, 1.25, -0.75])  # column m · C + c
    rooted = pooled.sign() * (pooled.abs() + 1e-6).sqrt()
    expected = rooted / rooted.norm()
    torch.testing.assert_close(attention_pool(feature_map, attention)[0], expected)


def test_an_all_zero_attention_is_finite() -> None:
    feature_map = torch.randn(2, 3, 4, 4, requires_grad=True)
    pooled = attention_pool(feature_map, torch.zeros(2, 5, 4, 4))
    pooled.sum().backward()
    assert torch.equal(pooled, torch.zeros(2, 15))
    assert feature_map.grad.isfinite().all()


def test_maps_are_drawn_in_proportion_to_the_root_of_their_sum() -> None:
    attention = torch.zeros(1, 3, 2, 2)
    attention[0, 0, 0, 0], attention[0, 2] = 4.0, 4.0  # sums 4, 0, 16: roots 2, 0.001, 4
    places = torch.linspace(0, 1 - 1e-6, 60_001)
    draws = torch.stack([places, places.flip(0)], 1)
    many = attention.expand(len(draws), -1, -1, -1)
    drawn = draw_maps(many, draws)
    assert drawn.shape == (60_001, 2, 2, 2)
    for column in (0, 1):
        totals = drawn[:, column].sum((1, 2))
        assert (totals == 4).float().mean().item() == pytest.approx(2 / 6.001, abs=1e-4)
        assert (totals == 16).float().mean().item() == pytest.approx(4 / 6.001, abs=1e-4)
    assert torch.equal(draw_maps(attention, torch.tensor([[0.0, 1.0]]))[0, 1], attention[0, 2])


def test_a_prior_is_blended_in_and_gone_at_share_zero() -> None:
    model = create("cal_mobilefacenet", num_classes=3, heads=4).eval()
    images = smooth_images((2, 3, 32, 32))
    prior = torch.rand(2, 4, 4, 4)
    plain = model(images)
    without = model(images, prior=torch.full_like(prior, torch.nan), prior_share=0.0)
    assert torch.equal(plain.logits, without.logits)
    parts = model(images, prior=prior, prior_share=0.3, parts=True)
    blended = 0.7 * parts.maps + 0.3 * prior
    torch.testing.assert_close(parts.output.attention, blended.mean(1, keepdim=True))
    torch.testing.assert_close(parts.output.features, attention_pool(parts.feature_map, blended))
    assert not torch.equal(parts.output.logits, plain.logits)


def test_gradients_reach_every_parameter() -> None:
    model = create("cal_resnet18", num_classes=3, heads=4)
    output = model(smooth_images((4, 3, 64, 64)))
    loss = nn.functional.cross_entropy(output.logits, torch.tensor([0, 1, 2, 0]))
    loss = loss + nn.functional.cross_entropy(output.effect, torch.tensor([0, 1, 2, 0]))
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_dilation_keeps_the_trained_features_of_mobilefacenet(shared: Path) -> None:
    """Every second cell of the 14×14 map is the cell of the 7×7 map."""
    report, maps = None, {}
    images = smooth_images((2, 3, 112, 112))
    for stride in (16, 32):
        model = create("cal_mobilefacenet", num_classes=2, heads=3, stride=stride).eval()
        report = load_weights(model, shared / "data/weights/mobilefacenet.pt")
        with torch.inference_mode():
            maps[stride] = model.features(images)
        assert report.unexpected == ()
        assert all(key.startswith(("attentions.", "fc.")) for key in report.missing)
    assert (maps[16].shape[-1], maps[32].shape[-1]) == (14, 7)
    torch.testing.assert_close(maps[16][:, :, ::2, ::2], maps[32], rtol=1e-5, atol=1e-5)
    backbone = create("mobilefacenet").eval()
    load_weights(backbone, shared / "data/weights/mobilefacenet.pt")
    with torch.inference_mode():
        torch.testing.assert_close(maps[32], backbone.feature_map(images))


def torchvision_state(model: nn.Module) -> dict[str, Tensor]:
    """What an ImageNet file of this network holds: torchvision's names, and no biases."""
    places = {"0.": "conv1.", "1.": "bn1."} | {f"{n + 3}.": f"layer{n}." for n in (1, 2, 3, 4)}
    state = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    for key, value in model.features.state_dict().items():
        if key.endswith(("conv1.bias", "conv2.bias")):
            continue
        prefix = key[:2]
        state[places[prefix] + key[2:]] = torch.rand_like(value.float())
    return state


def test_imagenet_files_fill_the_features() -> None:
    model = create("cal_resnet34", num_classes=3, heads=2)
    state = torchvision_state(model)
    report = load_matching(model, model.adapt_state(state), "resnet34.pth")
    assert report.loaded == len(state) - 2
    assert report.unexpected == ()
    assert torch.equal(model.features[0].weight, state["conv1.weight"])
    assert torch.equal(model.features[7][2].bn2.weight, state["layer4.2.bn2.weight"])
    missing = set(report.missing)
    assert {"attentions.conv.weight", "fc.weight", "features.4.0.conv1.bias"} <= missing
    # The biases that such files lack are zero: the network is the one that was trained.
    assert not any(model.features.state_dict()[f"{n}.0.conv1.bias"].any() for n in (4, 5, 6, 7))


def test_own_files_load_whole_and_another_class_count_drops_the_classifier() -> None:
    source = create("cal_mobilefacenet", num_classes=5, heads=2)
    target = create("cal_mobilefacenet", num_classes=3, heads=2)
    report = load_matching(target, target.adapt_state(source.state_dict()), "best.pth")
    assert report.missing == ()
    (dropped,) = report.dropped
    assert "fc.weight dropped: (5, 1024) in the file, (3, 1024) here" in dropped
    assert torch.equal(target.attentions.conv.weight, source.attentions.conv.weight)


def test_impossible_networks_are_refused() -> None:
    with pytest.raises(ModelError, match="16 or 32, found 8"):
        create("cal_resnet18", num_classes=3, stride=8)
    with pytest.raises(ModelError, match="at least 1, found 3 and 0"):
        create("cal_resnet18", num_classes=3, heads=0)


def test_the_trunk_alone_matches_its_halves() -> None:
    trunk = MobileFaceNetTrunk().eval()
    images = smooth_images((1, 3, 64, 64))
    assert trunk(images).shape == (1, 512, 4, 4)
    assert MobileFaceNetTrunk(8)(images).shape == (1, 512, 8, 8)
