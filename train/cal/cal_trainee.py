"""All that `train cal` trains, or keeps with the weights, as one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.train.models.cal_network import WSDANCAL, CalParts


class PriorNetwork(nn.Module):
    """Method 4: a heatmap becomes one prior for each of M heads: 1 → 64 → 128 → M, sigmoid.

    Two 3×3 convolutions and a 1×1, at the size of the attention map.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 128, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(128, heads, 1),
            nn.Sigmoid(),
        )

    def forward(self, heatmap: Tensor) -> Tensor:
        """(N, 1, h, w) in [0, 1] → (N, M, h, w) in (0, 1)."""
        prior: Tensor = self.layers(heatmap)
        return prior


class Trainee(nn.Module):
    """All that is trained or kept with the weights: the model, the prior's network, the centres.

    Args:
        classes: (labels,) int64, label of the cache → class, −1 where it is not trained.
        prior: with the network of guidance method 4.
    """

    classes: Tensor
    centres: Tensor

    def __init__(
        self, model: WSDANCAL, classes: Tensor, *, prior: bool = False, freeze_norm: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.heads = model.attentions.conv.out_channels
        self.prior = PriorNetwork(self.heads) if prior else None
        self.freeze_norm = freeze_norm
        self.register_buffer("classes", classes)
        self.register_buffer("centres", torch.zeros_like(model.fc.weight))

    def train(self, mode: bool = True) -> Trainee:
        """Training mode, but for BatchNorm when it is frozen."""
        super().train(mode)
        if self.freeze_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(
        self,
        pixels: Tensor,
        fake: Tensor,
        draws: Tensor,
        heatmap: Tensor | None = None,
        share: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """One pass.

        Args:
            pixels: (N, 3, H, W).
            fake: (N, M, h, w) counterfactual attention.
            draws: (N, 2) uniform, which maps crop and drop look at.
            heatmap: (N, 1, h, w) for the prior.
            share: (N, 1, 1, 1) weight of each image's prior.

        Returns:
            logits, effect, features, shown attention, all M maps; see `CalParts`. A flat tuple:
            data-parallel wrappers and compilers keep it as it is.
        """
        prior = None
        if self.prior is not None and heatmap is not None:
            prior = self.prior(heatmap)
        parts = self.model(
            pixels,
            fake_attention=fake,
            draws=draws,
            prior=prior,
            prior_share=0.0 if share is None else share,
            parts=True,
        )
        assert isinstance(parts, CalParts)
        return (*parts.output, parts.maps)


@torch.no_grad()
def map_side(model: WSDANCAL, crop_side: int) -> int:
    """Side of the attention map for images of `crop_side` pixels."""
    modes = {module: module.training for module in model.modules()}
    device = model.fc.weight.device
    parts = model.eval()(torch.zeros(1, 3, crop_side, crop_side, device=device), parts=True)
    for module, training in modes.items():  # `train` would wake a frozen BatchNorm
        module.training = training
    assert isinstance(parts, CalParts)
    return parts.maps.shape[2]
