"""Guidance of one pass of CAL: which methods act, on which targets, with which weight."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from faceguide.cache.schema import ORIGIN_CODE, REGIONS
from faceguide.core.errors import TrainError
from faceguide.train.cal.guidance_losses import (
    contrastive_loss,
    default_assignment,
    landmark_loss,
    landmark_vectors,
    region_log_loss,
    region_loss,
    to_cells,
    union,
)
from faceguide.train.cal.guide_option import GuidanceSettings
from faceguide.train.distributed import gathered, summed, world_size
from faceguide.train.models.attention_crop import crop


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


def assigned_heads(settings: GuidanceSettings, heads: int) -> dict[str, str]:
    """Region → numbers of its heads, such as "0-11" or "none"; then those of the free ones."""
    counts, found, first = heads_of(settings, heads), {}, 0
    for name, count in zip((*REGIONS, "free"), (*counts, heads - sum(counts)), strict=True):
        last = first + count - 1
        found[name] = "none" if not count else f"{first}" + f"-{last}" * (count > 1)
        first += count
    return found


class Targets(NamedTuple):
    """What lies on the pixels of a batch, on the cache's grid G.

    regions: (N, 3, G, G) float32, covered share of each cell, or (N, 4, G, G) with the oval, 0
    where landmarks may not guide; heatmap: (N, 1, G, G) float32, 0 to 1; known: (N,) bool, whether
    the landmarks may guide.
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

    regions: (N, 3, h, w); mask: (N, 1, h, w), their union; heatmap: (N, 1, h, w); known: (N,) bool,
    and something of the landmarks is still to be seen; oval: (N, 1 or 0, h, w).
    """

    regions: Tensor
    mask: Tensor
    heatmap: Tensor
    known: Tensor
    oval: Tensor


def at_cells(targets: Targets, height: int, width: int) -> Cells:
    """Area means of the targets over the cells of an attention map."""
    covered = to_cells(targets.regions, height, width)
    regions, oval = covered.tensor_split([len(REGIONS)], dim=1)
    mask = union(regions)
    visible = mask.sum((1, 2, 3)) > 0
    heatmap = to_cells(targets.heatmap, height, width)
    return Cells(regions, mask, heatmap, targets.known & visible, oval)


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
    settings: GuidanceSettings, maps: Tensor, cells: Cells, labels: Tensor, listed: int = 0
) -> dict[str, Tensor]:
    """The unweighted losses of the methods that are on, for one pass: method → scalar.

    Args:
        maps: (N, M, h, w) attention.
        labels: (N,) identities.
        listed: pairs of a file at the end of the batch, first images before second ones; method 5
            takes these. 0 = it takes every pair of images of all processes.
    """
    losses: dict[str, Tensor] = {}
    if settings.weight("loss"):
        values = landmark_loss(maps, cells.mask, settings.outside)
        losses["loss"] = known_mean(values, cells.known)
    if settings.weight("oval"):
        values = landmark_loss(maps, cells.oval, settings.outside)
        losses["oval"] = known_mean(values, cells.oval.sum((1, 2, 3)) > 0)
    heads = heads_of(settings, maps.shape[1])
    if settings.weight("regions"):
        values = region_loss(maps, cells.regions, heads, settings.outside_region)
        losses["regions"] = known_mean(values, cells.known)
    if settings.weight("regions-log"):
        values = region_log_loss(maps, cells.regions, heads)
        losses["regions-log"] = known_mean(values, cells.known)
    if settings.weight("contrastive"):
        losses["contrastive"] = _contrastive(settings, maps, cells, labels, listed)
    return losses


def guide_passes(
    settings: GuidanceSettings,
    passes: list[tuple[Tensor, Cells | None]],
    labels: Tensor,
    listed: int,
) -> dict[str, Tensor]:
    """The mean of `guide` over the (maps, targets) of each pass."""
    found = [guide(settings, maps, cells, labels, listed) for maps, cells in passes if cells]
    return {name: torch.stack([one[name] for one in found]).mean() for name in found[0]}


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
    # Images without landmarks are in no pair.
    pairs = pairs & known[:, None] & known[None]
    attract, repel = contrastive_loss(
        vectors, labels[:, None] == labels[None], pairs, settings.margin
    )
    value = attract + repel
    if listed:
        return value
    # Each process holds the gradient of its own images only, and processes are averaged.
    return value.detach() + world_size() * (value - value.detach())


def weighted(settings: GuidanceSettings, losses: dict[str, Tensor]) -> Tensor:
    """The sum of the losses of `guide`, each by its weight."""
    return torch.stack([settings.weight(name) * value for name, value in losses.items()]).sum()
