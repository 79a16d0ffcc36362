"""DeepLIFT and LRP: completeness and conservation where theory gives equality."""

from __future__ import annotations

import pytest
import torch
from captum.attr import LRP as CaptumLRP
from captum.attr import DeepLift
from tests.evaluate.attribution.networks import assert_alike, pixels, settle, settled
from torch import Tensor, nn

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.maps import Batch
from faceguide.evaluate.attribution.methods.propagation.deeplift import deeplift, multipliers
from faceguide.evaluate.attribution.methods.propagation.lrp import lrp, propagate
from faceguide.evaluate.attribution.methods.target import PairScore, raw_embedding
from faceguide.train.models.backbones.inception_resnet import InceptionResnetV1
from faceguide.train.models.backbones.vit import ViT


class Small(nn.Module):
    """Convolution, pooling and two activations in a row, ending in one number per row."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.act1 = activation()
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=bias)
        self.act2 = activation()
        self.flat = nn.Flatten()
        self.fc = nn.Linear(8 * 4, 5, bias=bias)

    def features(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(
            self.flat(self.act2(self.conv2(self.pool(self.act1(self.conv1(x))))))
        )
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).sum(1)


def inputs(seed: int = 0) -> Tensor:
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["ir_se_50", "mobilefacenet", "inception_resnet_v1"])
def test_completeness_and_conservation_on_whole_networks(name: str) -> None:
    network = _network(name)
    score = PairScore(network)
    size = network.input_spec.size
    batch = Batch(pixels(1, 5, size), score.reference(pixels(1, 6, size)), (0,))
    for explain in (deeplift, lrp):
        found = explain(score, batch, Settings())
        error = found.completeness_error()
        assert error is not None
        assert found.values.shape == (1, size, size)
        assert found.values.abs().max() > 0
        assert error.max() < 1e-3, (explain.__name__, error)


def _network(name: str) -> nn.Module:
    if name == "inception_resnet_v1":
        torch.manual_seed(0)
        return settle(InceptionResnetV1())
    return settled(name)


def test_deeplift_claims_the_change_of_the_projection() -> None:
    score = PairScore(settled("ir_18"))
    probe, reference = pixels(2, 5), score.reference(pixels(2, 6))
    found = deeplift(score, Batch(probe, reference, (0, 1)), Settings(baseline="grey"))
    raw = [raw_embedding(score.backbone, images) for images in (probe, torch.zeros_like(probe))]
    products = [(one * reference[0]).sum(1) for one in raw]
    change = (products[0] - products[1]) / raw[0].norm(dim=1)
    torch.testing.assert_close(found.claimed, change, rtol=1e-3, atol=1e-5)


def test_deeplift_equals_captum_on_a_relu_network() -> None:
    # Without the pooling, for which both have a complete rule, but not the same one.
    network = Small().eval()
    network.pool = nn.AvgPool2d(2)
    baseline = inputs(1)
    factors, change = multipliers(network, inputs(), baseline)
    expected = DeepLift(network).attribute(inputs(), baseline)
    torch.testing.assert_close(
        factors * (inputs() - baseline), expected.detach(), rtol=1e-3, atol=1e-5
    )
    torch.testing.assert_close(change, network(inputs()) - network(baseline))


def test_captum_is_wrong_on_prelu_and_ours_is_not() -> None:
    """Why this is our own code: captum has no rule for PReLU and does not say so."""
    network = Small(nn.PReLU).eval()
    baseline = inputs(1)
    _, theirs = DeepLift(network).attribute(inputs(), baseline, return_convergence_delta=True)
    factors, change = multipliers(network, inputs(), baseline)
    ours = (factors * (inputs() - baseline)).sum((1, 2, 3)) - change
    assert ours.abs().max() < 1e-4
    assert theirs.abs().max() > 0.02


def test_functional_calls_get_the_rule_too() -> None:
    """captum sees modules only; a ReLU written as torch.relu is invisible to it."""

    def network(x: Tensor) -> Tensor:
        return torch.relu(x.flatten(1).cumsum(1) - 1).sum(1)

    factors, change = multipliers(network, inputs(), inputs(1))
    torch.testing.assert_close(
        (factors * (inputs() - inputs(1))).sum((1, 2, 3)), change, rtol=1e-4, atol=1e-4
    )


def test_lrp_without_gamma_and_biases_is_gradient_times_input() -> None:
    network = Small(nn.PReLU, bias=False).eval()
    weight = torch.ones(4, 5)
    relevance, absorbed, claimed = propagate(network.features, weight, inputs(), 0.0)
    leaf = inputs().requires_grad_(True)
    (gradient,) = torch.autograd.grad(network(leaf).sum(), leaf)
    torch.testing.assert_close(relevance, gradient * inputs(), rtol=1e-3, atol=1e-5)
    assert absorbed.abs().max() < 1e-4
    torch.testing.assert_close(relevance.double().sum((1, 2, 3)), claimed, rtol=1e-3, atol=1e-5)


def test_lrp_conserves_without_biases_and_keeps_books_with_them() -> None:
    for bias, gamma in ((False, 0.25), (True, 0.25), (True, 0.0)):
        network = Small(nn.PReLU, bias=bias).eval()
        relevance, absorbed, claimed = propagate(
            network.features, torch.ones(4, 5), inputs(), gamma
        )
        total = relevance.double().sum((1, 2, 3))
        if not bias:
            assert absorbed.abs().max() < 1e-4
        else:
            assert (total - claimed).abs().max() > 1e-3
        torch.testing.assert_close(total + absorbed, claimed, rtol=1e-4, atol=1e-5)


def test_lrp_without_gamma_equals_captum_on_a_relu_network() -> None:
    network = Small(bias=False).eval()

    model = nn.Sequential(network.conv1, network.act1, network.pool, network.conv2, network.act2)
    weight = torch.zeros(4, 8, 2, 2)
    weight[:, 3, 1, 0] = 1
    relevance, _, _ = propagate(model, weight, inputs(), 0.0)
    expected = CaptumLRP(model).attribute(inputs(), target=(3, 1, 0))
    assert_alike(relevance, expected.detach())
    with pytest.raises(TypeError, match="PReLU"):
        CaptumLRP(nn.Sequential(nn.Conv2d(3, 4, 3), nn.PReLU())).attribute(
            inputs(), target=(0, 0, 0)
        )


def test_networks_without_rules_are_refused_by_name() -> None:
    torch.manual_seed(0)
    score = PairScore(ViT(24, 1, 3, 16).eval().requires_grad_(False))
    batch = Batch(pixels(1), score.reference(pixels(1, 1)), (0,))
    for explain, name in ((deeplift, "DeepLIFT"), (lrp, "LRP")):
        with pytest.raises(AttributionError, match=f"{name} has no rule for"):
            explain(score, batch, Settings())


def test_the_gamma_rule_of_one_layer_by_hand() -> None:
    """R_i = Σ_j x_i ω_ij / z′_j · R_j, contributions that agree in sign with z_j 1 + γ times."""
    torch.manual_seed(3)
    layer, gamma = nn.Linear(4, 3), 0.5
    x = torch.randn(1, 4)
    output_weight = torch.tensor([[1.0, -2.0, 0.5]])
    relevance, absorbed, _ = propagate(layer, output_weight, x, gamma)
    expected, sunk = torch.zeros(4), 0.0
    for j in range(3):
        parts = [float(x[0, i] * layer.weight[j, i]) for i in range(4)] + [float(layer.bias[j])]
        z = sum(parts)
        raised = [part * (1 + gamma) if part * z > 0 else part for part in parts]
        shares = [part / sum(raised) * z * float(output_weight[0, j]) for part in raised]
        expected += torch.tensor(shares[:4])
        sunk += shares[4]
    torch.testing.assert_close(relevance[0], expected, rtol=1e-4, atol=1e-6)
    assert absorbed.item() == pytest.approx(sunk, abs=1e-5)
