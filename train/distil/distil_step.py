"""What one step of `train distil` does.

The released network answers the unaltered face; the network that is trained learns to give the
same answer to the altered one. With z the terms of the cells (mean taken off), v the visible cells,
e the raw embedding, capitals for the released network on the unaltered face:

    covered    (1 − cos(Σ v z, Σ v Z)) + ½ (1 − cos(Σ z, Σ Z))
    unaltered  2 (1 − cos(Σ z, Σ Z)) + (1 − cos(Σ v z, Σ v Z)), v of a cover drawn for the face
    swapped    w [(1 − cos(e, E)) + ½ n mean((S − T)²)]

S and T are cosines among the n swapped and unaltered faces of the batch: of each e with every E,
and of every E with every E.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from faceguide.train.training import Batch, Forward, Losses

# What two ways of adding the same numbers may differ by; it must not train, as Adam enlarges any
# gradient to steps of the learning rate. Of 1 − cosine, and of a squared difference of cosines.
_ROUNDING, _ROUNDING_SQUARED = 1e-6, 1e-8


def apart(found: Tensor, wanted: Tensor) -> Tensor:
    """1 − cosine of each row, 0 where it is rounding: (N, E) twice → (N,)."""
    difference = nn.functional.normalize(found, dim=1) - nn.functional.normalize(wanted, dim=1)
    return torch.relu(0.5 * difference.square().sum(1) - _ROUNDING)


@dataclass(frozen=True)
class DistilStep:
    """The step of `train distil`, called by the loop.

    Attributes:
        counts: covered, swapped and unaltered faces, in this order in a batch.
        surround_weight: w.
    """

    counts: tuple[int, int, int]
    surround_weight: float

    def __call__(self, forward: Forward, batch: Batch) -> Losses:
        raw, terms = forward(
            batch["maps"], **{name: batch[name] for name in ("keypoints",) if name in batch}
        )
        whole = apart(terms.sum(1), batch["whole"])
        part = torch.zeros_like(whole)
        if "part" in batch:
            part = apart(torch.einsum("ns,nse->ne", batch["seen"], terms), batch["part"])
        covered, swapped, clean = self.counts
        losses = {"clean": (2 * whole + part)[covered + swapped :].mean()}
        per_image = whole + part
        total = losses["clean"]
        if covered:
            losses["covered"] = (part + 0.5 * whole)[:covered].mean()
            total = total + losses["covered"]
        if swapped:
            alone = apart(raw[covered : covered + swapped], batch["raw"][covered:][:swapped])
            together = _among(raw[covered:], batch["raw"][covered:])
            losses["swapped"] = alone.mean() + 0.5 * (swapped + clean) * together
            total = total + self.surround_weight * losses["swapped"]
        return {"loss": total, "per_image": per_image, **losses}


def _among(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference of two matrices of cosines, (n, E) twice → ()."""
    unit, target = (nn.functional.normalize(one, dim=1) for one in (found, wanted))
    difference = unit @ target.T - target @ target.T
    return torch.relu(difference.square() - _ROUNDING_SQUARED).mean()
