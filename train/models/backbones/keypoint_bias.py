"""KP-RPE: relative positions in attention that depend on where five landmarks of the face lie.

Source: Kim et al., "KeyPoint Relative Position Encoding for Face Recognition", CVPR 2024. Each
query token tells, by a linear layer on its offsets to the landmarks, what a key in each of 7×7
directions and distances is worth to it, in every head of every block.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

CLASSES = 7  # of an offset along one axis


def offsets(side: int) -> Tensor:
    """(T, T) int64 class of each query's offset to each key, of side × side tokens row by row.

    Offsets of 0, ±1, ±2 to ±3, and beyond, are the classes 0, ±1, ±2, ±3 along an axis.
    """
    place = torch.arange(side)
    apart = place[:, None] - place[None]  # (s, s) query − key
    near = apart.abs()
    kind = apart.sign() * ((near > 0).int() + (near > 1) + (near > 3)) + CLASSES // 2
    rows, columns = kind[:, None, :, None], kind[None, :, None, :]
    return (CLASSES * rows + columns).reshape(side * side, side * side).long()


def keypoint_bias(
    keypoints: Tensor, weight: Tensor, bias: Tensor, depth: int, side: int
) -> Collection[Tensor]:
    """What each class of offsets adds to the logits, per block.

    Args:
        keypoints: (N, 5, 2) x and y in 0…1 of the crop.
        weight: (depth · heads · 49, 10).
        bias: (depth · heads · 49,).

    Returns:
        `depth` tensors of (N, heads, T, 49).
    """
    place = (torch.arange(side, device=keypoints.device) + 0.5) / side
    grid = torch.stack(torch.meshgrid(place, place, indexing="xy"), dim=-1).reshape(1, -1, 1, 2)
    relative = (grid.to(keypoints) - keypoints[:, None]).flatten(2)  # (N, T, 10)
    told = torch.nn.functional.linear(relative, weight, bias)
    # (N, T, depth·heads·49) -> depth of (N, heads, T, 49)
    return told.unflatten(2, (depth, -1, CLASSES**2)).permute(2, 0, 3, 1, 4).unbind(0)
