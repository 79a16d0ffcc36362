"""The four loss terms of CAL and its feature centres.

Source: Rao et al., ICCV 2021, with the weights of the published code; the centres are Hu et al.,
"See Better Before Looking Closer", 2019, equation 6.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.train.distributed import gathered
from faceguide.train.models.cal_network import CalOutput

RAW_WEIGHT, EFFECT_WEIGHT, VIEWS_WEIGHT = 1.0 / 3.0, 1.0, 2.0 / 3.0
CENTRE_RATE = 0.05


def recognition_losses(
    raw: CalOutput, views: CalOutput | None, labels: Tensor
) -> dict[str, Tensor]:
    """Cross-entropies of one step, not yet weighted.

    Args:
        raw: of the whole images, (N, classes).
        views: of the cropped and then the dropped images, (2N, classes), or None.
        labels: (N,) int64 classes.

    Returns:
        `raw` and `views`, of the logits; `effect`, of the effects of all passes.
    """
    cross_entropy = nn.functional.cross_entropy
    losses = {"raw": cross_entropy(raw.logits.float(), labels)}
    if views is None:
        losses["effect"] = cross_entropy(raw.effect.float(), labels)
        return losses
    effects = torch.cat([raw.effect, views.effect]).float()
    losses["effect"] = cross_entropy(effects, labels.repeat(3))
    losses["views"] = cross_entropy(views.logits.float(), labels.repeat(2))
    return losses


def recognition_total(losses: dict[str, Tensor]) -> Tensor:
    """raw / 3 + effect + 2/3 views."""
    total = RAW_WEIGHT * losses["raw"] + EFFECT_WEIGHT * losses["effect"]
    return total + VIEWS_WEIGHT * losses["views"] if "views" in losses else total


def centre_loss(features: Tensor, centres: Tensor, labels: Tensor) -> Tensor:
    """Σ (f − n)² / N with n the centre of each image's class, scaled to length 1.

    Args:
        features: (N, D) of length 1.
        centres: (classes, D); rows of zeros stay zeros.
        labels: (N,) int64.
    """
    wanted = nn.functional.normalize(centres[labels], dim=1)
    return (features.float() - wanted).square().sum() / len(features)


@torch.no_grad()
def update_centres(features: Tensor, centres: Tensor, labels: Tensor) -> None:
    """centre[y] += 0.05 · (f − n), in place, by the images of all processes.

    As published, n is the centre scaled to length 1, and of several images of one class in a
    batch only the last one counts.
    """
    features, labels = gathered(features.detach().float()), gathered(labels)
    step = CENTRE_RATE * (features - nn.functional.normalize(centres[labels], dim=1))
    # Indexed assignment would leave the winner to chance on a GPU.
    repeated = (labels[:, None] == labels[None]).triu(1).any(1)
    centres.index_add_(0, labels, step * (~repeated)[:, None])
