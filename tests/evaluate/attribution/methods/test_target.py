"""The pair score and the guard against scores that do not depend on the probe."""

from __future__ import annotations

import pytest
import torch
from tests.evaluate.attribution.networks import pixels, settled
from torch import Tensor, nn

from faceguide.core.errors import AttributionError, ScoreError
from faceguide.evaluate.attribution.methods.target import (
    PairScore,
    check_depends,
    pair_score,
    score_gradient,
    unit_embedding,
)
from faceguide.evaluate.score.scores import LocalMatcher
from faceguide.train.models.loading.network import Network
from faceguide.train.models.matchers.qaconv import QAConv


@pytest.fixture(scope="module")
def score() -> PairScore:
    return PairScore(settled("mobilefacenet"))


def test_scores_are_cosines_of_each_row(score: PairScore) -> None:
    probe, other = pixels(2), pixels(2, 1)
    found = score(probe, *score.reference(other))
    first, second = (unit_embedding(score.backbone, x) for x in (probe, other))
    assert found.shape == (2,)
    torch.testing.assert_close(found, nn.functional.cosine_similarity(first, second))
    torch.testing.assert_close(score(probe, *score.reference(probe)), torch.ones(2))


def test_reference_carries_no_graph_and_the_probe_does(score: PairScore) -> None:
    reference = score.reference(pixels(1, 1))
    assert not reference[0].requires_grad
    _, gradient = score_gradient(score, pixels(1), reference)
    assert gradient.abs().max() > 0


def test_local_matchers_score_maps(score: PairScore) -> None:
    torch.manual_seed(1)
    matcher = LocalMatcher("qaconv", QAConv(channels=512, height=7, width=7).eval(), False)
    local = PairScore(score.backbone, matcher)
    probe, reference = pixels(2), local.reference(pixels(2, 1))
    assert not local.has_embedding
    check_depends(local, probe, reference)
    assert local(probe, *reference).shape == (2,)
    with pytest.raises(AttributionError, match="choose --matcher cosine"):
        local.require_embedding("DeepLIFT explains the product of two embeddings")


def test_a_matcher_with_visibility_needs_an_occlusion_head(score: PairScore) -> None:
    matcher = LocalMatcher("qaconv+occlusion", QAConv(channels=512, height=7, width=7), True)
    with pytest.raises(AttributionError, match="occlusion head"):
        PairScore(score.backbone, matcher)


def test_the_norm_of_a_normalised_embedding_is_refused(score: PairScore) -> None:
    """The mistake behind "84 % uniform": the target was the length of a unit vector."""

    def norm_target(probe: Tensor, reference: Tensor) -> Tensor:
        return unit_embedding(score.backbone, probe).norm(dim=1)

    reference = score.reference(pixels(2, 1))
    check_depends(score, pixels(2), reference)
    with pytest.raises(ScoreError, match=r"does not depend on the probe.*length of an embedding"):
        check_depends(norm_target, pixels(2), reference)


def test_detached_and_reference_only_scores_are_refused(score: PairScore) -> None:
    reference = score.reference(pixels(1, 1))
    with pytest.raises(ScoreError, match="no gradient reaches the probe"):
        check_depends(lambda x, r: score(x.detach(), r), pixels(1), reference)
    weight = torch.ones(1, requires_grad=True)
    with pytest.raises(ScoreError, match="no gradient reaches the probe"):
        check_depends(lambda x, r: (r * weight).sum(1), pixels(1), reference)


def test_a_score_of_another_shape_is_refused(score: PairScore) -> None:
    with pytest.raises(ScoreError, match=r"\(2,\).*found shape \(\)"):
        check_depends(lambda x, r: score(x, r).sum(), pixels(2), score.reference(pixels(2, 1)))


def test_one_black_picture_does_not_condemn_a_score(score: PairScore) -> None:
    probe = pixels(2)
    probe[0] = 0
    check_depends(score, probe, score.reference(pixels(2, 1)))


@pytest.fixture(scope="module")
def made() -> PairScore:
    network = Network("mobilefacenet", settled("mobilefacenet"), "0" * 64)
    return pair_score(network, "cosine")


def test_a_quick_score_has_the_same_values_and_gradients(made: PairScore) -> None:
    probe, reference = pixels(3), made.reference(pixels(3, 1))
    assert made.quick is not made
    torch.testing.assert_close(made.quick.reference(pixels(3, 1)), reference)
    value, gradient = score_gradient(made, probe, reference)
    found, other = score_gradient(made.quick, probe, reference)
    torch.testing.assert_close(found, value)
    # Where an activation is all but 0, rounding decides on which side of its kink it lies: against
    # float64 either gradient is off by as much.
    apart = (other - gradient).flatten(1).norm(dim=1) / gradient.flatten(1).norm(dim=1)
    assert apart.max() < 0.05


def test_hooks_of_a_replica_are_its_own_and_weights_are_not(made: PairScore) -> None:
    other, seen = made.replica(), []
    other.backbone.register_forward_hook(lambda module, given, found: seen.append(module))
    made.describe(pixels(1))
    assert not seen
    other.describe(pixels(1))
    assert seen == [other.backbone]
    assert other.quick is made.quick
    for own, shared in zip(other.parameters(), made.parameters(), strict=True):
        assert own is shared
