"""From prepared pixels to embeddings, whatever the network is: training and evaluation share it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.models.cal_network import WSDANCAL


def embed(
    backbone: nn.Module, pixels: Tensor, map_side: int | None = None, **beside: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """One forward pass.

    Args:
        backbone: a face backbone, one of a user's own, or a CAL network, whose attention-pooled
            features count as embedding, of norm 1.
        pixels: (N, 3, S, S), as the network's `input_spec` prepares them.
        map_side: give the feature map of this side too, where the network has it.
        beside: what a face backbone needs besides pixels, see `FaceBackbone`.

    Returns:
        (N, E) float32 embeddings of length 1, (N, 1) float32 norms, and the (N, C, side, side) map
        or None.
    """
    if isinstance(backbone, WSDANCAL):
        features = backbone(pixels).features.float()
        return features, torch.ones_like(features[:, :1]), None
    if isinstance(backbone, FaceBackbone) and map_side in backbone.map_channels:
        found = backbone.forward_all(pixels, map_side, **beside)
        return found.embedding.float(), found.norm.float(), found.feature_map
    embedding, norm = backbone(pixels, **beside)
    return embedding.float(), norm.float(), None
