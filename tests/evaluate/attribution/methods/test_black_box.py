"""Methods that ask for scores only, on a score whose parts are known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.evaluate.attribution.networks import Smooth, pixels
from torch import Tensor, nn

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.cells import pool
from faceguide.evaluate.attribution.methods import black_box, cam, gradients
from faceguide.evaluate.attribution.methods.maps import Batch
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


@pytest.mark.parametrize("method", [black_box.corrrise, black_box.corrrise_both])
def test_masks_find_the_cells_that_matter(method: Any, batch: Batch) -> None:
    score, probe = PairScore(Summed()), torch.full((1, 3, 28, 28), 0.5)
    other = torch.ones(1, 3, 28, 28)
    other[:, :, 14:] = 0.0  # there the probe had better be dark
    half = Batch(probe, score.reference(other), (0,), other)
    found = pool(method(score, half, Settings(baseline="black")).values)[0]
    assert found.abs().max() <= 1
    assert found[:21].mean() > 0.1 + found[28:].mean()


def test_pairs_of_one_picture_get_what_they_get_by_themselves(batch: Batch) -> None:
    score = PairScore(Smooth())
    reference = score.reference(batch.other_pixels())
    joint = Batch(batch.probe, reference, (0, 1), batch.other, (0, 0), batch.faces)
    for method in (black_box.occlusion, black_box.corrrise, black_box.minplus):
        both = method(score, joint, Settings()).values
        for place in (0, 1):
            rows = tuple(part[place : place + 1] for part in reference)
            one = Batch(batch.probe[:1], rows, (place,), pictures=(0,))
            torch.testing.assert_close(method(score, one, Settings()).values[0], both[place])


def test_without_a_cache_there_are_no_other_faces(batch: Batch) -> None:
    lone = Batch(batch.probe, batch.reference, (0, 1))
    for method in (black_box.occlusion_by_faces, gradients.expected_gradients):
        with pytest.raises(AttributionError, match="which only a cache has"):
            method(PairScore(Summed()), lone, Settings())
    with pytest.raises(AttributionError, match="needs the pixels of both faces"):
        black_box.corrrise_both(PairScore(Summed()), lone, Settings())


def test_hirescam_and_grad_cam_plus_plus_by_hand() -> None:
    network: Any = Smooth()
    network.cam_layers = ("conv1", "conv2")
    score = PairScore(network)
    batch = Batch(pixels(2, 5, 28), score.reference(pixels(2, 6, 28)), (3, 9))
    for name, method in (("conv1", cam.hirescam), ("conv2", cam.grad_cam_plus_plus)):
        kept: list[Tensor] = []
        handle = network.get_submodule(name).register_forward_hook(
            lambda module, given, output, kept=kept: kept.append(output)
        )
        value = score(batch.leaf(), *batch.reference)
        handle.remove()
        (g,) = torch.autograd.grad(value.sum(), kept[0])
        a = kept[0].detach()
        if name == "conv1":
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
