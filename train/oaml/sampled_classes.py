"""A margin softmax over a sample of the classes: those of the batch and some others.

Source: An et al., "Partial FC: Training 10 Million Identities on a Single Machine", ICCVW 2021, and
"Killing Two Birds with One Stone", CVPR 2022. Each process holds a share of the class centres and
compares with them the faces of all processes; the softmax runs over the samples of all. Only
sampled centres are changed, by SGD with momentum.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from faceguide.train.distributed import gathered, largest, summed, world_size
from faceguide.train.models.margin_heads import MarginHead
from faceguide.train.oaml.class_centres import ClassCentres

MOMENTUM = 0.9


class Recognised(NamedTuple):
    """What recognition makes of a batch.

    Attributes:
        loss: () mean cross-entropy over the faces of all processes.
        accuracy: () share of those whose true class scores highest in the sample.
        per_image: (N,) cross-entropy of this process's faces, without gradient.
    """

    loss: Tensor
    accuracy: Tensor
    per_image: Tensor


def whole_softmax(logits: Tensor, labels: Tensor) -> Recognised:
    """The same for logits (N, classes) of all classes, over the faces of this process only."""
    losses = nn.functional.cross_entropy(logits, labels, reduction="none")
    accuracy = (logits.detach().argmax(1) == labels).float().mean()
    return Recognised(nn.functional.cross_entropy(logits, labels), accuracy, losses.detach())


class SampledClasses:
    """The head of `--sample-classes`.

    Args:
        head: AdaFace, ArcFace or CosFace without a kernel; its statistics are kept by the module
            that it belongs to.
        sample: share of the classes, or from 1 on their number. The classes of the batch come in
            whatever it is.
    """

    def __init__(
        self,
        head: MarginHead,
        centres: ClassCentres,
        sample: float,
        seed: int,
        weight_decay: float,
    ) -> None:
        self.head, self.centres, self._seed, self._decay = head, centres, seed, weight_decay
        part = sample if sample < 1 else min(1.0, sample / centres.classes)
        self.size = math.ceil(part * len(centres.mine))
        self._chosen, self._active = torch.empty(0, dtype=torch.int64), torch.empty(0)

    def __call__(self, unit: Tensor, norm: Tensor, labels: Tensor, step: int) -> Recognised:
        """Losses of a batch; `update` changes the centres after the backward pass.

        Args:
            unit: (N, E) embeddings of this process, of length 1.
            norm: (N, 1) of the raw ones.
            labels: (N,) classes.
            step: optimiser steps done, which the sample depends on.
        """
        with torch.autocast(unit.device.type, enabled=False):
            self.head.observe(norm)
            first, own = self.centres.mine.start, len(self.centres.mine)
            faces = _Everyone.apply(unit.float()) if world_size() > 1 else unit.float()
            norms, place = gathered(norm.float()), gathered(labels) - first
            rows = ((place >= 0) & (place < own)).nonzero()[:, 0]
            self._chosen = self._sample(place[rows].unique(), step)
            self._active = self.centres.weight[self._chosen].requires_grad_()
            limit = 1.0 - self.head.clearance
            centres = nn.functional.normalize(self._active, dim=1)
            cosine = (faces @ centres.T).clamp(-limit, limit)  # (world · N, sample)
            column = torch.searchsorted(self._chosen, place[rows])
            true = self.head.target_cosine(cosine[rows, column][:, None], norms[rows])
            logits = cosine.index_put((rows, column), true[:, 0]) * self.head.scale
            losses, hit = _CrossEntropy.apply(logits, rows, column)
        world, rank = world_size(), self.centres.processes.rank
        return Recognised(losses.mean(), hit.float().mean(), losses.detach()[rank::world])

    def _sample(self, needed: Tensor, step: int) -> Tensor:
        """(k,) increasing places among this process's classes: those needed, and others."""
        own = len(self.centres.mine)
        if self.size >= own:
            return torch.arange(own, device=needed.device)
        if len(needed) >= self.size:
            return needed
        generator = torch.Generator()
        key = np.random.SeedSequence([self._seed, step, self.centres.mine.start])
        generator.manual_seed(int(key.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        drawn = torch.rand(own, generator=generator).to(needed.device)
        drawn[needed] = 2.0
        return drawn.topk(self.size).indices.sort().values

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """A step of SGD for the centres of the last sample, as `torch.optim.SGD` makes it."""
        gradient, chosen = self._active.grad, self._chosen
        if gradient is None:
            return
        weight = self.centres.weight[chosen]
        speed = self.centres.momentum[chosen].mul_(MOMENTUM)
        speed += gradient.add_(weight, alpha=self._decay)
        self.centres.momentum[chosen] = speed
        self.centres.weight[chosen] = weight.sub_(speed, alpha=rate)
        self._active = torch.empty(0)


class _Everyone(torch.autograd.Function):
    """(N, E) of each process → (world · N, E) of all, as `gathered`, with gradients of all.

    The gradient is that of the sum over processes, times their number: data-parallel training
    takes the mean.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return gathered(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        world = world_size()
        return summed(gradients[0])[dist.get_rank() :: world] * world


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy of logits whose columns are shared out over the processes.

    forward takes (N, k) logits, and the rows whose true class is here with its columns; it gives
    (N,) losses, and (N,) bool, whether the true class has the highest logit.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        top = largest(logits.amax(1))
        above = logits - top[:, None]
        true = above.new_zeros(len(above))
        true[rows] = above[rows, column]
        true = summed(true)
        share = above.exp_()
        total = summed(share.sum(1))
        ctx.save_for_backward(share.div_(total[:, None]), rows, column)
        hit = true >= 0
        ctx.mark_non_differentiable(hit)
        return total.log() - true, hit

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        share, rows, column = ctx.saved_tensors
        found = share * gradients[0][:, None]
        found[rows, column] -= gradients[0][rows]
        return found, None, None
