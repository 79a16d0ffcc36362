"""Five ways to tell attention where eyes, nose and mouth are, as functions of tensors.

Letters: N images, M heads, h × w cells, R = 3 regions (eyes, nose, mouth). A is the attention,
(N, M, h, w), the output of a ReLU: non-negative and unbounded. m is a mask in [0, 1], the covered
share of each cell. p is A divided by its sum over the cells, so that each map sums to 1, and

    s = Σ_cells p · m        the share of a map's energy inside the mask.

Methods 1 and 2 were proposed on A itself. Method 1 would then equal mean(A) · (o − (1 + o) · s),
which shrinks attention while s < o / (1 + o) and inflates it without limit above; the pooled
features are normalised to length 1 after pooling, so that no other loss ever resists.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from faceguide.train.cal.guide_option import (
    INSIDE_RANGE,
    MARGIN,
    OUTSIDE_LOSS,
    OUTSIDE_RANGE,
    OUTSIDE_REGIONS,
)

# A map whose sum is below this is dead: it has no share anywhere, and no slope to speak of.
DEAD = 1e-3

LOG_FLOOR = 1e-2  # share below which the logarithmic form pulls no harder
PLAIN_RANGE = (0.0, 2.0)  # fake attention where no landmarks are known


def to_cells(target: Tensor, height: int, width: int) -> Tensor:
    """(N, K, G, G) target → (N, K, h, w) float32: the mean over the area of each cell."""
    return nn.functional.adaptive_avg_pool2d(target.float(), (height, width))


def union(regions: Tensor) -> Tensor:
    """(N, R, h, w) covered shares → (N, 1, h, w): covered by any region (they do not overlap)."""
    return regions.sum(1, keepdim=True).clamp_max(1.0)


def energy_share(attention: Tensor, mask: Tensor) -> Tensor:
    """s = Σ p · m of maps (N, M, h, w) and masks (N, M or 1, h, w): (N, M) float32, 0 if dead."""
    attention = attention.float()
    inside = (attention * mask).sum((2, 3))
    return inside / attention.sum((2, 3)).clamp_min(DEAD)


def landmark_loss(attention: Tensor, mask: Tensor, outside: float = OUTSIDE_LOSS) -> Tensor:
    """Method 1: (N,) mean over heads of −s + o · (1 − s), between −1 and o, whatever A's scale."""
    share = energy_share(attention, mask)
    return (outside - (1.0 + outside) * share).mean(1)


def default_assignment(heads: int) -> tuple[int, int, int]:
    """Heads for eyes, nose and mouth: 3/8, 1/4, 1/4 of all, the rest stay free (32 → 12, 8, 8)."""
    return (heads * 3 // 8, heads // 4, heads // 4)


def _own_share(attention: Tensor, regions: Tensor, assignment: tuple[int, ...]) -> Tensor:
    """(N, guided heads): share of each head's energy in its region; later heads are free."""
    counts = torch.tensor(assignment, device=regions.device)
    own = torch.repeat_interleave(torch.arange(len(assignment), device=regions.device), counts)
    return energy_share(attention[:, : len(own)], regions[:, own])


def _over_regions(values: Tensor, regions: Tensor, assignment: tuple[int, ...]) -> Tensor:
    """(N, guided) values → (N,): mean over a region's heads, then over the regions present."""
    parts = values.split(list(assignment), dim=1)
    total = count = values.new_zeros(len(values))
    for region, part in enumerate(parts):
        if part.shape[1]:
            present = (regions[:, region].sum((1, 2)) > 0).to(values.dtype)
            total = total + present * part.mean(1)
            count = count + present
    return total / count.clamp_min(1.0)


def region_loss(
    attention: Tensor,
    regions: Tensor,
    assignment: tuple[int, ...],
    outside: float = OUTSIDE_REGIONS,
) -> Tensor:
    """Method 2: each guided head is rewarded for energy in its own region.

    Mean over regions of the mean over their heads of −s + o · (1 − s), with s the share of the
    head's energy in its region. A region that the image does not show (a crop may have cut it
    off) is left out.

    Args:
        attention: (N, M, h, w).
        regions: (N, R, h, w), 0 to 1.
        assignment: heads of each region; together at most M.
        outside: penalty o for energy outside.

    Returns:
        (N,) one value per image, between −1 and o; 0 where no region is visible.
    """
    share = _own_share(attention, regions, assignment)
    return _over_regions(outside - (1.0 + outside) * share, regions, assignment)


def region_log_loss(attention: Tensor, regions: Tensor, assignment: tuple[int, ...]) -> Tensor:
    """Method 2 with the logarithm: −log(s + ε) of each guided head, ε = 0.01.

    Ours. The linear form pulls with one force at a head that has nothing and at one that has all,
    so the smallest region, the eyes, gains least. Here the pull is 1 / (s + ε): strong on a head
    that has not found its region, weak on one that has.

    Arguments and result as `region_loss`; between −log(1 + ε) and −log ε.
    """
    share = _own_share(attention, regions, assignment)
    return _over_regions(-(share + LOG_FLOOR).log(), regions, assignment)


def fake_attention(
    uniform: Tensor,
    mask: Tensor | None,
    known: Tensor | None,
    inside: tuple[float, ...] = INSIDE_RANGE,
    outside: tuple[float, ...] = OUTSIDE_RANGE,
) -> Tensor:
    """Method 3: counterfactual attention that avoids the landmarks.

    fake = (1 − m) · U(outside) + m · U(inside), both ends of the interval blended by the soft mask,
    with U(0.5, 1.5) and U(0, 0.3) unless other ranges are given. An image without known landmarks
    gets U(0, 2), as CAL published it.

    Args:
        uniform: (N, M, h, w) random numbers in [0, 1).
        mask: (N, 1, h, w), 0 to 1; None = U(0, 2) everywhere.
        known: (N,) bool, whose mask is to be used.

    Returns:
        (N, M, h, w), non-negative.
    """
    plain = PLAIN_RANGE[0] + (PLAIN_RANGE[1] - PLAIN_RANGE[0]) * uniform
    if mask is None or known is None:
        return plain
    on, off = (low + (high - low) * uniform for low, high in (inside, outside))
    aware = (1.0 - mask) * off + mask * on
    return torch.where(known[:, None, None, None], aware, plain)


def prior_share(start: float, step: int, steps: int) -> float:
    """Method 4: weight of the prior at a step, from `start` down a line to 0 after `steps`."""
    return start * max(0.0, 1.0 - step / max(steps, 1))


def landmark_vectors(attention: Tensor, mask: Tensor) -> Tensor:
    """(N, M, h, w) and (N, 1, h, w) → (N, M·h·w) of length 1: each image at its own landmarks."""
    vectors = (attention.float() * mask).flatten(1)
    return vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp_min(DEAD)


def contrastive_loss(
    vectors: Tensor, same: Tensor, used: Tensor, margin: float = MARGIN
) -> tuple[Tensor, Tensor]:
    """Method 5: attention at landmarks alike for one identity, unlike beyond a margin for two.

    With the cosine c of two images' `landmark_vectors`: mean over pairs of one identity of 1 − c,
    mean over pairs of two of max(0, c − margin). After Hadsell et al., "Dimensionality
    Reduction by Learning an Invariant Mapping", CVPR 2006, on cosines.

    Args:
        vectors: (N, D) of length 1.
        same: (N, N) bool, one identity.
        used: (N, N) bool, the pairs that count; each pair once.
        margin: cosine of two identities without penalty.

    Returns:
        The two means, scalars; 0 where there are no such pairs.
    """
    # Half precision could not tell a cosine of 0.998 from 1.
    with torch.autocast(vectors.device.type, enabled=False):
        cosine = vectors @ vectors.T
    genuine, impostor = same & used, ~same & used
    attract = ((1.0 - cosine) * genuine).sum() / genuine.sum().clamp_min(1)
    repel = ((cosine - margin).clamp_min(0.0) * impostor).sum() / impostor.sum().clamp_min(1)
    return attract, repel
