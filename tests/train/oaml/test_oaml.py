"""One step of `train oaml`: its losses, and what their gradients reach."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faceguide.core.errors import TrainError
from faceguide.train.models import create
from faceguide.train.oaml.oaml_settings import OamlSettings
from faceguide.train.oaml.oaml_step import (
    OamlStep,
    OamlTrainee,
    occlusion_loss,
    on_grid,
    pairwise_loss,
    triplet_loss,
    views,
)

NOTHING = {f"{loss}_weight": 0.0 for loss in ("recognition", "pairwise", "triplet", "occlusion")}
ONLY_PAIRS = {**NOTHING, "pairwise_weight": 1.0}
ONLY_TRIPLETS = {**NOTHING, "triplet_weight": 1.0}
ONLY_OCCLUSION = {**NOTHING, "occlusion_weight": 1.0}


def trainee(recipe: OamlSettings) -> OamlTrainee:
    torch.manual_seed(0)
    side = recipe.map_size
    channels = {7: 512, 14: 128}[side]
    parts = recipe.part != "occlusion"
    return OamlTrainee(
        create("mobilefacenet"),
        create("occlusion_head", channels=channels),
        create("adaface", num_classes=3, embedding_size=128) if parts else None,
        create("qaconv", channels=channels, height=side, width=side) if parts else None,
        torch.tensor([0, 1, -1, 2]),
        recipe,
    ).train()


def batch(masks: bool = True, known: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    found = {
        "image": torch.randint(0, 256, (4, 112, 112, 3), generator=generator, dtype=torch.uint8),
        "label": torch.tensor([0, 0, 1, 3]),
        "row": torch.arange(4),
    }
    found["visibility"] = torch.ones(4, 7, 7)
    found["known"] = torch.full((4,), masks and known)
    if masks:
        found["visibility"] = torch.rand(4, 7, 7, generator=generator).half()
    return found


def gradients(
    recipe: OamlSettings, data: dict[str, torch.Tensor] | None = None
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Largest gradient of each part, and the losses."""
    module = trainee(recipe)
    losses = OamlStep(recipe, module)(module, batch() if data is None else data)
    losses["loss"].backward()
    found = {}
    for name, part in module.named_children():
        sizes = [p.grad.abs().max().item() for p in part.parameters() if p.grad is not None]
        found[name] = max(sizes, default=0.0)
    return found, losses


@pytest.mark.parametrize("weights", [ONLY_PAIRS, ONLY_TRIPLETS])
def test_each_loss_of_the_matcher_alone_reaches_the_backbone(weights: dict[str, float]) -> None:
    """The known implementation detaches the maps, so its backbone never learns to be matched."""
    found, _ = gradients(OamlSettings(**weights))
    assert found["backbone"] > 0
    assert found["matcher"] > 0


def test_the_loss_of_the_matcher_alone_changes_the_backbone() -> None:
    recipe = OamlSettings(**ONLY_PAIRS)
    module = trainee(recipe)
    before = {name: value.clone() for name, value in module.backbone.named_parameters()}
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    OamlStep(recipe, module)(module, batch())["loss"].backward()
    optimiser.step()
    changed = {
        name
        for name, value in module.backbone.named_parameters()
        if not torch.equal(value, before[name])
    }
    assert "conv1.0.weight" in changed
    assert not any(name.startswith(("gdconv", "conv3")) for name in changed), (
        "the layers after the map have no part in matching"
    )


def test_whether_the_occlusion_loss_trains_the_backbone() -> None:
    shared, _ = gradients(OamlSettings(**ONLY_OCCLUSION))
    detached, _ = gradients(OamlSettings(**ONLY_OCCLUSION, occlusion_grad="detached"))
    assert shared["backbone"] > 0
    assert detached["backbone"] == 0
    assert detached["occlusion_head"] > 0


@pytest.mark.parametrize("data", [batch(masks=False), batch(known=False)])
def test_a_batch_without_masks_trains_all_but_the_occlusion_head(
    data: dict[str, torch.Tensor],
) -> None:
    found, losses = gradients(OamlSettings(), data)
    assert losses["occlusion"] == 0
    assert losses["known_share"] == 0
    assert found["occlusion_head"] == 0
    assert min(found["backbone"], found["head"], found["matcher"]) > 0
    assert all(torch.isfinite(value).all() for value in losses.values())


def test_covered_faces_of_a_second_cache_train_the_occlusion_head_only() -> None:
    data = batch(masks=False) | {
        f"occlusion_{name}": value for name, value in batch().items() if name != "label"
    }
    found, losses = gradients(OamlSettings(), data)
    assert found["occlusion_head"] > 0
    assert losses["known_share"] == 0.5
    assert losses["per_image"].shape == (4,)
    seen = views(data)
    assert len(seen.images) == 8
    assert seen.count == 4
    assert seen.known.tolist() == [False] * 4 + [True] * 4


@torch.no_grad()
def test_what_augmentation_hides_is_hidden_on_faces_without_a_mask_too() -> None:
    """The matcher sees the head's prediction, but never what was cut off."""
    module = trainee(OamlSettings()).eval()
    data = batch()
    pixels = module.backbone.input_spec.prepare(data["image"])
    cut = torch.ones(4, 7, 7)
    cut[0, :3], cut[1, :, 5:] = 0.0, 0.0
    unknown = torch.zeros(4, dtype=torch.bool)
    labels = torch.tensor([0, 0, 1, 2])
    predicted, _, scores = module(pixels, labels, cut, unknown)
    _, _, expected = module(pixels, labels, predicted * cut, ~unknown)
    torch.testing.assert_close(scores, expected)
    _, _, whole = module(pixels, labels, torch.ones(4, 7, 7), unknown)
    assert not torch.allclose(scores[:2], whole[:2])


@pytest.mark.parametrize(
    ("part", "trained"),
    [
        ("all", {"backbone", "occlusion_head", "head", "matcher"}),
        ("heads", {"occlusion_head", "head", "matcher"}),
        ("occlusion", {"occlusion_head"}),
    ],
)
def test_what_is_frozen_stays_to_the_bit(part: str, trained: set[str]) -> None:
    recipe = OamlSettings(part=part)
    module = trainee(recipe)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 0.1)
    OamlStep(recipe, module)(module, batch())["loss"].backward()
    optimiser.step()
    changed = {
        name.split(".")[0]
        for name, value in module.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert changed == trained, "BatchNorm statistics count as well"


def test_frozen_statistics() -> None:
    recipe = OamlSettings(freeze_norm=True)
    module = trainee(recipe)
    norm = module.backbone.bn
    before = norm.running_mean.clone()
    OamlStep(recipe, module)(module, batch())
    assert torch.equal(norm.running_mean, before)


def test_the_larger_map() -> None:
    data = batch()
    data["visibility"] = torch.rand(4, 14, 14)
    found, losses = gradients(OamlSettings(map_size=14), data)
    assert min(found.values()) > 0
    with pytest.raises(TrainError, match="7×7 cells, 14×14"):
        gradients(OamlSettings(map_size=14), batch())
    assert losses["loss"].isfinite()


def test_pairwise_loss_by_hand() -> None:
    scores = torch.tensor([[9.0, 2.0, -1.0], [2.0, 9.0, 0.5], [-1.0, 0.5, 9.0]])
    labels = torch.tensor([0, 0, 1])
    same = labels[:, None] == labels[None]
    genuine = math.log1p(math.exp(-2.0))
    impostor = (math.log1p(math.exp(-1.0)) + math.log1p(math.exp(0.5))) / 2
    assert pairwise_loss(scores, same).item() == pytest.approx((genuine + impostor) / 2, rel=1e-5)


def test_triplet_loss_by_hand() -> None:
    scores = torch.tensor([[9.0, 2.0, 1.5], [2.0, 9.0, 0.5], [1.5, 0.5, 9.0]])
    labels = torch.tensor([0, 0, 1])
    same = labels[:, None] == labels[None]
    # Anchors 0 and 1 have both kinds: 1.5 − 2 + 1 and max(0, 0.5 − 2 + 1).
    assert triplet_loss(scores, same, 1.0).item() == pytest.approx(0.25)


@given(labels=st.lists(st.integers(0, 2), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_losses_of_any_batch_are_finite_with_finite_gradients(labels: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(labels), len(labels), generator=generator).requires_grad_()
    which = torch.tensor(labels)
    same = which[:, None] == which[None]
    loss = pairwise_loss(scores, same) + triplet_loss(scores, same, 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad.diagonal() == 0).all(), "an image and itself are no pair"


def test_occlusion_loss_counts_known_faces_only() -> None:
    predicted = torch.tensor([0.5, 0.0]).reshape(2, 1, 1).expand(2, 7, 7)
    true = torch.ones(2, 14, 14)
    known = torch.tensor([True, False])
    assert occlusion_loss(predicted, true, known).item() == pytest.approx(0.25)
    assert occlusion_loss(predicted, true, ~known).item() == pytest.approx(1.0)
    assert occlusion_loss(predicted, true, known & ~known).item() == 0.0


def test_coarser_grids_are_exact_means() -> None:
    fine = torch.rand(2, 14, 14)
    blocks = fine.reshape(2, 7, 2, 7, 2).mean((2, 4))
    torch.testing.assert_close(on_grid(fine, 7), blocks)
