"""DeepLIFT and LRP: completeness and conservation where theory gives equality."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from captum.attr import LRP as CaptumLRP
from captum.attr import DeepLift
from tests.evaluate.attribution.networks import assert_alike, pixels, settle, settled
from torch import Tensor, nn
from torch.nn import functional

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.maps import Batch
from faceguide.evaluate.attribution.methods.propagation.deeplift import deeplift, multipliers
from faceguide.evaluate.attribution.methods.propagation.lrp import lrp, propagate
from faceguide.evaluate.attribution.methods.target import PairScore, raw_embedding
from faceguide.train.models import create
from faceguide.train.models.backbones.inception_resnet import InceptionResnetV1
from faceguide.train.models.backbones.vit import ViT
from faceguide.train.models.input_spec import InputSpec


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


class Attending(nn.Module):
    """A network as others write them, with one function in its middle."""

    input_spec = InputSpec(8, "RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.middle = nn.Linear(24, 12), middle
        self.eval().requires_grad_(False)

    def raw_embedding(self, images: Tensor) -> Tensor:
        # (N, 3, 8, 8) -> (N, 8, 12), a token per row
        tokens = self.first(images.transpose(1, 2).flatten(2))
        return self.middle(tokens).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.raw_embedding(images)


def test_networks_without_rules_are_refused_by_name() -> None:
    joint = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    middles = {
        "multi_head_attention_forward": lambda x: joint(x, x, x)[0],
        "div": lambda x: x / (x.sum(2, keepdim=True) + 9),
        "attention with is_causal": lambda x: functional.scaled_dot_product_attention(
            x, x, x, is_causal=True
        ),
    }
    for name, middle in middles.items():
        score = PairScore(Attending(middle))
        batch = Batch(inputs(), score.reference(inputs(1)), (0, 1, 2, 3))
        for explain in (deeplift, lrp):
            with pytest.raises(AttributionError, match=f"no rule for {name}"):
                explain(score, batch, Settings())


def transformers() -> dict[str, nn.Module]:
    """Small transformers whose attention is far from even."""
    torch.manual_seed(0)
    found: dict[str, nn.Module] = {
        "vit": ViT(24, 2, 3, 16),
        "keypoints": ViT(24, 2, 3, 16, keypoints=True),
        "edgeface": create("edgeface_xxs"),
    }
    for network in found.values():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
            elif parameter.numel() > 1:
                nn.init.normal_(parameter, 0.5, 0.3)
        network.eval().requires_grad_(False)
    return found


@pytest.mark.parametrize("name", ["vit", "keypoints", "edgeface"])
def test_transformers_conserve(name: str) -> None:
    """Both add up to 10⁻⁴ of the score, and turn their sign with the reference."""
    score = PairScore(transformers()[name])
    beside = (torch.rand(1, 5, 2),) if score.needs_keypoints else ()
    described = score.reference(pixels(1, 6), *beside)
    batch = Batch(pixels(1, 5), (*described, *beside), (0,))
    against = Batch(pixels(1, 5), (-described[0], *beside), (0,))
    for explain in (deeplift, lrp):
        found = explain(score, batch, Settings())
        error = found.completeness_error()
        assert error is not None
        assert error.max() < 1e-4, (explain.__name__, error)
        assert found.values.abs().max() > 0
        assert_alike(explain(score, against, Settings()).values, -found.values, 1e-3)
    assert found.absorbed is not None
    assert found.absorbed.abs().max() > 0


def test_attention_counts_as_the_parts_that_it_is_written_out_in() -> None:
    """Fused attention with a mask and a constant, in parts by hand, and as einsum."""
    heads = torch.Generator().manual_seed(5)
    bias = torch.randn(8, 8, generator=heads)
    seen = torch.ones(8, 8, dtype=torch.bool).tril()

    def fused(x: Tensor) -> Tensor:
        q, k, v = x.chunk(3, dim=2)
        mask = torch.where(seen, bias, -torch.inf)
        return functional.scaled_dot_product_attention(q, k, v, mask)

    def parts(x: Tensor) -> Tensor:
        q, k, v = x.chunk(3, dim=2)
        logits = (q @ k.transpose(1, 2)) / 2 + bias
        return torch.softmax(logits.masked_fill(~seen, -torch.inf), dim=2) @ v

    def summed(x: Tensor) -> Tensor:
        q, k, v = x.chunk(3, dim=2)
        logits = torch.einsum("nqd,nkd->nqk", q, k) / 2 + bias
        weights = logits.masked_fill(~seen, -torch.inf).softmax(2)
        return torch.einsum("nqk,nkd->nqd", weights, v)

    for explain in (deeplift, lrp):
        maps = []
        for middle in (fused, parts, summed):
            score = PairScore(Attending(middle))
            batch = Batch(inputs(), score.reference(inputs(1)), (0, 1, 2, 3))
            found = explain(score, batch, Settings())
            assert found.completeness_error().max() < 1e-4  # type: ignore[union-attr]
            maps.append(found.values)
        for one in maps[1:]:
            assert_alike(one, maps[0])


def relevance_of(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Relevance of x and what was absorbed, for the outputs weighed 1, −2, 1, −2, …"""
    output = function(x)
    weight = torch.ones_like(output)
    weight.flatten(1)[:, 1::2] = -2
    relevance, absorbed, claimed = propagate(function, weight, x, 0.0)
    total = relevance.double().flatten(1).sum(1) + absorbed
    torch.testing.assert_close(total, claimed, rtol=1e-5, atol=1e-6)
    return relevance, absorbed


def test_the_rules_of_attnlrp_by_hand() -> None:
    x = torch.randn(2, 6, generator=torch.Generator().manual_seed(7))
    weight = torch.tensor([1.0, -2.0]).repeat(3)
    # Proposition 3.1: R_i = x_i (R_i − s_i Σ R).
    s = x.softmax(1)
    relevance = s * weight
    expected = x * (relevance - s * relevance.sum(1, keepdim=True))
    torch.testing.assert_close(relevance_of(lambda t: t.softmax(1), x)[0], expected)
    # Proposition 3.2: each factor gets half, so a square keeps its relevance.
    found, absorbed = relevance_of(lambda t: t * t, x)
    torch.testing.assert_close(found, x * x * weight)
    assert absorbed.abs().max() < 1e-6
    # Proposition 3.4 and equation 9: norms and GELU absorb nothing but what they add.
    unit, absorbed = relevance_of(lambda t: functional.normalize(t, dim=1), x)
    torch.testing.assert_close(unit, functional.normalize(x, dim=1) * weight)
    assert absorbed.abs().max() < 1e-6
    found, absorbed = relevance_of(functional.gelu, x)
    torch.testing.assert_close(found, functional.gelu(x) * weight)
    shift = torch.linspace(-1, 1, 6)
    _, absorbed = relevance_of(lambda t: functional.layer_norm(t, (6,), None, shift), x)
    torch.testing.assert_close(absorbed, (shift * weight).sum().double().expand(2))
    # A constant absorbs what it adds, whichever way it is written.
    for function, sign in (
        (lambda t: t + shift, 1),
        (lambda t: shift - t, 1),
        (lambda t: torch.sub(t, shift, alpha=2), -2),
        (lambda t: t.clone().add_(shift), 1),
    ):
        _, absorbed = relevance_of(function, x)
        torch.testing.assert_close(absorbed, (sign * shift * weight).sum().double().expand(2))


def test_deeplift_of_softmax_is_even_and_adds_up() -> None:
    """Logits that change by the same amount change nothing, even far from each other."""
    x, baseline = torch.tensor([[3.0, 1.0, -2.0]]), torch.tensor([[-40.0, 60.0, 0.0]])
    for other in (baseline, x - 5):
        factors, change = multipliers(lambda t: t.softmax(1)[:, 0], x, other)
        torch.testing.assert_close((factors * (x - other)).sum(1), change, rtol=1e-4, atol=1e-6)
    assert change.abs().max() < 1e-6


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
