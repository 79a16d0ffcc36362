"""What attention does while it is trained, as numbers, and a warning when it has collapsed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.cache.schema import REGIONS
from faceguide.train.cal.attention_guidance import Cells
from faceguide.train.cal.guidance_losses import energy_share

# Plain CAL stays near .28 and .70; a prototype's collapsed runs were beyond these.
COLLAPSED_COSINE, COLLAPSED_ENTROPY = 0.6, 0.3
_SOLID = 1e-6


@torch.no_grad()
def watch(maps: Tensor, cells: Cells | None, assignment: tuple[int, ...]) -> dict[str, Tensor]:
    """What attention does: its mean, entropy, likeness of heads, and energy in each region.

    Args:
        maps: (N, M, h, w) attention.
        cells: the targets, or None.
        assignment: heads of each region, for the lift.

    Returns:
        `attention_mean`; `attention_entropy`, 0 (one cell) to 1 (everywhere alike), mean over
        maps; `head_cosine`, mean over pairs of heads; and, over images with known landmarks,
        `energy_REGION`, `energy_oval` where it guides, and `energy_inside`, shares of all
        maps' energy, `lift_REGION`, the share of the region's own heads divided by the region's
        share of the area.
    """
    maps = maps.float()
    flat = maps.flatten(2)  # (N, M, S)
    sums = flat.sum(2, keepdim=True)
    live = (sums[..., 0] > _SOLID).float()
    shares = flat / sums.clamp_min(_SOLID)
    entropy = -(shares * shares.clamp_min(1e-12).log()).sum(2)
    entropy = entropy / torch.log(torch.tensor(float(flat.shape[2])))
    unit = nn.functional.normalize(flat, dim=2)
    with torch.autocast(unit.device.type, enabled=False):
        alike = unit @ unit.transpose(1, 2)  # (N, M, M)
    heads = flat.shape[1]
    # The diagonal of a live head is 1.
    between = (alike.sum((1, 2)) - live.sum(1)) / max(heads * (heads - 1), 1)
    found = {
        "attention_mean": maps.mean(),
        "attention_entropy": (entropy * live).sum() / live.sum().clamp_min(1.0),
        "head_cosine": between.mean(),
    }
    if cells is None:
        return found
    known = cells.known.float()
    count = known.sum().clamp_min(1.0)

    def over_known(values: Tensor) -> Tensor:
        return (values * known).sum() / count

    first = 0
    for region, name in enumerate(REGIONS):
        mask = cells.regions[:, region : region + 1]
        share = energy_share(maps, mask)  # (N, M)
        found[f"energy_{name}"] = over_known(share.mean(1))
        own = share[:, first : first + assignment[region]]
        first += assignment[region]
        if own.shape[1]:
            area = over_known(mask.mean((1, 2, 3)))
            found[f"lift_{name}"] = over_known(own.mean(1)) / area.clamp_min(_SOLID)
    if cells.oval.shape[1]:
        seen = (cells.oval.sum((1, 2, 3)) > 0).float()
        inside = energy_share(maps, cells.oval).mean(1) * seen
        found["energy_oval"] = inside.sum() / seen.sum().clamp_min(1.0)
    found["energy_inside"] = over_known(energy_share(maps, cells.mask).mean(1))
    return found


def collapse(found: dict[str, float]) -> str | None:
    """A warning when heads have become one, or look at next to nothing; else None."""
    if found["head_cosine"] > COLLAPSED_COSINE:
        return (
            f"the attention heads have become alike (cosine {found['head_cosine']:.2f}, plain CAL "
            "stays near 0.3); lower the weight of --guide"
        )
    if found["attention_entropy"] < COLLAPSED_ENTROPY:
        return (
            f"attention has shrunk to few cells (entropy {found['attention_entropy']:.2f}, plain "
            "CAL stays near 0.7); lower the weight of --guide"
        )
    return None
