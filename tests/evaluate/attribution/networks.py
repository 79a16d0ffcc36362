"""Networks with random weights whose statistics fit their activations, so that gradients flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from faceguide.train.models import create
from faceguide.train.models.input_spec import InputSpec


def settled(name: str, seed: int = 0, **arguments: Any) -> nn.Module:
    """A network in eval mode, BatchNorm statistics measured on noise, frozen."""
    torch.manual_seed(seed)
    return settle(create(name, **arguments), seed)


@torch.no_grad()
def settle(network: nn.Module, seed: int = 0) -> nn.Module:
    """Measure the BatchNorm statistics of any network with an input specification on noise."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
        elif isinstance(module, nn.PReLU):
            # Slopes differ per channel, as in trained networks.
            module.weight.copy_(torch.linspace(-0.3, 0.6, module.weight.numel()))
    size = network.input_spec.size
    for number in range(2):
        network(pixels(4, seed + number, size))
    return network.eval().requires_grad_(False)


def pixels(count: int, seed: int = 0, size: int = 112) -> Tensor:
    """(N, 3, S, S): smooth random pictures, about the range of prepared pixels."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 14, 14, generator=generator)
    return nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def assert_alike(found: Tensor, expected: Tensor, share: float = 1e-3) -> None:
    """Two maps differ by less than a share of the expected one's largest value."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= share * expected.abs().max()
    assert expected.abs().max() > 0


class Smooth(nn.Module):
    """A small network without kinks on 28×28 pictures, gentle enough for quadrature."""

    input_spec = InputSpec(28, "RGB", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.conv1 = nn.Conv2d(3, 6, 5, stride=2, padding=2)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8 * 49, 16)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.tanh(self.conv2(torch.tanh(self.conv1(images))))
        return torch.tanh(self.fc(hidden.flatten(1)))
