"""Methods that ask for scores only, on a score whose parts are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from captum.attr import ShapleyValues
from tests.evaluate.attribution.networks import Smooth, assert_alike, pixels
from torch import Tensor, nn

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import pool
from faceguide.evaluate.attribution.methods import black_box, cam, decision_maps, gradients
from faceguide.evaluate.attribution.methods.maps import Batch, baseline_for
from faceguide.evaluate.attribution.methods.method_table import METHODS, named
from faceguide.evaluate.attribution.methods.target import PairScore
from faceguide.train.models.input_spec import InputSpec


class Summed(nn.Module):
    """A face is its 49 brightnesses on a long constant: a score falls with Σ (a − b)² of cells."""

    input_spec = InputSpec(28, "RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def forward(self, images: Tensor) -> Tensor:
        cells = pool(images.mean(1))
        return torch.cat([cells, torch.full_like(cells[:, :1], 100.0)], 1)


@pytest.fixture
def batch() -> Batch:
    """Two pairs of one picture with two references."""
    score = PairScore(Summed())
    probe = pixels(1, 5, 28).abs().repeat(2, 1, 1, 1)
    other = pixels(2, 6, 28).abs()
    faces = pixels(6, 7, 28).abs()
    return Batch(
        *(probe, score.reference(other), (0, 1), other, (0, 0)),
        lambda count: faces[:count].expand(2, -1, -1, -1, -1),
    )


def expected(batch: Batch, empty: Tensor | float) -> Tensor:
    """(N, 49): ½ (e − b)² − ½ (a − b)², what a cell adds over the one that replaces it."""
    assert batch.other is not None
    own, theirs = pool(batch.probe.mean(1)), pool(batch.other.mean(1))
    return (own - empty) * (theirs - (own + empty) / 2)


def test_blurred_cells_lose_what_is_not_blurred(batch: Batch) -> None:
    score, even = PairScore(Summed()), replace(batch, probe=torch.full_like(batch.probe, 0.3))
    assert black_box.occlusion_by_blur(score, even, Settings()).values.abs().max() < 1e-6
    found = black_box.occlusion_by_blur(score, batch, Settings())
    wanted = black_box.occlusion(score, batch, Settings(baseline="blur"))
    torch.testing.assert_close(found.values, wanted.values)


@pytest.mark.parametrize("method", [black_box.occlusion, black_box.minplus])
def test_cells_lose_their_part_of_the_score(method: Any, batch: Batch) -> None:
    found = method(PairScore(Summed()), batch, Settings()).values.flatten(1)
    for row, part in zip(found, expected(batch, 0.0), strict=True):
        assert torch.corrcoef(torch.stack([row, part]))[0, 1] > 0.999


def test_a_cell_of_another_face_takes_what_the_faces_differ_in(batch: Batch) -> None:
    found = black_box.occlusion_by_faces(PairScore(Summed()), batch, Settings()).values.flatten(1)
    empty = pool(batch.other_faces(1)[:, 0].mean(1))
    for row, part in zip(found, expected(batch, empty), strict=True):
        assert torch.corrcoef(torch.stack([row, part]))[0, 1] > 0.999


def test_expected_gradients_are_the_mean_over_faces(batch: Batch) -> None:
    found = gradients.expected_gradients(PairScore(Summed()), batch, Settings(steps=6)).values
    each = pool(batch.other_faces(6).flatten(0, 1).mean(1)).unflatten(0, (2, 6))
    parts = torch.stack([expected(batch, empty) for empty in each.unbind(1)]).mean(0)
    for row, part in zip(pool(found), parts, strict=True):
        # One place of each line, spread over all lines.
        assert torch.corrcoef(torch.stack([row, part]))[0, 1] > 0.9


@pytest.mark.parametrize("method", [black_box.corrrise, black_box.corrrise_both, black_box.fv_rise])
def test_masks_find_the_cells_that_matter(method: Any, batch: Batch) -> None:
    score, probe = PairScore(Summed()), torch.full((1, 3, 28, 28), 0.5)
    other = torch.ones(1, 3, 28, 28)
    other[:, :, 14:] = 0.0  # there the probe had better be dark
    half = Batch(probe, score.reference(other), (0,), other)
    found = pool(method(score, half, Settings()).values)[0]
    assert found.abs().max() <= 1
    assert found[:21].mean() - found[28:].mean() > 0.1 * found.abs().max()


def test_pairs_of_one_picture_get_what_they_get_by_themselves(batch: Batch) -> None:
    score = PairScore(Smooth())
    reference = score.reference(batch.other_pixels())
    joint = Batch(batch.probe, reference, (0, 1), batch.other, (0, 0), batch.faces)
    joint = replace(joint, regions=lambda: regions(2))
    for method in (
        *(black_box.occlusion, black_box.corrrise, black_box.minplus, black_box.fv_rise),
        *(black_box.region_shap, decision_maps.fggb),
    ):
        both = method(score, joint, Settings()).values
        for place in (0, 1):
            rows = tuple(part[place : place + 1] for part in reference)
            one = Batch(batch.probe[:1], rows, (place,), None, (0,), None, lambda: regions(1))
            torch.testing.assert_close(method(score, one, Settings()).values[0], both[place])


def test_without_a_cache_there_are_no_other_faces(batch: Batch) -> None:
    lone = Batch(batch.probe, batch.reference, (0, 1))
    for method in (black_box.occlusion_by_faces, gradients.expected_gradients):
        with pytest.raises(AttributionError, match="needs faces of other identities"):
            method(PairScore(Summed()), lone, Settings())
    with pytest.raises(AttributionError, match="needs the pixels of both faces"):
        black_box.corrrise_both(PairScore(Summed()), lone, Settings())
    with pytest.raises(AttributionError, match="which a cache has after prep guidance"):
        black_box.region_shap(PairScore(Summed()), lone, Settings())


def regions(count: int) -> Tensor:
    """(N, 3, 28, 28): two bands and an empty region."""
    found = torch.zeros(count, 3, 28, 28)
    found[:, 0, 4:10], found[:, 1, 16:24] = 1, 1
    return found


def test_region_shap_equals_captums_shapley_values(batch: Batch) -> None:
    score = PairScore(Smooth())
    reference = score.reference(batch.other_pixels())
    parted = replace(batch, reference=reference, regions=lambda: regions(2))
    found = black_box.region_shap(score, parted, Settings())
    blank = baseline_for(score, parted, "black")
    numbers = regions(1).mul(torch.arange(1, 4)[:, None, None]).sum(1, keepdim=True).long()
    expected = ShapleyValues(score).attribute(
        batch.probe, blank, None, reference, numbers.clamp_max(2)
    )[:, 0]
    area = torch.stack([(numbers == number).sum() for number in range(3)])
    assert_alike(found.values, expected / area[numbers[0, 0].clamp_max(2)])
    assert found.completeness_error().max() < 1e-4  # type: ignore[union-attr]


def test_shapley_values_by_hand() -> None:
    """Players worth 1 and 2, and 4 more together; a third who does nothing."""
    worth = torch.tensor([[0, 0, 2, 2, 1, 1, 7, 7.0]])
    torch.testing.assert_close(black_box.shapley(worth), torch.tensor([[3.0, 4.0, 0.0]]))


def test_decision_maps_by_hand(batch: Batch) -> None:
    score, settings = PairScore(Smooth()), Settings(decision=0.1, chunk=5)
    probe, other = pixels(2, 5, 28), pixels(2, 6, 28)
    pairs = Batch(probe, score.reference(other), (0, 1))
    found = decision_maps.fggb(score, pairs, settings).values
    sides = decision_maps.xssab(score, pairs, settings).values
    for place in (0, 1):
        one = probe[place : place + 1]
        jacobian = torch.autograd.functional.jacobian(lambda x: score.describe(x)[0][0], one)[:, 0]
        terms = score.describe(one)[0][0] * pairs.reference[0][place]
        weights, size = terms - 0.1 / 16, jacobian.abs().mean(1)
        size = size / size.flatten(1).norm(dim=1)[:, None, None]
        torch.testing.assert_close(found[place], (weights[:, None, None] * size).sum(0))
        halves = [
            (jacobian * (pairs.reference[0][place] * side)[:, None, None, None]).sum(0)
            for side in (weights >= 0, weights < 0)
        ]
        wanted = halves[0].abs().mean(0) - halves[1].abs().mean(0)
        torch.testing.assert_close(sides[place], wanted, rtol=1e-3, atol=1e-7)
    for kind in (decision_maps.fggb, decision_maps.xssab):
        low, high = (kind(score, pairs, Settings(decision=at)).values for at in (-9.0, 9.0))
        assert low.min() >= 0 >= high.max()  # all terms are for the match, or against it


def test_all_signed_methods_of_scores_run_without_gradients(batch: Batch) -> None:
    """As on an ONNX graph: nothing asks for a gradient."""

    class Closed(Smooth):
        def forward(self, images: Tensor) -> Tensor:
            assert not images.requires_grad
            return super().forward(images)

    score = PairScore(Closed())
    reference = score.reference(batch.other_pixels())
    pairs = replace(batch, reference=reference, regions=lambda: regions(2))
    tried = [method for method in METHODS.values() if method.black_box]
    assert {"fv-rise", "region-shap", "occlusion", "occlusion-faces"} <= {m.name for m in tried}
    for method in tried:
        assert method.signed
        assert method.explain is not None
        assert method.explain(score, pairs, Settings()).values.abs().max() > 0


def test_hirescam_and_grad_cam_plus_plus_by_hand() -> None:
    network: Any = Smooth()
    score = PairScore(network)
    batch = Batch(pixels(2, 5, 28), score.reference(pixels(2, 6, 28)), (3, 9))
    network.cam_layers = ("conv2",)
    for method, which in ((cam.hirescam_coarse, "coarser"), (cam.hirescam_fine, "finer")):
        with pytest.raises(AttributionError, match=f"no layer {which} than 'conv2'"):
            method(score, batch, Settings())
    for names, name, method in (
        (("conv1", "conv2"), "conv1", cam.hirescam),
        (("conv1", "conv2"), "conv2", cam.grad_cam_plus_plus),
        (("conv1", "conv2", "conv2"), "conv2", cam.hirescam),
        (("conv1", "conv2", "conv2"), "conv1", cam.hirescam_fine),
        (("conv1", "conv2"), "conv2", cam.hirescam_coarse),
    ):
        network.cam_layers = names
        kept: list[Tensor] = []
        handle = network.get_submodule(name).register_forward_hook(
            lambda module, given, output, kept=kept: kept.append(output)
        )
        value = score(batch.leaf(), *batch.reference)
        handle.remove()
        (g,) = torch.autograd.grad(value.sum(), kept[0])
        a = kept[0].detach()
        if method is not cam.grad_cam_plus_plus:
            wanted = (g * a).sum(1)
        else:
            alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3)
            wanted = ((alpha * g.clamp_min(0)).sum((2, 3), keepdim=True) * a).sum(1)
        torch.testing.assert_close(method(score, batch, Settings()).values, wanted)


def test_eigen_cam_claims_no_direction_and_knows_no_reference() -> None:
    score = PairScore(Smooth())
    probe = pixels(2, 5, 28)
    maps = [
        cam.eigen_cam(score, Batch(probe, score.reference(pixels(2, seed, 28)), (0, 1)), Settings())
        for seed in (6, 7)
    ]
    assert torch.equal(maps[0].values, maps[1].values)
    assert maps[0].values.min() >= 0
    assert not METHODS["eigen-cam"].signed


def test_plus_signs_are_part_of_a_name() -> None:
    assert named("Grad-CAM++").name == "grad-cam-pp"
    assert named("gradcam").name == "grad-cam"
