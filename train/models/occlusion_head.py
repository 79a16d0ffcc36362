"""How much of each map cell can be seen, from the features of that cell and its neighbours."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError


class OcclusionHead(nn.Module):
    """3×3 convolution to 128 channels, BatchNorm, ReLU, 1×1 convolution, sigmoid."""

    def __init__(self, channels: int = 512) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 128, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 1, 1)
        self.channels = channels

    def logits(self, feature_map: Tensor) -> Tensor:
        """(N, C, h, w) → (N, 1, h, w) before the sigmoid."""
        if feature_map.ndim != 4 or feature_map.shape[1] != self.channels:
            raise ModelError(
                f"the occlusion head expects a map of (N, {self.channels}, h, w), "
                f"found {tuple(feature_map.shape)}"
            )
        y: Tensor = self.conv2(torch.relu(self.bn1(self.conv1(feature_map))))
        return y

    def forward(self, feature_map: Tensor) -> Tensor:
        """(N, C, h, w), 7×7 or 14×14 → visibility (N, 1, h, w): 1 = visible, 0 = occluded."""
        return torch.sigmoid(self.logits(feature_map))
