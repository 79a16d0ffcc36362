"""CAMs, rollout, controls and the table of methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.evaluate.attribution.networks import Smooth, assert_alike, pixels
from torch import Tensor, nn

from faceguide.core.errors import AttributionError, ModelError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import cell_attribution
from faceguide.evaluate.attribution.methods import (
    cam,
    controls,
    gradients,
    method_table,
    own_method,
    rollout,
)
from faceguide.evaluate.attribution.methods.cam import cam_layers
from faceguide.evaluate.attribution.methods.maps import Batch
from faceguide.evaluate.attribution.methods.target import PairScore
from faceguide.train.models.backbones.vit import ViT
from faceguide.train.models.cal_network import WSDANCAL


@pytest.fixture(scope="module")
def score() -> PairScore:
    return PairScore(Smooth())


@pytest.fixture(scope="module")
def batch(score: PairScore) -> Batch:
    return Batch(pixels(2, 5, 28), score.reference(pixels(2, 6, 28)), (3, 9))


@pytest.fixture(scope="module")
def vit() -> PairScore:
    torch.manual_seed(0)
    network = ViT(width=24, depth=3, heads=3, patch=16, embedding_size=16)
    for parameter in network.parameters():  # far from the gentle start, so that heads differ
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return PairScore(network.eval().requires_grad_(False))


def by_hand(score: PairScore, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
    """Activation of a layer, and the gradient of the scores in it."""
    held: list[Tensor] = []
    layer = score.backbone.get_submodule(name)
    handle = layer.register_forward_hook(lambda module, given, output: held.append(output))
    value = score(batch.leaf(), *batch.reference).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(value, held[-1])
    return held[-1].detach(), gradient


def test_grad_cam_by_hand(score: PairScore, batch: Batch) -> None:
    assert cam_layers(score, batch.probe)[-1] == "conv2"
    activation, gradient = by_hand(score, batch, "conv2")
    values = cam.grad_cam(score, batch, Settings()).values
    assert (values < 0).any()  # signed
    assert_alike(values, (gradient.mean((2, 3), keepdim=True) * activation).sum(1), 1e-5)


def test_layers_are_found_in_the_order_in_which_they_run(score: PairScore, batch: Batch) -> None:
    assert cam_layers(score, batch.probe) == ("conv1", "conv2")
    score.backbone.cam_layers = ("conv1",)
    try:
        assert cam_layers(score, batch.probe) == ("conv1",)
    finally:
        del score.backbone.cam_layers


def test_layer_cam_by_hand(score: PairScore, batch: Batch) -> None:
    maps = []
    for name in ("conv1", "conv2"):
        activation, gradient = by_hand(score, batch, name)
        one = (gradient.clamp_min(0) * activation).sum(1).clamp_min(0)
        maps.append(one / one.amax((1, 2), keepdim=True))
    large = nn.functional.interpolate(maps[1][:, None], size=(14, 14), mode="bilinear")[:, 0]
    values = cam.layer_cam(score, batch, Settings()).values
    assert values.shape == (2, 14, 14)
    assert_alike(values, (maps[0] + large) / 2)


def test_unknown_layers_and_networks_without_maps_are_refused(
    score: PairScore, batch: Batch
) -> None:
    score.backbone.cam_layers = ("conv9",)
    try:
        assert gradients.saliency(score, batch, Settings()).values.any()  # needs no layer
        with pytest.raises(AttributionError, match="no layer 'conv9'"):
            cam.grad_cam(score, batch, Settings())
    finally:
        del score.backbone.cam_layers
    score.backbone.cam_layers = ("unused",)
    score.backbone.unused = nn.Conv2d(3, 3, 1)
    try:
        with pytest.raises(AttributionError, match="layer 'unused' does not run"):
            cam.layer_cam(score, batch, Settings())
    finally:
        del score.backbone.cam_layers, score.backbone.unused
    with pytest.raises(AttributionError, match="no attention maps"):
        cam.attention_cam(score, batch, Settings())

    class Flat(nn.Module):
        input_spec = Smooth.input_spec

        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, ::49]

    with pytest.raises(AttributionError, match="no layer of at least 7×7"):
        cam_layers(PairScore(Flat()), batch.probe)


def test_attention_cam_reads_the_maps_of_cal() -> None:
    torch.manual_seed(0)
    network = WSDANCAL("mobilefacenet", 3, heads=4).eval().requires_grad_(False)
    score = PairScore(network)
    batch = Batch(pixels(1, 5), score.reference(pixels(1, 6)), (0,))
    values = cam.attention_cam(score, batch, Settings()).values
    maps, gradient = by_hand(score, batch, "attentions")
    assert values.shape == (1, *maps.shape[2:])
    assert_alike(values, (gradient.mean((2, 3), keepdim=True) * maps).sum(1))


def test_rollout_by_hand_and_blind_to_the_reference(vit: PairScore) -> None:
    probe = pixels(1, 5)
    _, matrices = vit.backbone.attention_matrices(probe)
    joint = torch.eye(49)
    for matrix in matrices:
        mixed = (matrix[0].mean(0) + torch.eye(49)) / 2
        joint = (mixed / mixed.sum(1, keepdim=True)) @ joint
    maps = [
        rollout.attention_rollout(
            vit, Batch(probe, vit.reference(pixels(1, seed)), (0,)), Settings()
        ).values
        for seed in (6, 7)
    ]
    assert_alike(maps[0][0], joint.mean(0).reshape(7, 7))
    assert_alike(maps[0], maps[1], 1e-6)
    assert maps[0].sum().item() == pytest.approx(1, abs=1e-4)


def test_gradient_rollout_depends_on_the_reference(vit: PairScore) -> None:
    probe = pixels(1, 5)
    first, second = (
        rollout.gradient_rollout(
            vit, Batch(probe, vit.reference(pixels(1, seed)), (0,)), Settings()
        ).values
        for seed in (6, 7)
    )
    assert first.shape == (1, 7, 7)
    assert (first >= -1e-9).all()
    assert (first / first.max() - second / second.max()).abs().max() > 1e-3


def test_rollout_needs_a_transformer(score: PairScore, batch: Batch) -> None:
    for explain in (rollout.attention_rollout, rollout.gradient_rollout):
        with pytest.raises(AttributionError, match="vision transformer"):
            explain(score, batch, Settings())


def test_controls_are_what_they_are_called(score: PairScore, batch: Batch) -> None:
    settings = Settings()
    noise = controls.random_smooth(score, batch, settings).values
    assert noise.shape == (2, 28, 28)
    assert (noise[0] != noise[1]).any()
    alone = Batch(batch.probe[1:], tuple(part[1:] for part in batch.reference), (9,))
    torch.testing.assert_close(controls.random_smooth(score, alone, settings).values[0], noise[1])
    middle = controls.centre(score, batch, settings).values[0]
    assert np.unravel_index(int(middle.argmax()), (28, 28)) in {
        (13, 13),
        (13, 14),
        (14, 13),
        (14, 14),
    }
    assert controls.constant(score, batch, settings).values.unique().tolist() == [1.0]
    step = torch.zeros(1, 3, 28, 28)
    step[..., 14:] = 1
    found = controls.edges(score, Batch(step, batch.reference, (0,)), settings).values[0]
    assert (found[:, 13:15] == 4).all()
    assert (found[:, :12] == 0).all()
    masked = np.random.default_rng(0).random((3, 49, 2))
    table = {"clean": np.zeros(3), "masked": masked, "angle": masked}
    best, worst, angle = (
        controls.read_off(name, table).values.flatten(1).numpy()
        for name in ("oracle", "oracle_reversed", "angle")
    )
    np.testing.assert_array_equal(best, masked.mean(2))
    np.testing.assert_array_equal(np.argsort(worst, 1), np.argsort(-best, 1))
    np.testing.assert_array_equal(angle, best)


def test_random_maps_prefer_no_place() -> None:
    """A control that favours the border would be falsified more often than half of the time."""
    score = PairScore(Smooth())
    many = Batch(
        pixels(1, 0, 28).expand(400, -1, -1, -1), (torch.zeros(400, 16),), tuple(range(400))
    )
    cells = cell_attribution(controls.random_smooth(score, many, Settings()).values).mean(0)
    assert cells.max() / cells.min() < 1.4


def test_every_method_has_a_cost_and_a_source() -> None:
    rows = method_table.table()
    assert {row["method"] for row in rows} == set(method_table.METHODS)
    for row in rows:
        assert row["citation"]
        assert row["forwards"] > 0 or row["control"]
    assert method_table.METHODS["smoothgrad"].cost(Settings(samples=10)) == 30


def test_controls_are_always_chosen_and_unknown_names_are_refused() -> None:
    names = [method.name for method in method_table.choose(["lrp", "saliency", "lrp"])]
    assert names == ["lrp", "saliency", *method_table.CONTROLS]
    assert set(method_table.CONTROLS) == {
        *("random", "centre", "edges", "pixels", "constant"),
        *("angle", "oracle", "oracle_reversed"),
    }
    with pytest.raises(AttributionError, match="no method 'gradcamera'; choose from saliency"):
        method_table.choose(["gradcamera"])


def doubled(score: PairScore, probe: Tensor, reference: tuple[Tensor, ...]) -> Tensor:
    """A method as users write them: (N, C, h, w)."""
    return probe * 2


def test_a_users_method_plugs_in(
    score: PairScore, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys
    import types

    module = types.ModuleType("my_methods")
    module.mine, module.number = doubled, 3
    module.wrong = lambda score, probe, reference: probe[0]
    monkeypatch.setitem(sys.modules, "my_methods", module)
    mine = method_table.choose(["my_methods:mine"])[0]
    values = mine.explain(score, batch, Settings()).values
    torch.testing.assert_close(values, 2 * batch.probe.sum(1))
    with pytest.raises(AttributionError, match="expected a tensor with 2 maps"):
        own_method.plugged("my_methods:wrong")(score, batch, Settings())
    with pytest.raises(AttributionError, match="expected a function, found int"):
        own_method.plugged("my_methods:number")
    with pytest.raises(ModelError, match="cannot be imported"):
        own_method.plugged("my_methods:absent")
