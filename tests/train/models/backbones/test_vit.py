"""The vision transformer and what its attention shows; its numbers: test_networks_of_others."""

from __future__ import annotations

import pytest
import torch

from faceguide.core.errors import ModelError
from faceguide.train.models.backbones.vit import ViT


@pytest.fixture(scope="module")
def network() -> ViT:
    torch.manual_seed(0)
    return ViT(width=24, depth=2, heads=3, patch=16, embedding_size=16).eval()


def images(count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, 112, 112, generator=torch.Generator().manual_seed(0))


def test_shapes_and_lengths(network: ViT) -> None:
    with torch.no_grad():
        found = network.forward_all(images())
        raw = network.raw_embedding(images())
    assert found.embedding.shape == (2, 16)
    assert found.feature_map.shape == (2, 24, 7, 7)
    torch.testing.assert_close(found.embedding.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(found.embedding * found.norm, raw)


@pytest.mark.parametrize("keypoints", [False, True])
def test_attention_matrices_are_distributions_and_fused_attention_agrees(keypoints: bool) -> None:
    torch.manual_seed(0)
    network = ViT(width=24, depth=2, heads=3, patch=9, keypoints=keypoints).eval()
    beside = {"keypoints": torch.rand(2, 5, 2)} if keypoints else {}
    with torch.no_grad():
        raw, matrices = network.attention_matrices(images(), **beside)
        fused = network.raw_embedding(images(), **beside)
    assert len(matrices) == 2
    for matrix in matrices:
        assert matrix.shape == (2, 3, 144, 144)
        torch.testing.assert_close(matrix.sum(3), torch.ones(2, 3, 144))
    torch.testing.assert_close(raw, fused)


def test_patches_keep_their_place(network: ViT) -> None:
    """A change of one patch moves that token most before the blocks mix them."""
    changed = images(1)
    changed[..., 32:48, 64:80] += 1
    with torch.no_grad():
        move = network.patch_embed(changed) - network.patch_embed(images(1))
    assert move.abs().sum((0, 1)).nonzero().tolist() == [[2, 4]]


def test_refusals(network: ViT) -> None:
    with pytest.raises(ModelError, match=r"expects images of \(N, 3, 112, 112\)"):
        network(torch.zeros(1, 3, 96, 96))
    with pytest.raises(ModelError, match="has maps of side"):
        network.forward_all(images(), 14)
    with pytest.raises(ModelError, match="heads must divide the width"):
        ViT(width=10, depth=1, heads=3)
