"""A network so shallow that its gradients are small and alike on every processor."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from faceguide.train.models.input_spec import MOBILEFACENET_INPUT


class Small(nn.Module):
    """Two convolutions to the 14×14 and the 7×7 map, and a linear layer."""

    input_spec = MOBILEFACENET_INPUT
    map_layers = {7: "deep", 14: "shallow"}  # noqa: RUF012 (a constant of the class)

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.BatchNorm2d(16), nn.PReLU(16))
        self.deep = nn.Sequential(nn.Conv2d(16, 32, 2, 2), nn.BatchNorm2d(32), nn.PReLU(32))
        self.out = nn.Linear(32 * 49, 32)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, 112, 112) → raw embeddings (N, 32)."""
        embedding: Tensor = self.out(self.deep(self.shallow(images)).flatten(1))
        return embedding


def build(weights: Path | None) -> nn.Module:
    """For `--backbone tests.train.small_network:build`."""
    return Small()
