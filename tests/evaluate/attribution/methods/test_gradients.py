"""Gradient methods against captum and against what theory promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from tests.evaluate.attribution.networks import Smooth, assert_alike, pixels, settled
from torch import Tensor, nn

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods import geodesic, gradients, integrated
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, baseline_for, pixel_range
from faceguide.evaluate.attribution.methods.target import PairScore


@pytest.fixture(scope="module")
def score() -> PairScore:
    return PairScore(Smooth())


@pytest.fixture(scope="module")
def batch(score: PairScore) -> Batch:
    return Batch(pixels(2, 5, 28), score.reference(pixels(2, 6, 28)), (3, 9))


def test_saliency_and_gradient_input_by_hand(score: PairScore, batch: Batch) -> None:
    leaf = batch.leaf()
    score(leaf, *batch.reference).sum().backward()
    assert leaf.grad is not None
    for explain, expected in (
        (gradients.saliency, leaf.grad),
        (gradients.gradient_input, leaf.grad * batch.probe),
    ):
        assert_alike(explain(score, batch, Settings()).values, expected.sum(1), 1e-6)
    assert batch.probe.grad is None
    assert not batch.probe.requires_grad


def test_smoothgrad_equals_captum_for_the_same_noise(score: PairScore, batch: Batch) -> None:
    settings = Settings(samples=3, noise=0.1)
    sigma = 0.1 * pixel_range(score.input_spec)
    torch.manual_seed(4)
    expected = NoiseTunnel(Saliency(score)).attribute(
        batch.probe,
        nt_type="smoothgrad",
        nt_samples=3,
        stdevs=sigma,
        abs=False,
        additional_forward_args=batch.reference,
    )
    torch.manual_seed(4)
    drawn = torch.normal(0.0, torch.full((6, 3, 28, 28), sigma)) / sigma
    noise = drawn.unflatten(0, (2, 3))
    values = gradients.smoothgrad(score, batch, settings, noise).values
    assert_alike(values, expected.detach().sum(1))


def test_smoothgrad_of_a_pair_does_not_depend_on_its_neighbours(
    score: PairScore, batch: Batch
) -> None:
    settings = Settings(samples=2)
    together = gradients.smoothgrad(score, batch, settings).values
    alone = Batch(batch.probe[1:], tuple(part[1:] for part in batch.reference), (9,))
    assert_alike(gradients.smoothgrad(score, alone, settings).values[0], together[1])


def fixed_nodes(score: PairScore, batch: Batch, steps: int) -> Tensor:
    """captum's Integrated Gradients, by Gauss–Legendre nodes."""
    found = IntegratedGradients(score).attribute(
        batch.probe,
        baseline_for(score, batch, "black"),
        additional_forward_args=batch.reference,
        n_steps=steps,
    )
    return found.detach().sum(1)


def test_adaptive_ig_tends_to_the_limit_of_captums(score: PairScore, batch: Batch) -> None:
    limit = fixed_nodes(score, batch, 128)
    distances = []
    for steps in (12, 40):
        values = integrated.integrated_gradients(score, batch, Settings(steps=steps)).values
        distances.append(((values - limit).flatten(1).norm(dim=1)).max())
    assert distances[1] < 0.3 * distances[0]
    assert distances[1] < 0.02 * limit.flatten(1).norm(dim=1).min()


class Kinked(nn.Module):
    """A score with kinks along the path from black, many of them near the black end."""

    input_spec = Smooth.input_spec

    def forward(self, images: Tensor) -> Tensor:
        rise = (images + 1).flatten(1)  # 0 at black
        kinks = torch.relu(rise[:, :400] - 0.02) - torch.relu(rise[:, :400] - 0.06)
        return torch.stack([5 * kinks.mean(1), 0.2 + rise.square().mean(1)], 1)


def test_few_adaptive_nodes_see_kinks_that_fixed_nodes_miss() -> None:
    score = PairScore(Kinked())
    probe = pixels(3, 5, 28).abs().clamp(0.1, 1)
    batch = Batch(probe, score.reference(pixels(3, 6, 28)), (0, 1, 2))
    adaptive = integrated.integrated_gradients(score, batch, Settings(steps=20))
    limit = fixed_nodes(score, batch, 300)

    def distance(found: Tensor) -> Tensor:
        return (found - limit).flatten(1).norm(dim=1) / limit.flatten(1).norm(dim=1)

    assert (distance(adaptive.values) < 0.5 * distance(fixed_nodes(score, batch, 20))).all()
    missed, closed = adaptive.quadrature_error(), adaptive.completeness_error()
    assert missed is not None
    assert closed is not None
    assert (missed > 1e-4).all()  # what the rule missed is told, although it is closed
    assert closed.max() < 1e-5


def test_closing_changes_weights_as_little_as_it_can_and_no_more_than_half() -> None:
    weights = torch.tensor([[0.1, 0.2, 0.4, 0.2, 0.1]], dtype=torch.double).repeat(3, 1)
    slope = torch.tensor([[1.0, 2.0, 3.0, 2.5, 0.5]], dtype=torch.double).repeat(3, 1)
    right = (weights * slope).sum(1)
    found, gap = integrated.closed(weights, slope, right + torch.tensor([0.0, 0.05, 9.0]))
    torch.testing.assert_close(gap, torch.tensor([0.0, 0.05, 9.0], dtype=torch.double))
    torch.testing.assert_close(found[0], weights[0])
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.double))
    assert (found[1] * slope[1]).sum().item() == pytest.approx(right[1].item() + 0.05)
    # The least-squares solution, from the normal equations.
    half = weights[0].sqrt()
    conditions = torch.stack([half, half * slope[0]])
    solved = torch.linalg.pinv(conditions) @ torch.tensor([0.0, 0.05], dtype=torch.double)
    torch.testing.assert_close(found[1], weights[0] + half * solved)
    # A gap that is too large stays open.
    assert ((found[2] / weights[2] - 1).abs()).max().item() == pytest.approx(0.5)
    assert (found[2] * slope[2]).sum() < right[2] + 1


def test_adaptive_nodes_of_a_pair_do_not_depend_on_its_neighbours(
    score: PairScore, batch: Batch
) -> None:
    together = integrated.integrated_gradients(score, batch, Settings(steps=14)).values
    alone = Batch(batch.probe[1:], tuple(part[1:] for part in batch.reference), (9,))
    values = integrated.integrated_gradients(score, alone, Settings(steps=14)).values
    assert_alike(values[0], together[1])


def paid(score: PairScore, batch: Batch, settings: Settings) -> tuple[int, Maps]:
    """Images that go forward for the maps of a batch."""
    seen = [0]

    def count(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[0] += len(inputs[0])

    handle = score.backbone.register_forward_pre_hook(count)
    found = integrated.integrated_gradients(score, batch, settings)
    handle.remove()
    return seen[0], found


def test_as_many_gradients_as_steps_are_paid(score: PairScore, batch: Batch) -> None:
    for steps in (9, 10, 20):
        assert paid(score, batch, Settings(steps=steps))[0] == 2 * steps


class Jump(nn.Module):
    """A score that rises steeply at one place along the path from black, later for dim pictures."""

    input_spec = Smooth.input_spec

    def forward(self, images: Tensor) -> Tensor:
        light = (images + 1).flatten(1).mean(1)
        return torch.stack([torch.sigmoid(400 * (light - 0.3)), torch.ones_like(light)], 1)


def test_pairs_that_do_not_add_up_get_more_gradients_and_the_others_do_not() -> None:
    score = PairScore(Jump())
    hard, easy = torch.full((1, 3, 28, 28), 0.4), torch.full((1, 3, 28, 28), -0.99)
    reference = score.reference(torch.full((2, 3, 28, 28), 0.9))
    settings = Settings(steps=9)
    batch = Batch(torch.cat([hard, easy]), reference, (0, 1))
    count, found = paid(score, batch, settings)
    assert count in {9 + 2 * 9, 9 + integrated.MOST_STEPS * 9}
    error, missed = found.completeness_error(), found.quadrature_error()
    assert error is not None
    assert missed is not None
    assert error.max() <= integrated.TOLERANCE
    alone = Batch(hard, tuple(part[:1] for part in reference), (0,))
    assert_alike(paid(score, alone, settings)[1].values[0], found.values[0], 1e-6)


def test_what_most_gradients_leave_open_is_told() -> None:
    score = PairScore(Jump())
    batch = Batch(torch.full((1, 3, 28, 28), 0.4), score.reference(pixels(1, 6, 28)), (0,))
    count, found = paid(score, batch, Settings(steps=2))
    assert count == 2 * integrated.MOST_STEPS
    error = found.completeness_error()
    assert error is not None
    assert error.max() > integrated.TOLERANCE


def test_ig_adds_up_at_default_steps_on_an_ir_network() -> None:
    score = PairScore(settled("ir_18"))
    one = Batch(pixels(1, 5), score.reference(pixels(1, 6)), (0,))
    found = integrated.integrated_gradients(score, one, Settings())
    error = found.completeness_error()
    assert error is not None
    assert error.max() < 0.01


def test_ig_and_arc_add_up_to_the_change_of_the_score(score: PairScore, batch: Batch) -> None:
    for explain in (integrated.integrated_gradients, geodesic.geodesic_arc):
        found = explain(score, batch, Settings(steps=48))
        error = found.completeness_error()
        assert error is not None
        assert error.max() < 0.01, explain


def test_arc_tends_to_the_same_map_as_ig(score: PairScore, batch: Batch) -> None:
    settings = Settings(steps=96)
    arc = geodesic.geodesic_arc(score, batch, settings).values.flatten(1)
    ig = integrated.integrated_gradients(score, batch, settings).values.flatten(1)
    alike = torch.nn.functional.cosine_similarity(arc, ig)
    assert alike.min() > 0.98


def test_arc_nodes_run_from_end_to_end_and_cut_equal_arcs(score: PairScore, batch: Batch) -> None:
    baseline = baseline_for(score, batch, "grey")
    nodes, start, end = geodesic.arc_nodes(score, baseline, batch.probe, Settings(steps=8))
    torch.testing.assert_close(start, score.describe(baseline)[0])
    torch.testing.assert_close(end, score.describe(batch.probe)[0])
    torch.testing.assert_close(nodes[:, 0], torch.zeros(2))
    torch.testing.assert_close(nodes[:, -1], torch.ones(2))
    assert (nodes.diff(dim=1) > 0).all()
    images = torch.lerp(baseline[:, None], batch.probe[:, None], nodes[:, :, None, None, None])
    points = torch.stack([score.describe(row)[0] for row in images])
    arcs = geodesic.angles(points[:, 1:], points[:, :-1])
    even = torch.linspace(0, 1, 9).expand(2, -1)
    images = torch.lerp(baseline[:, None], batch.probe[:, None], even[:, :, None, None, None])
    points = torch.stack([score.describe(row)[0] for row in images])
    straight = geodesic.angles(points[:, 1:], points[:, :-1])
    # Equal steps of pixels travel unequal arcs; the nodes even them out.
    assert ((arcs.std(1) / arcs.mean(1)) < 0.6 * (straight.std(1) / straight.mean(1))).all()


def test_weighted_is_the_loop_of_the_earlier_experiment(score: PairScore, batch: Batch) -> None:
    probe, reference = batch.probe[:1], (batch.reference[0][:1],)
    single = Batch(probe, reference, (0,))
    baseline = baseline_for(score, single, "black")
    start, end = score.describe(baseline)[0], score.describe(probe)[0]
    omega = torch.arccos((start * end).sum())
    total = torch.zeros_like(probe)
    for step in range(1, 51):
        alpha = step / 50
        point = (baseline + alpha * (probe - baseline)).requires_grad_(True)
        score(point, *reference).sum().backward()
        ideal = (
            torch.sin((1 - alpha) * omega) * start + torch.sin(alpha * omega) * end
        ) / torch.sin(omega)
        closeness = (score.describe(point.detach())[0] * ideal).sum()
        total += torch.sigmoid(10 * (closeness - 0.8)) * point.grad / 50
    expected = ((probe - baseline) * total).abs().sum(1)
    values = geodesic.geodesic_weighted(score, single, Settings()).values
    assert_alike(values, expected)


def test_slerp_ends_where_it_should_and_stays_on_the_sphere() -> None:
    start, end = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=2)
    places = torch.linspace(0, 1, 5).expand(5, -1)
    found = geodesic.slerp(start, end, places)
    torch.testing.assert_close(found[:, 0], start)
    torch.testing.assert_close(found[:, -1], end)
    torch.testing.assert_close(found.norm(dim=2), torch.ones(5, 5))
    same = geodesic.slerp(start, start, places)
    torch.testing.assert_close(same, start[:, None].expand(-1, 5, -1))


def test_paths_from_the_mean_face(score: PairScore, batch: Batch) -> None:
    faces = pixels(6, 7, 28)
    beside = replace(
        batch, faces=lambda count: faces[None].expand(len(batch.probe), -1, -1, -1, -1)
    )
    mean = baseline_for(score, beside, "face")
    torch.testing.assert_close(mean, faces.mean(0).expand(2, -1, -1, -1))
    found = integrated.integrated_gradients(score, beside, Settings(baseline="face"))
    change = score(batch.probe, *batch.reference) - score(mean, *batch.reference)
    torch.testing.assert_close(found.values.sum((1, 2)), change, rtol=1e-2, atol=1e-3)
    with pytest.raises(AttributionError, match="faces of other identities"):
        integrated.integrated_gradients(score, batch, Settings(baseline="face"))
    for kind in ("black", "blur", "grey"):
        assert baseline_for(score, batch, kind).shape == batch.probe.shape
