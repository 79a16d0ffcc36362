"""The visible embedding against the embedding itself, and what hidden cells do to it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.models.parity_fill import fill, smooth_images
from torch import Tensor

from faceguide.train.models import ModelError, create
from faceguide.train.models.matchers import visible_embedding
from faceguide.train.models.matchers.visible_embedding import (
    VisibleEmbedding,
    mean_map,
    score_terms,
)

BACKBONES = ("mobilefacenet", "ir_18")


@pytest.fixture(scope="module")
def backbones() -> dict[str, torch.nn.Module]:
    made = {}
    for name in BACKBONES:
        made[name] = create(name).eval()
        fill(made[name])
    return made


def faces(count: int, seed: int) -> Tensor:
    return torch.randn(count, 512, 7, 7, generator=torch.Generator().manual_seed(seed))


def soft(count: int, seed: int) -> Tensor:
    value = torch.rand(count, 1, 7, 7, generator=torch.Generator().manual_seed(seed))
    return torch.where(value < 0.4, 0.0, value)


@pytest.mark.parametrize("name", BACKBONES)
def test_all_visible_is_the_cosine_of_the_embeddings(
    backbones: dict[str, torch.nn.Module], name: str
) -> None:
    backbone = backbones[name]
    with torch.inference_mode():
        maps = backbone.feature_map(smooth_images((5, 3, 112, 112)))
        # Real maps of random weights are nearly equal; unlike ones make the test strict.
        maps = maps + faces(5, 0)
        raw = backbone.map7_to_embedding(maps)
        unit = torch.nn.functional.normalize(raw, dim=1)
        plain = VisibleEmbedding.of(backbone)
        torch.testing.assert_close(plain(maps[:2], maps), unit[:2] @ unit.T, rtol=0, atol=2e-5)
        mean = mean_map([maps[:2], maps[2:]])
        centred = torch.nn.functional.normalize(raw - raw.mean(0), dim=1)
        found = VisibleEmbedding.of(backbone, mean)(maps[:2], maps, torch.ones(2, 1, 14, 14))
        torch.testing.assert_close(found, centred[:2] @ centred.T, rtol=0, atol=2e-5)
        assert (plain(maps, maps) - found.new_ones(5, 5)).abs().max() > 0.05


def test_only_what_both_show_is_compared(backbones: dict[str, torch.nn.Module]) -> None:
    """With one common cell the score is the cosine of that cell's two terms."""
    matcher = VisibleEmbedding.of(backbones["ir_18"], faces(1, 9)[0])
    probe, gallery = faces(1, 0), faces(1, 1)
    v_probe, v_gallery = torch.zeros(1, 7, 7), torch.zeros(1, 7, 7)
    v_probe[0, 2, 3:5] = 1
    v_gallery[0, 1:3, 4] = 0.5
    terms = [matcher.cell_terms(maps)[0, 2 * 7 + 4] for maps in (probe, gallery)]
    expected = torch.nn.functional.cosine_similarity(terms[0], terms[1], dim=0)
    torch.testing.assert_close(matcher(probe, gallery, v_probe, v_gallery)[0, 0], expected)


@given(st.sampled_from(BACKBONES), st.integers(0, 2**32 - 1))
@settings(max_examples=3, deadline=None)
def test_hidden_features_order_and_sides_do_not_matter(
    backbones: dict[str, torch.nn.Module], name: str, seed: int
) -> None:
    matcher = VisibleEmbedding.of(backbones[name])
    probe, gallery = faces(3, seed), faces(4, seed + 1)
    v_probe, v_gallery = soft(3, seed), soft(4, seed + 1)
    scores = matcher(probe, gallery, v_probe, v_gallery)
    assert scores.abs().max() <= 1 + 1e-5
    changed = torch.where(v_probe == 0, 10 * gallery[:3], probe)
    torch.testing.assert_close(matcher(changed, gallery, v_probe, v_gallery), scores)
    order = [2, 0, 3, 1]
    permuted = matcher(probe, gallery[order], v_probe, v_gallery[order])
    torch.testing.assert_close(permuted, scores[:, order])
    swapped = matcher(gallery, probe, v_gallery, v_probe)
    torch.testing.assert_close(swapped, scores.T, rtol=1e-5, atol=1e-6)
    pairs = matcher.pair_scores(probe, gallery[:3], v_probe, v_gallery[:3])
    torch.testing.assert_close(pairs, scores.diagonal(), rtol=1e-5, atol=1e-6)


def test_nothing_in_common_scores_zero(backbones: dict[str, torch.nn.Module]) -> None:
    matcher = VisibleEmbedding.of(backbones["mobilefacenet"])
    upper, lower = torch.zeros(2, 7, 7), torch.zeros(2, 7, 7)
    upper[:, :3], lower[:, 3:] = 1, 1
    scores = matcher(faces(2, 0), faces(2, 1), upper, lower)
    assert torch.equal(scores, torch.zeros(2, 2))


def test_few_patterns_and_many_score_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(9, 49, 16, generator=generator)
    gallery = torch.randn(11, 49, 16, generator=generator)
    patterns = (torch.rand(3, 49, generator=generator) < 0.5).float()
    seen_p = patterns[torch.randint(3, (9,), generator=generator)]
    seen_g = patterns[torch.randint(2, (11,), generator=generator)]
    used = []
    original = visible_embedding._by_pattern
    monkeypatch.setattr(
        visible_embedding, "_by_pattern", lambda *args: used.append(1) or original(*args)
    )
    # 2 patterns × 9 probes + 3 patterns × 11 faces are 51 sums, more than half of the 99 pairs.
    direct = score_terms(probe, gallery, seen_p, seen_g)
    assert not used
    # Eight times the faces of both: 408 sums for 6,336 pairs.
    few = score_terms(
        probe.repeat(8, 1, 1), gallery.repeat(8, 1, 1), seen_p.repeat(8, 1), seen_g.repeat(8, 1)
    )
    assert used
    torch.testing.assert_close(few, direct.repeat(8, 8))


def test_blocks_of_soft_pairs_cover_all(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    probe, gallery = (torch.randn(n, 49, 4, generator=generator) for n in (7, 300))
    seen = [torch.rand(n, 49, generator=generator) for n in (7, 300)]
    whole = score_terms(probe, gallery, *seen)
    monkeypatch.setattr(visible_embedding, "BLOCK_NUMBERS", 2 * 256 * 4 * 2)  # two probes a time
    torch.testing.assert_close(score_terms(probe, gallery, *seen), whole)
    assert whole.shape == (7, 300)


def test_gradients_reach_the_visible_cells_only(backbones: dict[str, torch.nn.Module]) -> None:
    matcher = VisibleEmbedding.of(backbones["mobilefacenet"])
    probe = faces(2, 0).requires_grad_()
    seen = soft(2, 1)
    matcher.pair_scores(probe, faces(2, 1), seen).sum().backward()
    hidden = (seen == 0).expand_as(probe)
    assert probe.grad[hidden].abs().max() == 0
    assert probe.grad[~hidden].abs().max() > 0


def test_a_network_without_a_linear_tail_is_refused_by_name() -> None:
    with torch.device("meta"):
        cal = create("cal_resnet18", num_classes=2)
    with pytest.raises(ModelError, match=r"needs a backbone that is linear .* WSDANCAL is not"):
        VisibleEmbedding.of(cal)


def test_other_maps_are_refused(backbones: dict[str, torch.nn.Module]) -> None:
    backbone = backbones["mobilefacenet"]
    matcher = VisibleEmbedding.of(backbone)
    fine = torch.zeros(1, 128, 14, 14)
    with pytest.raises(ModelError, match=r"maps of \(N, 512, 7, 7\), found \(1, 128, 14, 14\)"):
        matcher(fine, fine)
    with pytest.raises(ModelError, match=r"mean map must be \(512, 7, 7\), found \(512,\)"):
        VisibleEmbedding.of(backbone, torch.zeros(512))
    with pytest.raises(ModelError, match="at least one feature map"):
        mean_map([])
