"""Guidance of one pass of CAL: which methods act, on which targets, with which weight."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from faceguide.cache.schema import ORIGIN_CODE, REGIONS
from faceguide.core.errors import TrainError
from faceguide.train.cal.cal_settings import GuidanceSettings
from faceguide.train.cal.guidance_losses import (
    contrastive_loss,
    default_assignment,
    energy_share,
    landmark_loss,
    landmark_vectors,
    region_log_loss,
    region_loss,
    to_cells,
    union,
)
from faceguide.train.distributed import gathered, summed, world_size
from faceguide.train.models.attention_crop import crop

# Plain CAL stays near .28 and .70; a prototype's collapsed runs were beyond these.
COLLAPSED_COSINE, COLLAPSED_ENTROPY = 0.6, 0.3
_SOLID = 1e-6


def heads_of(settings: GuidanceSettings, heads: int) -> tuple[int, ...]:
    """Heads of each region, checked against the number of heads there are.

    Raises:
        TrainError: when more heads are assigned than exist.
    """
    assignment = settings.assignment or default_assignment(heads)
    if len(assignment) != len(REGIONS) or min(assignment) < 0 or sum(assignment) > heads:
        raise TrainError(
            f"--heads-per-region must be three numbers for {', '.join(REGIONS)} with a sum "
            f"of at most {heads} (--heads), found {assignment}"
        )
    return assignment


class Targets(NamedTuple):
    """What lies on the pixels of a batch, on the cache's grid G.

    Attributes:
        regions: (N, 3, G, G) float32, covered share of each cell.
        heatmap: (N, 1, G, G) float32, 0 to 1.
        known: (N,) bool, whether the landmarks may guide.
    """

    regions: Tensor
    heatmap: Tensor
    known: Tensor

    def cropped(self, boxes: Tensor, height: int, width: int) -> Targets:
        """The targets of images that `attention_crop.crop` cut with the same boxes."""
        return Targets(
            crop(self.regions, boxes, height, width),
            crop(self.heatmap, boxes, height, width),
            self.known,
        )

    def masked(self, kept: Tensor) -> Targets:
        """The targets of images of which `kept` (N, 1, H, W) bool is left."""
        share = to_cells(kept, *self.heatmap.shape[2:])
        return Targets(self.regions * share, self.heatmap * share, self.known)


class Cells(NamedTuple):
    """Targets at the size of the attention map.

    Attributes:
        regions: (N, 3, h, w).
        mask: (N, 1, h, w), their union.
        heatmap: (N, 1, h, w).
        known: (N,) bool, and something of the landmarks is still to be seen.
    """

    regions: Tensor
    mask: Tensor
    heatmap: Tensor
    known: Tensor


def at_cells(targets: Targets, height: int, width: int) -> Cells:
    """Area means of the targets over the cells of an attention map."""
    regions = to_cells(targets.regions, height, width)
    mask = union(regions)
    visible = mask.sum((1, 2, 3)) > 0
    return Cells(regions, mask, to_cells(targets.heatmap, height, width), targets.known & visible)


def join(first: Cells, second: Cells) -> Cells:
    """The targets of two batches, one behind the other."""
    return Cells(*(torch.cat(pair) for pair in zip(first, second, strict=True)))


def known_origin(origin: Tensor, template: bool) -> Tensor:
    """(N,) origin codes of the cache → (N,) bool, whose landmarks may guide."""
    known = origin != ORIGIN_CODE["none"]
    return known if template else known & (origin != ORIGIN_CODE["template"])


def known_mean(values: Tensor, known: Tensor) -> Tensor:
    """Mean of (N,) values over the known images of all processes.

    Every process divides by its share of the common count, so that the average that data-parallel
    training takes over processes is the mean over images.
    """
    total = summed(known.sum().to(torch.float32))
    return (values * known).sum() * world_size() / total.clamp_min(1.0)


def guide(
    settings: GuidanceSettings,
    maps: Tensor,
    cells: Cells,
    labels: Tensor,
    listed: int = 0,
) -> dict[str, Tensor]:
    """The unweighted losses of the methods that are on, for one pass.

    Args:
        settings: which.
        maps: (N, M, h, w) attention.
        cells: targets of the same images.
        labels: (N,) identities.
        listed: pairs of a file at the end of the batch, first images before second ones; method 5
            takes these. 0 = it takes every pair of images of all processes.

    Returns:
        Method → scalar.
    """
    losses: dict[str, Tensor] = {}
    if settings.weight("loss"):
        losses["loss"] = known_mean(landmark_loss(maps, cells.mask), cells.known)
    if settings.weight("regions"):
        values = region_loss(maps, cells.regions, heads_of(settings, maps.shape[1]))
        losses["regions"] = known_mean(values, cells.known)
    if settings.weight("regions-log"):
        values = region_log_loss(maps, cells.regions, heads_of(settings, maps.shape[1]))
        losses["regions_log"] = known_mean(values, cells.known)
    if settings.weight("contrastive"):
        losses["contrastive"] = _contrastive(settings, maps, cells, labels, listed)
    return losses


def _contrastive(
    settings: GuidanceSettings, maps: Tensor, cells: Cells, labels: Tensor, listed: int
) -> Tensor:
    vectors, known = landmark_vectors(maps, cells.mask), cells.known
    if listed:
        vectors, known, labels = (tensor[-2 * listed :] for tensor in (vectors, known, labels))
        partners = torch.ones(listed, dtype=torch.bool, device=known.device)
        pairs = torch.diag(partners, listed)[: 2 * listed, : 2 * listed]
    else:
        vectors, known, labels = (gathered(tensor) for tensor in (vectors, known, labels))
        pairs = torch.ones_like(known[:, None] & known[None]).triu(1)
    # Of images without landmarks nothing enters a pair.
    pairs = pairs & known[:, None] & known[None]
    attract, repel = contrastive_loss(
        vectors, labels[:, None] == labels[None], pairs, settings.margin
    )
    value = attract + repel
    if listed:
        return value
    # Each process holds the gradient of its own images alone, and processes are averaged.
    return value.detach() + world_size() * (value - value.detach())


def weighted(settings: GuidanceSettings, losses: dict[str, Tensor]) -> Tensor:
    """The sum of the losses of `guide`, each by its weight."""
    parts = [settings.weight(name.replace("_", "-")) * value for name, value in losses.items()]
    return torch.stack(parts).sum()


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
        `energy_REGION` and `energy_inside`, shares of all maps' energy, `lift_REGION`, the share
        of the region's own heads divided by the region's share of the area.
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
