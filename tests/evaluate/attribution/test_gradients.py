"""Gradient methods against captum and against what theory promises."""

from __future__ import annotations

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from tests.evaluate.attribution.networks import Smooth, assert_alike, pixels

from faceguide.evaluate.attribution import geodesic, gradients
from faceguide.evaluate.attribution.errors import AttributionError
from faceguide.evaluate.attribution.maps import Batch, Settings, baseline_for, pixel_range
from faceguide.evaluate.attribution.target import PairScore


@pytest.fixture(scope="module")
def score() -> PairScore:
    return PairScore(Smooth())


@pytest.fixture(scope="module")
def batch(score: PairScore) -> Batch:
    return Batch(pixels(2, 5, 28), score.reference(pixels(2, 6, 28)), (3, 9))


def test_saliency_and_gradient_input_equal_captum(score: PairScore, batch: Batch) -> None:
    arguments = {"additional_forward_args": batch.reference}
    for ours, theirs in (
        (gradients.saliency, Saliency(score).attribute(batch.probe, abs=False, **arguments)),
        (gradients.gradient_input, InputXGradient(score).attribute(batch.probe, **arguments)),
    ):
        values = ours(score, batch, Settings(chunk=1)).values
        assert_alike(values, theirs.detach().sum(1))


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


def test_integrated_gradients_equal_captum(score: PairScore, batch: Batch) -> None:
    settings = Settings(steps=6, chunk=5)
    baseline = baseline_for(score, batch.probe, "black")
    expected = IntegratedGradients(score).attribute(
        batch.probe, baseline, additional_forward_args=batch.reference, n_steps=6
    )
    values = gradients.integrated_gradients(score, batch, settings).values
    assert_alike(values, expected.detach().sum(1))


def test_ig_and_arc_add_up_to_the_change_of_the_score(score: PairScore, batch: Batch) -> None:
    for explain in (gradients.integrated_gradients, geodesic.geodesic_arc):
        found = explain(score, batch, Settings(steps=48))
        error = found.completeness_error()
        assert error is not None
        assert error.max() < 0.01, explain


def test_arc_tends_to_the_same_map_as_ig(score: PairScore, batch: Batch) -> None:
    settings = Settings(steps=96)
    arc = geodesic.geodesic_arc(score, batch, settings).values.flatten(1)
    ig = gradients.integrated_gradients(score, batch, settings).values.flatten(1)
    alike = torch.nn.functional.cosine_similarity(arc, ig)
    assert alike.min() > 0.98


def test_arc_nodes_run_from_end_to_end_and_cut_equal_arcs(score: PairScore, batch: Batch) -> None:
    baseline = baseline_for(score, batch.probe, "grey")
    nodes = geodesic.arc_nodes(score, baseline, batch.probe, Settings(steps=8))
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
    baseline = baseline_for(score, probe, "black")
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
    single = Batch(probe, reference, (0,))
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


def test_an_unknown_baseline_is_refused(score: PairScore, batch: Batch) -> None:
    with pytest.raises(AttributionError, match="black, blur, grey"):
        gradients.integrated_gradients(score, batch, Settings(baseline="white"))
    for kind in ("black", "blur", "grey"):
        assert baseline_for(score, batch.probe, kind).shape == batch.probe.shape
