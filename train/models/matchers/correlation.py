"""What every way of comparing two feature maps cell by cell needs.

Letters: P probes, G gallery faces, C channels, h×w cells, S = h·w; s counts the cells of a probe
and r those of a gallery face, both row by row. Visibility is 1 where the face can be seen and 0
where it is occluded.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.core.errors import ModelError

# A visible cell that is half covered loses TAU · ln 2 = 0.07 of correlation, an occluded one
# TAU · |ln FLOOR| = 3.68. Correlations span 2, so an occluded cell loses against any cell whose
# visibility is at least SEEN, for SEEN costs 1.38: 3.68 − 1.38 > 2.
TAU = 0.1
FLOOR = 1e-16
SEEN = 1e-6


def cell_vectors(maps: Tensor) -> Tensor:
    """(N, C, h, w) → (N, S, C) float32, each cell's vector of length 1.

    The only place where features are normalised.
    """
    return nn.functional.normalize(maps.float(), dim=1).flatten(2).transpose(1, 2)


def cell_visibility(visibility: Tensor | None, maps: Tensor) -> Tensor:
    """Visibility on the grid of the features: (N, S) float32, ones when not given.

    A finer grid is averaged by area (14×14 → 7×7 is the exact 2×2 mean), a coarser one is
    interpolated bilinearly. Values under `SEEN` become 0. No gradient passes: through it,
    matching could be improved by declaring occluded what does not match.

    Args:
        visibility: (N, 1, H, W) or (N, H, W), 0 to 1; None = all visible.
        maps: (N, C, h, w), on the device to work on.

    Raises:
        ModelError: for another shape.
    """
    count, _, height, width = maps.shape
    size = (height, width)
    if visibility is None:
        return torch.ones(count, height * width, device=maps.device)
    grid = visibility.detach()
    if grid.ndim == 3:
        grid = grid[:, None]
    if grid.ndim != 4 or grid.shape[1] != 1 or len(grid) != count:
        raise ModelError(
            f"visibility must be ({count}, 1, h, w) or ({count}, h, w) like its feature maps, "
            f"found {tuple(visibility.shape)}"
        )
    grid = grid.to(maps.device, torch.float32)
    if grid.shape[2] >= height and grid.shape[3] >= width:
        grid = nn.functional.adaptive_avg_pool2d(grid, size)
    else:
        grid = nn.functional.interpolate(grid, size, mode="bilinear", align_corners=False)
    cells = grid.flatten(1).clamp(0.0, 1.0)
    return torch.where(cells < SEEN, 0.0, cells)


def hidden_penalty(visibility: Tensor) -> Tensor:
    """What a cell loses as a candidate for the best match: τ · ln max(v, ε), 0 where visible."""
    return TAU * visibility.clamp_min(FLOOR).log()


def check_maps(probe_maps: Tensor, gallery_maps: Tensor) -> None:
    """Both (N, C, h, w) with the same C, h and w, or a ModelError."""
    if probe_maps.ndim != 4 or gallery_maps.shape[1:] != probe_maps.shape[1:]:
        raise ModelError(
            "probe and gallery maps must be (N, C, h, w) with equal C, h and w, "
            f"found {tuple(probe_maps.shape)} and {tuple(gallery_maps.shape)}"
        )


def mean_weights(weights: Tensor) -> Tensor:
    """(…, S) weights scaled to a mean of 1 over the cells; all 0 stays all 0."""
    total = weights.sum(-1, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    # The quotient first: it is at most 1, where cells / total could overflow.
    return weights / total * weights.shape[-1]
