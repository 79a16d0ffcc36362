"""The five methods: values by hand and slopes by finite differences."""

from __future__ import annotations

import pytest
import torch

from faceguide.train.cal import guidance_losses as losses
from faceguide.train.cal.cal_trainee import PriorNetwork


def example() -> tuple[torch.Tensor, torch.Tensor]:
    """One image, one head on 2×2 cells; the mask covers the first cell and half the second."""
    attention = torch.tensor([[[[3.0, 1.0], [4.0, 2.0]]]])
    mask = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    return attention, mask


def random_maps(heads: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    attention = torch.rand(3, heads, 4, 4, generator=generator, dtype=torch.float64) + 0.1
    regions = torch.rand(3, 3, 4, 4, generator=generator, dtype=torch.float64) / 3
    return attention, regions


def test_energy_share_by_hand() -> None:
    attention, mask = example()
    assert losses.energy_share(attention, mask).item() == pytest.approx(3.5 / 10)


def test_a_dead_map_has_no_energy_anywhere() -> None:
    share = losses.energy_share(torch.zeros(1, 2, 2, 2), torch.ones(1, 1, 2, 2))
    assert share.tolist() == [[0.0, 0.0]]


def test_landmark_loss_by_hand() -> None:
    attention, mask = example()
    assert losses.landmark_loss(attention, mask).item() == pytest.approx(-0.35 + 0.5 * 0.65)


def test_the_landmark_loss_ignores_the_scale_of_attention() -> None:
    attention, mask = example()
    values = [losses.landmark_loss(k * attention, mask).item() for k in (1.0, 10.0, 100.0)]
    assert values == pytest.approx([values[0]] * 3)


def test_region_loss_by_hand() -> None:
    """Head 0 has eyes with s = .35, heads 1 and 2 mouth with s = 1 and 0; nobody has the nose."""
    attention = torch.zeros(1, 4, 2, 2)
    attention[0, 0] = torch.tensor([[3.0, 1.0], [4.0, 2.0]])
    attention[0, 1, 1, 1] = 5.0
    attention[0, 2, 0, 0] = 5.0
    attention[0, 3] = 7.0  # free
    regions = torch.zeros(1, 3, 2, 2)
    regions[0, 0] = torch.tensor([[1.0, 0.5], [0.0, 0.0]])
    regions[0, 2, 1, 1] = 1.0
    value = losses.region_loss(attention, regions, (1, 0, 2)).item()
    eyes, mouth = 0.3 - 1.3 * 0.35, 0.3 - 1.3 * 0.5
    assert value == pytest.approx((eyes + mouth) / 2)


def test_a_region_that_is_cut_off_is_left_out() -> None:
    attention, regions = random_maps()
    regions[0, 0] = 0.0
    regions[1] = 0.0
    values = losses.region_loss(attention, regions, (2, 2, 2))
    rest = losses.region_loss(attention[:, 2:], regions[:, 1:], (2, 2))
    assert values[0].item() == pytest.approx(rest[0].item())
    assert values[1].item() == 0.0


def test_default_assignment_is_the_published_one() -> None:
    assert losses.default_assignment(32) == (12, 8, 8)
    assert losses.default_assignment(16) == (6, 4, 4)


def test_fake_attention_keeps_its_ranges() -> None:
    uniform = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(3, 1, 8, 8)
    mask[:, :, 2:4], mask[:, :, 4] = 1.0, 0.5
    fake = losses.fake_attention(uniform, mask, torch.tensor([True, False, True]))
    inside, half, outside = fake[0, :, 2:4], fake[0, :, 4], fake[0, :, 5:]
    assert 0 <= inside.min() < 0.05
    assert 0.25 < inside.max() < 0.3
    assert 0.25 <= half.min() < 0.4  # halfway between U(0, 0.3) and U(0.5, 1.5)
    assert 0.75 < half.max() < 0.9
    assert 0.5 <= outside.min() < 0.6
    assert 1.4 < outside.max() < 1.5
    torch.testing.assert_close(fake[1], 2.0 * uniform[1])
    torch.testing.assert_close(losses.fake_attention(uniform, None, None), 2.0 * uniform)


def test_prior_share_falls_to_zero() -> None:
    shares = [losses.prior_share(0.3, step, 10) for step in (0, 5, 10, 11)]
    assert shares == pytest.approx([0.3, 0.15, 0.0, 0.0])


def test_prior_network_has_the_published_widths() -> None:
    network = PriorNetwork(16)
    widths = [m.out_channels for m in network.layers if isinstance(m, torch.nn.Conv2d)]
    assert widths == [64, 128, 16]
    prior = network(torch.rand(2, 1, 14, 14))
    assert prior.shape == (2, 16, 14, 14)
    assert 0 < prior.min() <= prior.max() < 1


def test_contrastive_loss_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    attract, repel = losses.contrastive_loss(
        vectors, same, torch.ones(3, 3, dtype=torch.bool).triu(1)
    )
    assert attract.item() == pytest.approx(1 - 0.6)
    assert repel.item() == pytest.approx(((0.8 - 0.5) + (0.96 - 0.5)) / 2)


def test_contrastive_loss_without_pairs_is_zero() -> None:
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    assert [v.item() for v in losses.contrastive_loss(torch.ones(2, 3), nothing, nothing)] == [0, 0]


def test_each_image_uses_its_own_landmarks() -> None:
    attention = torch.ones(2, 1, 2, 2)
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]], [[[0.0, 0.0], [0.0, 1.0]]]])
    vectors = losses.landmark_vectors(attention, mask)
    assert (vectors[0] @ vectors[1]).item() == 0.0
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_cosines_keep_their_digits_under_autocast() -> None:
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.02], [1.0, 0.0]]), dim=1)
    pair = torch.ones(2, 2, dtype=torch.bool).triu(1)
    expected, _ = losses.contrastive_loss(vectors, pair, pair)
    assert expected.item() == pytest.approx(2e-4, rel=1e-2)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = losses.contrastive_loss(vectors, pair, pair)
    assert torch.equal(found, expected)


METHODS = {
    "loss": lambda a, r: losses.landmark_loss(a, losses.union(r)).sum(),
    "regions": lambda a, r: losses.region_loss(a, r, (3, 2, 2)).sum(),
    "regions-log": lambda a, r: losses.region_log_loss(a, r, (3, 2, 2)).sum(),
    "contrastive": lambda a, r: sum(
        losses.contrastive_loss(
            losses.landmark_vectors(a, losses.union(r)),
            torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool),
            torch.ones(3, 3, dtype=torch.bool).triu(1),
        )
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_slopes_agree_with_finite_differences(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attention, regions = random_maps()
    attention.requires_grad_()
    # The losses compute in float32 on purpose; finite differences need more digits.
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    assert torch.autograd.gradcheck(METHODS[method], (attention, regions))


def test_prior_network_slopes() -> None:
    network = PriorNetwork(2).double()
    heatmap = torch.rand(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(network, (heatmap,))
