"""The occlusion head: shapes, range, keys, and that it can learn where a cell is dark."""

from __future__ import annotations

import pytest
import torch

from faceguide.train.models import ModelError, create


@pytest.mark.parametrize(("channels", "side"), [(512, 7), (256, 14), (128, 14)])
def test_one_share_per_cell(channels: int, side: int) -> None:
    head = create("occlusion_head", channels=channels)
    seen = head(torch.randn(2, channels, side, side))
    assert seen.shape == (2, 1, side, side)
    assert 0 < seen.min() <= seen.max() < 1
    assert set(head.state_dict()) == {
        "conv1.weight",
        "conv2.weight",
        "conv2.bias",
        *(f"bn1.{key}" for key in ("weight", "bias", "running_mean", "running_var")),
        "bn1.num_batches_tracked",
    }
    assert head.conv1.weight.shape == (128, channels, 3, 3)


def test_it_learns_which_cells_are_hidden() -> None:
    torch.manual_seed(0)
    head = create("occlusion_head", channels=8)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        seen = (torch.rand(16, 1, 7, 7) < 0.5).float()
        features = torch.randn(16, 8, 7, 7)
        features[:, :1] += 2 * seen
        loss = torch.nn.functional.mse_loss(head(features), seen)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 < 0.2 < losses[0]


def test_other_maps_are_refused() -> None:
    with pytest.raises(ModelError, match=r"\(N, 512, h, w\), found \(1, 8, 7, 7\)"):
        create("occlusion_head")(torch.zeros(1, 8, 7, 7))
