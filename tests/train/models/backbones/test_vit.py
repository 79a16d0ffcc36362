"""The small vision transformer."""

from __future__ import annotations

import pytest
import torch

from faceguide.core.errors import ModelError
from faceguide.train.models.backbones.vit import ViT


@pytest.fixture(scope="module")
def network() -> ViT:
    torch.manual_seed(0)
    return ViT(width=24, depth=2, heads=3, embedding_size=16).eval()


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


def test_default_size_is_deit_tiny() -> None:
    """12 blocks of width 192 (12 · 444,864), patches, positions, norm and a 512-number head."""
    block = (
        2 * 2 * 192 + (192 * 576 + 576) + (192 * 192 + 192) + (192 * 768 + 768 + 768 * 192 + 192)
    )
    expected = 12 * block + (768 * 192 + 192) + 49 * 192 + 2 * 192 + (192 * 512 + 512)
    assert sum(p.numel() for p in ViT().parameters()) == expected


def test_attention_matrices_are_distributions_and_fused_attention_agrees(network: ViT) -> None:
    with torch.no_grad():
        _, matrices = network.attention_matrices(images())
        block = network.blocks[0]
        tokens = network.patch_embed(images()).flatten(2).transpose(1, 2) + network.pos_embed
        x = block.norm1(tokens)
        q, k, v = (
            part.unflatten(2, (3, -1)).transpose(1, 2) for part in block.attn.qkv(x).chunk(3, 2)
        )
        fused = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        mixed, _ = block.attn(x)
    assert len(matrices) == 2
    for matrix in matrices:
        assert matrix.shape == (2, 3, 49, 49)
        torch.testing.assert_close(matrix.sum(3), torch.ones(2, 3, 49))
    torch.testing.assert_close(mixed, block.attn.proj(fused.transpose(1, 2).flatten(2)))


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
        ViT(width=10, heads=3)
