"""The step of CAL: terms by hand, targets that follow crops and drops, the prior, views."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.train.cal.scenario import EVERYTHING, guided, tiny_run, train_tiny
from torch import Tensor, nn

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import TrainError
from faceguide.train.cal import attention_guidance, attention_watch, cal_terms
from faceguide.train.cal.attention_guidance import Targets
from faceguide.train.cal.cal_settings import CalSettings, GuidanceSettings
from faceguide.train.cal.cal_step import CalStep, columns_of
from faceguide.train.cal.cal_trainee import Trainee, map_side
from faceguide.train.cal.cal_views import predict
from faceguide.train.data.augment import Augmentation
from faceguide.train.models import create
from faceguide.train.models.attention_crop import attention_crop, crop, crop_boxes
from faceguide.train.models.cal_network import CalOutput
from faceguide.train.training import Place

START = Place(0, 10, 0, 0.0)


def parts(
    cache: FaceCache, guide: GuidanceSettings, **recipe: bool
) -> tuple[CalStep, Trainee, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = create("cal_mobilefacenet", num_classes=7, heads=8)
    settings = CalSettings(guidance=guide, **recipe)
    trainee = Trainee(model, torch.arange(7), prior=bool(guide.weight("prior")), **{
        name: value for name, value in recipe.items() if name == "freeze_norm"
    })  # fmt: skip
    rows = cache.select()[:6]
    values = cache.read(rows, columns_of(settings, cache.columns))
    batch = {name: torch.from_numpy(value) for name, value in values.items()}
    calibrate(model, batch["image"][:, :32, :32])
    trainee.train()
    step = CalStep(settings, Augmentation(32), trainee, map_side(model, 32))
    return step, trainee, {"row": torch.from_numpy(rows), **batch}


@torch.no_grad()
def calibrate(model: nn.Module, images: Tensor) -> None:
    """Fill the statistics of BatchNorm: in eval mode a fresh network's features would vanish."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(model.input_spec.prepare(images))
    for norm in norms:
        norm.momentum = 0.1


def output(seed: int, count: int) -> CalOutput:
    generator = torch.Generator().manual_seed(seed)
    logits, effect = (torch.randn(count, 3, generator=generator) for _ in range(2))
    return CalOutput(logits, effect, logits, logits)


def test_the_four_terms_have_their_published_weights() -> None:
    raw, views, labels = output(0, 2), output(1, 4), torch.tensor([2, 0])
    losses = cal_terms.recognition_losses(raw, views, labels)

    def negative_log(logits: Tensor, truth: list[int]) -> float:
        chances = torch.softmax(logits, 1)
        return float(np.mean([-np.log(chances[i, y].item()) for i, y in enumerate(truth)]))

    expected = (
        negative_log(raw.logits, [2, 0]) / 3
        + negative_log(torch.cat([raw.effect, views.effect]), [2, 0] * 3)
        + negative_log(views.logits, [2, 0] * 2) * 2 / 3
    )
    assert cal_terms.recognition_total(losses).item() == pytest.approx(expected, rel=1e-5)


def test_slopes_of_the_terms_agree_with_finite_differences(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.tensor([2, 0])
    centres = torch.randn(3, 5, generator=generator, dtype=torch.float64)

    def total(raw: Tensor, effect: Tensor, views: Tensor, features: Tensor) -> Tensor:
        whole = CalOutput(raw, effect[:2], features, raw)
        others = CalOutput(views, effect[2:], views, views)
        losses = cal_terms.recognition_losses(whole, others, labels)
        centre = cal_terms.centre_loss(features, centres, labels)
        return cal_terms.recognition_total(losses) + centre

    inputs = [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((2, 3), (6, 3), (4, 3), (2, 5))
    ]
    # The terms compute in float32 on purpose; finite differences need more digits.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    assert torch.autograd.gradcheck(total, inputs)


def test_centres_move_towards_the_last_image_of_their_class() -> None:
    centres = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    labels = torch.tensor([0, 1, 0])
    loss = cal_terms.centre_loss(features, centres, labels)
    # Distances to (.6, .8), (0, 0), (.6, .8): .16 + .64, 1, 0.
    assert loss.item() == pytest.approx((0.8 + 1.0 + 0.0) / 3)
    cal_terms.update_centres(features, centres, labels)
    expected = torch.tensor([[3.0, 4.0], [0.0, 0.05], [1.0, 0.0]])
    torch.testing.assert_close(centres, expected)  # the last image of class 0 is at its centre


def test_targets_follow_crops_and_drops() -> None:
    regions = torch.rand(2, 3, 8, 8)
    targets = Targets(regions, regions[:, :1], torch.tensor([True, True]))
    boxes = torch.tensor([[0, 16, 16, 32], [0, 32, 0, 32]])
    cut = targets.cropped(boxes, 32, 32)
    torch.testing.assert_close(cut.regions, crop(regions, boxes, 32, 32))
    torch.testing.assert_close(cut.regions[1], regions[1])
    kept = torch.ones(2, 1, 32, 32, dtype=torch.bool)
    kept[0, :, :, :16] = False
    masked = targets.masked(kept)
    assert (masked.regions[0, :, :, :4] == 0).all()
    torch.testing.assert_close(masked.regions[0, :, :, 4:], regions[0, :, :, 4:])
    torch.testing.assert_close(masked.heatmap[1], regions[1, :1])


def test_a_view_without_landmarks_guides_nothing() -> None:
    targets = Targets(torch.rand(2, 3, 4, 4), torch.rand(2, 1, 4, 4), torch.tensor([True, True]))
    gone = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    gone[1] = True
    assert attention_guidance.at_cells(targets.masked(gone), 4, 4).known.tolist() == [False, True]


def test_template_landmarks_do_not_guide_unless_asked() -> None:
    origin = torch.tensor([0, 1, 2, 3, 4], dtype=torch.uint8)
    assert attention_guidance.known_origin(origin, False).tolist() == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert attention_guidance.known_origin(origin, True).tolist() == [False, True, True, True, True]


@pytest.mark.parametrize(
    "method", [{"loss": 1.0}, {"regions": 1.0}, {"regions_log": 1.0}, {"contrastive": 1.0}]
)
def test_unknown_landmarks_change_no_guidance(method: dict[str, float]) -> None:
    """An image without landmarks adds nothing, whatever its attention is."""
    torch.manual_seed(0)
    maps = torch.rand(3, 8, 4, 4)
    targets = Targets(
        torch.rand(3, 3, 4, 4) / 3, torch.rand(3, 1, 4, 4), torch.tensor([True, False, True])
    )
    cells, labels = attention_guidance.at_cells(targets, 4, 4), torch.tensor([0, 1, 0])
    settings = guided(**method)
    before = attention_guidance.guide(settings, maps, cells, labels)
    maps[1] = torch.rand(8, 4, 4)
    assert attention_guidance.guide(settings, maps, cells, labels) == before
    known = attention_guidance.Cells(*(tensor[[0, 2]] for tensor in cells))
    only = attention_guidance.guide(settings, maps[[0, 2]], known, labels[[0, 2]])
    for name, value in before.items():
        assert only[name].item() == pytest.approx(value.item(), rel=1e-6)


def test_listed_pairs_are_the_only_ones() -> None:
    torch.manual_seed(0)
    maps, labels = torch.rand(5, 8, 4, 4), torch.tensor([0, 1, 2, 1, 0])
    targets = Targets(torch.rand(5, 3, 4, 4) / 3, torch.rand(5, 1, 4, 4), torch.ones(5).bool())
    cells = attention_guidance.at_cells(targets, 4, 4)
    settings = GuidanceSettings((("contrastive", 1.0),), margin=-1.0)
    value = attention_guidance.guide(settings, maps, cells, labels, listed=2)["contrastive"]
    vectors = attention_guidance.landmark_vectors(maps, cells.mask)
    # Rows 1 and 3 are one person, rows 2 and 4 are two.
    expected = (1 - vectors[1] @ vectors[3]) + (vectors[2] @ vectors[4] + 1)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_prior_is_consistent_as_its_share_vanishes(small_cache: FaceCache) -> None:
    """At share 0 training sees what inference sees, which has no heatmap; near 0 almost so."""
    step, trainee, batch = parts(small_cache, guided(prior=0.3), freeze_norm=True)
    pixels, targets = step.prepare(batch, START)
    assert targets is not None
    cells = attention_guidance.at_cells(targets, step.side, step.side)
    fake = torch.ones(6, 8, step.side, step.side)
    trainee.eval()
    with torch.no_grad():
        inference = trainee.model(pixels)
        found = []
        for share in (0.3, 1e-3, 0.0):
            shares = torch.full((6, 1, 1, 1), share)
            logits, effect, *_ = trainee(pixels, fake, torch.zeros(6, 2), cells.heatmap, shares)
            found.append((logits - inference.logits).abs().max().item())
    assert found[0] > 10 * found[1] > 0
    assert found[2] == 0
    torch.testing.assert_close(effect, inference.effect)
    # The share really gets there.
    assert step._share(Place(0, 10, 0, 0.0)) == 0.3
    assert step._share(Place(9, 10, 0, 0.0)) == pytest.approx(0.03)
    assert step._share(Place(10, 10, 0, 0.0)) == 0.0


def test_the_prior_leaves_unknown_faces_alone(small_cache: FaceCache) -> None:
    step, trainee, batch = parts(small_cache, guided(prior=0.3), views=False)
    seen = []

    def forward(
        pixels: Tensor, fake: Tensor, draws: Tensor, heatmap: Tensor, share: Tensor
    ) -> object:
        seen.append(share.flatten().tolist())
        return trainee(pixels, fake, draws, heatmap, share)

    batch["origin"] = torch.tensor([1, 4, 1, 0, 1, 1], dtype=torch.uint8)
    step(forward, batch, START)
    assert seen == [pytest.approx([0.3, 0, 0.3, 0, 0.3, 0.3])]


def test_guidance_reaches_crop_and_drop(small_cache: FaceCache) -> None:
    """The guided losses are means over three passes, each with its own targets."""
    step, trainee, batch = parts(small_cache, guided(regions=1.0))
    calls: list[tuple[Tensor, Tensor]] = []
    original = attention_guidance.guide

    def spy(
        settings: GuidanceSettings, maps: Tensor, cells: attention_guidance.Cells, *rest: object
    ) -> object:
        calls.append((maps, cells.regions))
        return original(settings, maps, cells, *rest)  # type: ignore[arg-type]

    attention_guidance.guide = spy  # type: ignore[assignment]
    try:
        losses = step(trainee, batch, START)
    finally:
        attention_guidance.guide = original
    assert [len(maps) for maps, _ in calls] == [6, 6, 6]
    assert not torch.equal(calls[0][1], calls[1][1])
    assert (calls[2][1] <= calls[0][1] + 1e-6).all()
    alone = [
        attention_guidance.region_loss(maps, cells, (3, 2, 2)).mean().item()
        for maps, cells in calls
    ]
    assert losses["guide_regions"].item() == pytest.approx(np.mean(alone), rel=0.2)


def test_gradients_reach_the_attention_and_the_prior(small_cache: FaceCache) -> None:
    step, trainee, batch = parts(small_cache, EVERYTHING)
    step(trainee, batch, START)["loss"].backward()
    for name, parameter in trainee.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_draws_do_not_depend_on_the_batch(small_cache: FaceCache) -> None:
    step, trainee, batch = parts(small_cache, GuidanceSettings(), freeze_norm=True)
    whole = step(trainee, batch, START)["per_image"]
    halves = [
        step(trainee, {name: value[part] for name, value in batch.items()}, START)["per_image"]
        for part in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=1e-4, atol=1e-5)


def test_views_of_the_evaluation() -> None:
    torch.manual_seed(0)
    model = create("cal_mobilefacenet", num_classes=3, heads=4).eval()
    pixels = nn.functional.interpolate(torch.randn(2, 3, 4, 4), (32, 32), mode="bilinear")
    with torch.no_grad():
        whole = model(pixels)
        crops = {
            theta: model(attention_crop(pixels, whole.attention, theta, pad))
            for theta, pad in ((0.3, 0.1), (0.2, 0.1), (0.1, 0.05))
        }
        logits, _, features = predict(model, pixels, 1)
        assert torch.equal(logits, whole.logits)
        torch.testing.assert_close(features, whole.features)
        logits, effect, _ = predict(model, pixels, 2)
        torch.testing.assert_close(logits, (whole.logits + crops[0.1].logits) / 2)
        torch.testing.assert_close(effect, (whole.effect + crops[0.1].effect) / 2)
        logits, _, features = predict(model, pixels, 8)
        mirrored, _, _ = predict(model, pixels.flip(3), 8)
    torch.testing.assert_close(logits, mirrored, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))


def test_watch_by_hand() -> None:
    maps = torch.zeros(1, 2, 2, 2)
    maps[0, 0, 0, 0], maps[0, 1] = 4.0, 1.0
    regions = torch.zeros(1, 3, 2, 2)
    regions[0, 0, 0, 0], regions[0, 1, 1, 1] = 1.0, 0.5
    cells = attention_guidance.at_cells(
        Targets(regions, regions[:, :1], torch.tensor([True])), 2, 2
    )
    found = {
        name: value.item() for name, value in attention_watch.watch(maps, cells, (1, 1, 0)).items()
    }
    assert found["attention_mean"] == 1.0
    assert found["attention_entropy"] == pytest.approx(0.5)  # one cell, and all cells alike
    assert found["head_cosine"] == pytest.approx(0.5)
    assert found["energy_eyes"] == pytest.approx((1 + 0.25) / 2)
    assert found["lift_eyes"] == pytest.approx(1 / 0.25)
    assert found["lift_nose"] == pytest.approx(0.125 / 0.125)
    assert found["energy_inside"] == pytest.approx((1 + 0.375) / 2)
    assert "lift_mouth" not in found


def test_collapsing_heads_are_warned_of() -> None:
    assert attention_watch.collapse({"head_cosine": 0.3, "attention_entropy": 0.7}) is None
    alike = attention_watch.collapse({"head_cosine": 0.87, "attention_entropy": 0.5})
    assert alike is not None
    assert "become alike (cosine 0.87" in alike
    few = attention_watch.collapse({"head_cosine": 0.3, "attention_entropy": 0.12})
    assert few is not None
    assert "shrunk to few cells (entropy 0.12" in few


def test_too_many_heads_are_refused(small_cache: FaceCache, tmp_path: Path) -> None:
    run = tiny_run(GuidanceSettings((("regions", 1.0),), assignment=(4, 4, 4)))
    with pytest.raises(TrainError, match=r"8 \(--heads\), found \(4, 4, 4\)"):
        train_tiny(small_cache, tmp_path, run)


def test_the_crop_box_moves_with_the_attention() -> None:
    """Differences of the box by the place of the peak: one cell is (H − 1) / (h − 1) pixels."""
    maps = torch.zeros(3, 1, 9, 9)
    maps[0, 0, 4, 4] = maps[1, 0, 4, 5] = maps[2, 0, 5, 4] = 1.0
    boxes = crop_boxes(maps, 0.5, 0.05, 65, 65)
    assert (boxes[1] - boxes[0]).tolist() == [0, 0, 8, 8]
    assert (boxes[2] - boxes[0]).tolist() == [8, 8, 0, 0]
    # A larger threshold and a smaller margin shrink it on all sides alike.
    inner = crop_boxes(maps, 0.75, 0.05, 65, 65)[0] - boxes[0]
    assert inner.tolist() == [2, -2, 2, -2]
    wider = crop_boxes(maps, 0.5, 0.1, 65, 65)[0] - boxes[0]
    assert wider.tolist() == [-3, 3, -3, 3]
