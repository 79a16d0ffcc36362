"""QAConv against the original, and what each weighting does to a hidden cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.train.models.parity_fill import fill, load_case, relative_error
from torch import Tensor

from faceguide.train.models import ModelError, create
from faceguide.train.models.matchers.correlation import SEEN, cell_visibility, hidden_penalty
from faceguide.train.models.matchers.qaconv import QAConv

WEIGHTED = ("scale", "mask", "common")
seeds = st.integers(0, 2**32 - 1)
weightings = st.sampled_from(WEIGHTED)
hiding = st.sampled_from(("mask", "common"))
versions = st.sampled_from(("2.1", "2.0"))


def matcher(version: str = "2.1", weighting: str = "common", side: int = 3) -> QAConv:
    made: QAConv = create(
        "qaconv", version=version, channels=6, height=side, width=side, weighting=weighting
    )
    fill(made)
    return made.eval()


def maps(count: int, seed: int, side: int = 3) -> Tensor:
    return torch.randn(count, 6, side, side, generator=torch.Generator().manual_seed(seed))


def patchy(count: int, seed: int, side: int = 3) -> Tensor:
    """Visibility with hidden, partly visible and visible cells, and one in six faces all hidden."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.rand(count, 1, side, side, generator=generator)
    kind = torch.rand(count, 1, side, side, generator=generator)
    value = torch.where(kind < 0.4, 0.0, torch.where(kind < 0.7, 1.0, value))
    hidden = torch.rand(count, 1, 1, 1, generator=generator) < 1 / 6
    return torch.where(hidden, 0.0, value)


@pytest.mark.parametrize("version", ["2.1", "2.0"])
def test_equal_weights_give_the_original_scores(version: str) -> None:
    expected = load_case("qaconv_7x7")[f"score_v{version.replace('.', '')}"]
    generator = np.random.default_rng(1)
    probe, gallery = (
        torch.as_tensor(generator.normal(size=(count, 512, 7, 7)), dtype=torch.float32)
        for count in (3, 4)
    )
    original = create("qaconv", version=version, channels=512, height=7, width=7).eval()
    fill(original)
    assert relative_error(original(probe, gallery), expected) < 1e-5
    assert original(probe, gallery).shape == (3, 4)


def test_state_dict_keys_are_the_originals() -> None:
    state = create("qaconv").state_dict()
    norms = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"fc.weight", "fc.bias"} | {f"{n}.{k}" for n in ("bn", "logit_bn") for k in norms}
    assert set(state) == expected
    assert torch.equal(state["fc.weight"], torch.full((1, 49), 1 / 49))


@given(versions, weightings, seeds)
@settings(max_examples=30, deadline=None)
def test_all_visible_scores_as_without_maps(version: str, weighting: str, seed: int) -> None:
    made = matcher(version, weighting)
    probe, gallery = maps(3, seed), maps(4, seed + 1)
    plain = made(probe, gallery)
    ones = torch.ones(4, 1, 3, 3)
    for visibility in ((ones[:3], ones), (ones[:3], None), (None, ones)):
        torch.testing.assert_close(made(probe, gallery, *visibility), plain, rtol=0, atol=1e-6)
    # Also in training, where the statistics are those of the batch.
    one, other = matcher(version, weighting).train(), matcher(version, weighting).train()
    trained = one(probe, gallery, ones[:3], ones)
    torch.testing.assert_close(trained, other(probe, gallery), rtol=1e-5, atol=1e-5)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[key], rtol=1e-5, atol=1e-6)


@given(versions, weightings, seeds)
@settings(max_examples=30, deadline=None)
def test_permuting_the_gallery_permutes_the_scores(version: str, weighting: str, seed: int) -> None:
    made = matcher(version, weighting)
    probe, gallery, order = maps(3, seed), maps(5, seed + 1), [3, 0, 4, 2, 1]
    v_probe, v_gallery = patchy(3, seed), patchy(5, seed + 1)
    scores = made(probe, gallery, v_probe, v_gallery)
    permuted = made(probe, gallery[order], v_probe, v_gallery[order])
    torch.testing.assert_close(permuted, scores[:, order], rtol=1e-5, atol=1e-6)


@given(weightings, seeds)
@settings(max_examples=30, deadline=None)
def test_swapping_probe_and_gallery_transposes_version_2_1(weighting: str, seed: int) -> None:
    made = matcher("2.1", weighting)
    probe, gallery = maps(3, seed), maps(5, seed + 1)
    v_probe, v_gallery = patchy(3, seed), patchy(5, seed + 1)
    forward = made(probe, gallery, v_probe, v_gallery)
    backward = made(gallery, probe, v_gallery, v_probe)
    torch.testing.assert_close(forward, backward.T, rtol=1e-5, atol=1e-6)


def test_version_2_0_is_not_symmetric() -> None:
    made = matcher("2.0", "none")
    probe, gallery = maps(3, 0), maps(5, 1)
    assert (made(probe, gallery) - made(gallery, probe).T).abs().max() > 0.01


@given(versions, hiding, seeds, st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_features_of_hidden_cells_never_matter(
    version: str, weighting: str, seed: int, training: bool
) -> None:
    probe, gallery = maps(3, seed), maps(4, seed + 1)
    v_probe, v_gallery = patchy(3, seed), patchy(4, seed + 1)
    # The hardest case: hidden cells that equal a cell of the other face exactly.
    tempting = gallery[0].flatten(1)[:, 0][None, :, None, None]
    changed_probe = torch.where(v_probe == 0, tempting, probe)
    changed_gallery = torch.where(v_gallery == 0, probe[0, :, :1, :1], gallery)
    scores = [
        matcher(version, weighting).train(training)(p, g, v_probe, v_gallery)
        for p, g in ((probe, gallery), (changed_probe, changed_gallery))
    ]
    torch.testing.assert_close(scores[0], scores[1], rtol=1e-5, atol=1e-5)
    assert scores[0].isfinite().all()


def test_covering_what_does_not_match_helps_in_scale_only() -> None:
    """Why `scale` is not the default: a hidden cell counts as a correlation of 0."""
    probe = torch.zeros(1, 6, 3, 3)
    probe[:, 0] = 1.0
    gallery = -probe  # every correlation is −1
    covered = torch.ones(1, 1, 3, 3)
    covered[..., 0, 0] = 0
    scores = {}
    for weighting in WEIGHTED:
        made = matcher(weighting=weighting)
        torch.nn.init.constant_(made.fc.weight, 1 / 9)
        plain = made(probe, gallery)
        scores[weighting] = (made(probe, gallery, None, covered) - plain).item()
    assert scores["scale"] > 0.1
    assert scores["mask"] == pytest.approx(0, abs=1e-6)
    assert scores["common"] == pytest.approx(0, abs=1e-6)


@given(versions, hiding, seeds, st.integers(0, 7))
@settings(max_examples=40, deadline=None)
def test_hiding_a_cell_in_both_removes_its_own_terms_and_no_others(
    version: str, weighting: str, seed: int, cell: int
) -> None:
    """With each cell's best match at its own place, the score is a sum of single cells."""
    made = create("qaconv", version=version, channels=9, height=3, width=3, weighting=weighting)
    fill(made)
    made.eval()
    strength = torch.rand(9, generator=torch.Generator().manual_seed(seed))
    probe = torch.eye(9)[None].reshape(1, 9, 3, 3)
    # Gallery cell s points to channel s, tilted towards no other probe cell.
    tilted = torch.eye(9) * (0.2 + 0.8 * strength) - 0.05
    gallery = tilted[None].reshape(1, 9, 3, 3)
    visibility = torch.ones(1, 9)
    visibility[0, cell] = 0
    shaped = visibility.reshape(1, 1, 3, 3)
    found = made(probe, gallery, shaped, shaped)
    correlation = probe.flatten(2)[0].T @ torch.nn.functional.normalize(tilted, dim=0)
    assert correlation.argmax(0).tolist() == correlation.argmax(1).tolist() == list(range(9))
    normed = made.bn(correlation.diagonal()[:, None])[:, 0]
    w_probe, w_gallery, bias = made.halves()
    kept = (w_probe + w_gallery) * normed * visibility[0]
    expected = made.logit_bn((kept.sum() * 9 / 8 + bias)[:, None])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@given(versions, weightings, seeds)
@settings(max_examples=30, deadline=None)
def test_a_hidden_face_has_the_score_of_no_evidence(
    version: str, weighting: str, seed: int
) -> None:
    made = matcher(version, weighting)
    probe, gallery = maps(3, seed), maps(4, seed + 1)
    nothing, seen = torch.zeros(3, 1, 3, 3), torch.ones(4, 1, 3, 3)
    for visibility in ((nothing, seen), (nothing, torch.zeros(4, 1, 3, 3)), (nothing, None)):
        scores = made(probe, gallery, *visibility)
        assert scores.isfinite().all()
        # One number for all pairs, whatever the features are.
        assert scores.max() - scores.min() < 1e-6
        if weighting != "scale":
            bias = made.halves()[2]
            torch.testing.assert_close(scores[0, 0], made.logit_bn(bias[None])[0, 0])


def test_no_common_cell_is_no_evidence_in_common_only() -> None:
    probe, gallery = maps(1, 0), maps(1, 1)
    left, right = torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3)
    left[..., 0], right[..., 2] = 1, 1
    made = matcher(weighting="common")
    bias = made.halves()[2]
    torch.testing.assert_close(made(probe, gallery, left, right), made.logit_bn(bias[None]))
    assert matcher(weighting="mask")(probe, gallery, left, right) != made.logit_bn(bias[None])


@given(versions, st.sampled_from(("none", *WEIGHTED)), seeds)
@settings(max_examples=30, deadline=None)
def test_pairs_score_as_in_the_matrix(version: str, weighting: str, seed: int) -> None:
    made = matcher(version, weighting)
    probe, gallery = maps(4, seed), maps(4, seed + 1)
    v_probe, v_gallery = patchy(4, seed), patchy(4, seed + 1)
    matrix = made(probe, gallery, v_probe, v_gallery)
    pairs = made.pair_scores(probe, gallery, v_probe, v_gallery)
    torch.testing.assert_close(pairs, matrix.diagonal(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        made.pair_scores(probe, gallery), made(probe, gallery).diagonal(), rtol=1e-5, atol=1e-5
    )


def test_visibility_of_another_grid_is_brought_to_the_features() -> None:
    made = matcher(side=7)
    probe, gallery = maps(2, 0, 7), maps(3, 1, 7)
    fine = torch.rand(2, 1, 14, 14, generator=torch.Generator().manual_seed(0))
    coarse = fine.reshape(2, 1, 7, 2, 7, 2).mean((3, 5))
    torch.testing.assert_close(made(probe, gallery, fine), made(probe, gallery, coarse))
    # Without the channel dimension too, and in the half floats of the cache.
    torch.testing.assert_close(made(probe, gallery, fine[:, 0]), made(probe, gallery, coarse))
    half = coarse.half()
    torch.testing.assert_close(made(probe, gallery, half), made(probe, gallery, half.float()))
    grown = cell_visibility(coarse, torch.zeros(2, 6, 14, 14))
    assert grown.shape == (2, 196)
    assert 0 <= grown.min() <= grown.max() <= 1


def test_the_penalty_keeps_hidden_cells_from_winning() -> None:
    hidden, barely, half, full = hidden_penalty(torch.tensor([0.0, SEEN, 0.5, 1.0]))
    assert 1 + hidden < -1 + barely
    assert -0.1 < half < 0
    assert full == 0


@pytest.mark.parametrize("weighting", ["none", *WEIGHTED])
def test_gradients_reach_the_maps_but_not_the_visibility(weighting: str) -> None:
    made = matcher(weighting=weighting).train()
    probe, gallery = maps(3, 0).requires_grad_(), maps(4, 1).requires_grad_()
    seen = patchy(3, 2).requires_grad_()
    scores = made(probe, gallery, seen)
    (scores * torch.randn(3, 4)).sum().backward()
    for tensor in (probe, gallery):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() > 0
    assert seen.grad is None
    if weighting in ("mask", "common"):
        assert probe.grad[(seen == 0).expand_as(probe)].abs().max() == 0


def test_the_loss_of_the_matcher_alone_changes_the_backbone() -> None:
    backbone = create("mobilefacenet")
    made = create("qaconv")
    images = torch.rand(3, 3, 112, 112)
    feature_map = backbone.feature_map(images)
    same = torch.eye(3)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        made(feature_map, feature_map), same
    )
    before = backbone.conv1[0].weight.detach().clone()
    loss.backward()
    torch.optim.SGD(backbone.parameters(), lr=1.0).step()
    assert not torch.equal(before, backbone.conv1[0].weight)


def test_training_statistics_leave_hidden_cells_out() -> None:
    made = matcher(weighting="common").train()
    made.bn.momentum = 1.0
    probe, gallery = maps(1, 0), maps(1, 1)
    seen = torch.zeros(1, 1, 3, 3)
    seen[..., :2, 1] = 1  # two visible cells
    made.logit_bn.eval()  # one pair has no variance
    made(probe, gallery, seen, seen)
    f_probe = torch.nn.functional.normalize(probe, dim=1).flatten(2)[0][:, [1, 4]]
    f_gallery = torch.nn.functional.normalize(gallery, dim=1).flatten(2)[0][:, [1, 4]]
    correlation = f_probe.T @ f_gallery
    best = torch.cat([correlation.amax(1), correlation.amax(0)])
    torch.testing.assert_close(made.bn.running_mean[0], best.mean())
    torch.testing.assert_close(made.bn.running_var[0], best.var())


def test_a_batch_without_any_visible_cell_keeps_the_statistics() -> None:
    made = matcher(weighting="mask").train()
    before = made.bn.running_mean.clone(), made.bn.running_var.clone()
    nothing = torch.zeros(2, 1, 3, 3)
    scores = made(maps(2, 0), maps(2, 1), nothing, nothing)
    assert scores.isfinite().all()
    assert torch.equal(made.bn.running_mean, before[0])
    assert torch.equal(made.bn.running_var, before[1])


def test_wrong_shapes_are_refused() -> None:
    made = matcher()
    with pytest.raises(ModelError, match=r"made for maps of \(N, 6, 3, 3\), found \(2, 6, 4, 4\)"):
        made(maps(2, 0, 4), maps(2, 0, 4))
    with pytest.raises(ModelError, match=r"equal C, h and w, found \(2, 6, 3, 3\) and \(2, 6, 4,"):
        made(maps(2, 0), maps(2, 0, 4))
    with pytest.raises(ModelError, match=r"visibility must be \(2, 1, h, w\) .*found \(3, 1, 3, 3"):
        made(maps(2, 0), maps(2, 0), torch.ones(3, 1, 3, 3))
    with pytest.raises(ModelError, match="found 2 probes and 3 references"):
        made.pair_scores(maps(2, 0), maps(3, 0))
