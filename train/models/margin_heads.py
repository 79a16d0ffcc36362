"""Margin heads for identity classification: AdaFace, ArcFace and CosFace.

Every head takes the unit embedding, its norm and the label, and returns logits for plain cross
entropy. The margin touches the entry of the true class only; everything is float32, also
under autocast, since an angle near 0 has no precision in half floats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn

from faceguide.core.errors import ModelError


class MarginHead(nn.Module):
    """Cosines to one column of `kernel` per class, with the true class's entry replaced.

    Args:
        margin: of the class that says more.
        scale: factor of the cosines.
    """

    kernel: nn.Parameter | None  # None where the centres lie elsewhere
    clearance = 1e-4  # cosines are kept this far from ±1, where the angle has no gradient

    def __init__(
        self,
        num_classes: int,
        embedding_size: int = 512,
        margin: float = 0.4,
        scale: float = 64.0,
    ) -> None:
        super().__init__()
        if num_classes < 1 or embedding_size < 1:
            raise ModelError(
                "num_classes and embedding_size must be at least 1, "
                f"found {num_classes} and {embedding_size}"
            )
        self.margin, self.scale = margin, scale
        kernel = torch.empty(embedding_size, num_classes).uniform_(-1.0, 1.0)
        self.kernel = nn.Parameter(nn.functional.normalize(kernel, dim=0))

    def observe(self, norm: Tensor) -> None:
        """Take the norms of a batch, (N, 1), into the statistics of a head that has some."""
        return

    def target_cosine(self, cosine: Tensor, norm: Tensor) -> Tensor:
        """(N, 1) cosine to the true class and (N, 1) norm → the entry that replaces it, (N, 1)."""
        raise NotImplementedError(f"{type(self).__name__} does not define target_cosine")

    def forward(self, unit_embedding: Tensor, norm: Tensor, label: Tensor) -> Tensor:
        """Logits with the margin on the true class.

        Args:
            unit_embedding: (N, E) of length 1.
            norm: (N, 1) length of the raw embedding.
            label: (N,) int64, 0 to classes − 1.

        Returns:
            (N, classes) float32.
        """
        with torch.autocast(unit_embedding.device.type, enabled=False):
            self.observe(norm)
            if self.kernel is None:
                raise ModelError("a head without a kernel gives no logits")
            weight = nn.functional.normalize(self.kernel.float(), dim=0)
            limit = 1.0 - self.clearance
            cosine = (unit_embedding.float() @ weight).clamp(-limit, limit)
            column = label.reshape(-1, 1)
            target = self.target_cosine(cosine.gather(1, column), norm.float().reshape(-1, 1))
            return cosine.scatter(1, column, target) * self.scale


class AdaFace(MarginHead):
    """Margin by image quality, with the embedding norm as its measure.

    Source: Kim et al., "AdaFace: Quality Adaptive Margin for Face Recognition", CVPR 2022,
    equations 8 to 11. The moving mean and deviation of the norms change in training only, take
    the batches of all ranks together, and stay as they are for a batch of a single image, whose
    deviation is not defined.

    Args:
        margin: m, as an angle and as a cosine.
        h: how many deviations of the norm span the whole range of the margin.
        t_alpha: weight of the present batch in the moving mean and deviation, 0 to 1.
    """

    clearance = 1e-3
    batch_mean: Tensor
    batch_std: Tensor

    def __init__(
        self,
        num_classes: int,
        embedding_size: int = 512,
        margin: float = 0.4,
        h: float = 0.333,
        scale: float = 64.0,
        t_alpha: float = 0.01,
    ) -> None:
        super().__init__(num_classes, embedding_size, margin, scale)
        self.h, self.t_alpha = h, t_alpha
        self.register_buffer("t", torch.zeros(1))  # unused; released checkpoints hold it
        self.register_buffer("batch_mean", torch.full((1,), 20.0))
        self.register_buffer("batch_std", torch.full((1,), 100.0))

    @torch.no_grad()
    def observe(self, norm: Tensor) -> None:
        """Move the mean and the deviation, in training only."""
        if not self.training:
            return
        # Three sums describe the batches of all ranks; float64 keeps their difference exact.
        values = norm.float().clamp(0.001, 100.0).double()
        sums = torch.stack([torch.ones_like(values).sum(), values.sum(), values.square().sum()])
        if distributed.is_initialized():
            distributed.all_reduce(sums)
        count, total, squares = sums.unbind()
        mean = total / count
        variance = (squares - count * mean.square()).clamp_min(0.0) / (count - 1.0)
        # By torch.where, not by an if: the count of all ranks is known on the device only.
        share = torch.where(count > 1.5, self.t_alpha, 0.0)
        std = torch.where(count > 1.5, variance, 0.0).sqrt()
        self.batch_mean.copy_(share * mean + (1.0 - share) * self.batch_mean)
        self.batch_std.copy_(share * std + (1.0 - share) * self.batch_std)

    def target_cosine(self, cosine: Tensor, norm: Tensor) -> Tensor:
        safe_norm = norm.detach().clamp(0.001, 100.0)
        quality = (safe_norm - self.batch_mean) / (self.batch_std + self.clearance) * self.h
        quality = quality.clamp(-1.0, 1.0)
        angle = cosine.acos() - self.margin * quality
        angle = angle.clamp(self.clearance, math.pi - self.clearance)
        return angle.cos() - (self.margin + self.margin * quality)


class ArcFace(MarginHead):
    """A fixed margin, in radians, on the angle. Source: Deng et al., CVPR 2019, equation 3."""

    def __init__(
        self,
        num_classes: int,
        embedding_size: int = 512,
        margin: float = 0.5,
        scale: float = 64.0,
    ) -> None:
        super().__init__(num_classes, embedding_size, margin, scale)

    def target_cosine(self, cosine: Tensor, norm: Tensor) -> Tensor:
        angle = cosine.acos() + self.margin
        return angle.clamp(self.clearance, math.pi - self.clearance).cos()


class CosFace(MarginHead):
    """A fixed margin taken from the cosine. Source: Wang et al., CVPR 2018, equation 4."""

    def target_cosine(self, cosine: Tensor, norm: Tensor) -> Tensor:
        return cosine - self.margin
