"""Attention rollout of vision transformers.

Rollout (Abnar and Zuidema, 2020) multiplies the attention of all blocks and does not know the
reference: one image has one map in every pair. Gradient rollout (Chefer et al., 2021) weighs each
head's attention by the gradient of the pair's score, and does.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.attribution_options import Settings
from faceguide.evaluate.attribution.methods.maps import Batch, Maps, on_crop
from faceguide.evaluate.attribution.methods.target import PairScore


def _attention(score: PairScore, batch: Batch) -> tuple[Tensor, list[Tensor], Any]:
    """Scores with their graph, the matrices of all blocks (N, heads, T, T), and the probe."""
    matrices_of = getattr(score.backbone, "attention_matrices", None)
    if not callable(matrices_of) or not score.has_embedding:
        raise AttributionError(
            f"{type(score.backbone).__name__} with --matcher {score.matcher.name} has no "
            "attention matrices; rollout needs a vision transformer (vit_*, cvlface_*) and cosine"
        )
    leaf = batch.probe.detach().requires_grad_(True)
    with torch.enable_grad():
        named = dict(zip(("keypoints",), score.beside(batch.reference), strict=False))
        raw, matrices = matrices_of(leaf, **named)
        unit = torch.nn.functional.normalize(raw.float(), dim=1)
        return (unit * batch.reference[0]).sum(1), matrices, leaf


def _grid(weights: Tensor) -> Tensor:
    """(N, T) weights of the patches → (N, √T, √T)."""
    side = math.isqrt(weights.shape[1])
    if side * side != weights.shape[1]:
        raise AttributionError(f"expected a square number of patches, found {weights.shape[1]}")
    return weights.unflatten(1, (side, side))


def attention_rollout(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """Π_l (½ mean over heads + ½ I), rows normalised, averaged over the tokens that are pooled."""
    _, matrices, _ = _attention(score, batch)
    identity = torch.eye(matrices[0].shape[-1], device=batch.probe.device)
    joint = identity.expand(len(batch.probe), -1, -1)
    for matrix in matrices:
        mixed = (matrix.detach().mean(1) + identity) / 2
        joint = (mixed / mixed.sum(2, keepdim=True)) @ joint
    return Maps(on_crop(_grid(joint.mean(1)), score))


def gradient_rollout(score: PairScore, batch: Batch, settings: Settings) -> Maps:
    """R ← R + mean over heads (∂s/∂A ⊙ A)⁺ · R over the blocks, without the identity at the end."""
    value, matrices, _ = _attention(score, batch)
    gradients = torch.autograd.grad(value.sum(), matrices)
    identity = torch.eye(matrices[0].shape[-1], device=batch.probe.device)
    joint = identity.expand(len(batch.probe), -1, -1)
    for matrix, gradient in zip(matrices, gradients, strict=True):
        joint = joint + (matrix.detach() * gradient).clamp_min(0).mean(1) @ joint
    # The identity says that every patch saw itself, whatever the score.
    return Maps(on_crop(_grid((joint - identity).mean(1)), score))
