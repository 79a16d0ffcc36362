"""QAConv over large galleries: blocks of pairs, none of which leaves the processor's cache.

The correlations of one block are computed, reduced to their row and column maxima and forgotten,
so memory grows with P·G, the scores, and not with P·G·S². Two changes of form against
`QAConv.forward`, which this module must agree with:

* Visibility becomes part of the vectors: with two further channels, ⟨(f, 1, t_s), (g, t_r, 1)⟩ =
  ⟨f, g⟩ + t_s + t_r, one product gives the candidates of both directions, and the constant of
  the cell itself is taken off its maximum. For `scale` the vectors are multiplied by v.
* In eval mode both BatchNorms and the location weights are one weight per cell and a constant.

With `compile=True` torch.compile makes one kernel of the two maxima, which then read the product
once. What is compiled depends on the sizes of the blocks, and the first call takes seconds.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from faceguide.core.errors import ModelError
from faceguide.train.models.backbones.backbone import batch_norm_affine
from faceguide.train.models.matchers.correlation import (
    cell_vectors,
    cell_visibility,
    hidden_penalty,
    mean_weights,
)
from faceguide.train.models.matchers.qaconv import QAConv

# Bytes of correlations in flight: on a CPU what its last cache holds, on a GPU enough to fill it.
CPU_BLOCK_BYTES = 16 << 20
CUDA_BLOCK_BYTES = 1 << 28
# Gallery faces per block: with 64 or more in the innermost dimension the maxima over cells run
# whole vectors wide (bfloat16 on AVX-512: ten times faster than with 32).
CPU_GALLERY_STEP = 64
CUDA_GALLERY_STEP = 512


class _Faces(NamedTuple):
    """A block of one side, ready to be multiplied.

    vectors: (N, S, C′) in the working precision; seen: (N, S) float32 visibility, or None.
    """

    vectors: Tensor
    seen: Tensor | None = None


@dataclass(frozen=True)
class _Folded:
    """score = Σ_s probe_s·(slope·a_s + shift) + Σ_r gallery_r·(slope·b_r + shift) + constant."""

    probe: Tensor  # (S,)
    gallery: Tensor  # (S,)
    slope: Tensor
    shift: Tensor
    constant: Tensor

    @staticmethod
    def of(matcher: QAConv) -> _Folded:
        slope, shift = batch_norm_affine(matcher.bn)
        outer_slope, outer_shift = batch_norm_affine(matcher.logit_bn)
        probe, gallery, bias = matcher.halves()
        constant = outer_slope * bias + outer_shift
        return _Folded(probe * outer_slope, gallery * outer_slope, slope, shift, constant)


def _prepare(
    matcher: QAConv,
    maps: Tensor,
    visibility: Tensor | None,
    penalised: bool,
    is_probe: bool,
    dtype: torch.dtype,
) -> _Faces:
    maps = maps.to(matcher.fc.weight.device)
    vectors = cell_vectors(maps)
    if not penalised and visibility is None:
        return _Faces(vectors.to(dtype))
    seen = cell_visibility(visibility, maps)
    if not penalised:  # scale
        return _Faces((vectors * seen[:, :, None]).to(dtype))
    penalty = hidden_penalty(seen)
    one = torch.ones_like(penalty)
    extra = (one, penalty) if is_probe else (penalty, one)
    joined = torch.cat([vectors, torch.stack(extra, dim=2)], dim=2)
    return _Faces(joined.to(dtype), seen)


Best = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@functools.cache
def _fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 by itself (AVX-512 or newer)."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _best_matches(vectors: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """(P, S, C) probe cells and (S·G, C) gallery cells → best matches, (P, S, G) float32 twice."""
    count_p, cells, _ = vectors.shape
    product = vectors.reshape(count_p * cells, -1) @ columns.T
    product = product.view(count_p, cells, cells, -1)  # (P, s, r, G)
    return product.amax(2).float(), product.amax(1).float()  # (P, s, G), (P, r, G)


@functools.cache
def _compiled_matches() -> Best:
    compiled: Best = torch.compile(_best_matches, dynamic=False)
    broken = False

    def best(vectors: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal broken
        if not broken:
            try:
                return compiled(vectors, columns)
            except RuntimeError as fault:
                broken = True
                first = str(fault).strip().splitlines()[0][:160]
                warnings.warn(
                    f"matching continues without torch.compile, which failed: {first}; on a CPU it "
                    "needs a C++ compiler such as g++",
                    stacklevel=2,
                )
        return _best_matches(vectors, columns)

    return best


def _block_scores(
    matcher: QAConv, folded: _Folded, probe: _Faces, gallery: _Faces, best: Best
) -> Tensor:
    """(P, G) scores of one block."""
    cells = probe.vectors.shape[1]
    # Cells before faces on the gallery's side: both maxima then run over whole rows of numbers.
    columns = gallery.vectors.transpose(0, 1).flatten(0, 1)
    vectors = probe.vectors
    if vectors.dtype == torch.bfloat16 and vectors.device.type == "cpu" and not _fast_bfloat16():
        # The rounded numbers are multiplied as float32: five times faster than emulating.
        vectors, columns = vectors.float(), columns.float()
    best_probe, best_gallery = best(vectors, columns)
    if probe.seen is None or gallery.seen is None:
        total = torch.matmul(folded.probe * folded.slope, best_probe)
        total += torch.matmul(folded.gallery * folded.slope, best_gallery)
        return total + folded.shift * (folded.probe.sum() + folded.gallery.sum()) + folded.constant
    v_probe, v_gallery = probe.seen, gallery.seen.T  # (P, S) and (S, G)
    best_probe -= hidden_penalty(probe.seen)[:, :, None]
    best_gallery -= hidden_penalty(gallery.seen).T[None]
    term_probe = best_probe.mul_(folded.slope).add_(folded.shift)
    term_gallery = best_gallery.mul_(folded.slope).add_(folded.shift)
    if matcher.weighting == "common":
        both = term_probe.mul_(folded.probe[:, None])
        both += term_gallery.mul_(folded.gallery[:, None])
        both *= v_gallery
        # (P, 1, S) · (P, S, G) -> (P, G)
        total = torch.matmul(v_probe[:, None], both)[:, 0]
        shared = v_probe @ v_gallery
        return total / shared.clamp_min(torch.finfo(shared.dtype).tiny) * cells + folded.constant
    weights_probe = mean_weights(v_probe) * folded.probe  # (P, S)
    weights_gallery = mean_weights(gallery.seen).T * folded.gallery[:, None]  # (S, G)
    total = torch.matmul(weights_probe[:, None], term_probe)[:, 0]
    total += (term_gallery * weights_gallery).sum(1)
    exists = (v_probe > 0).any(1)[:, None] & (v_gallery > 0).any(0)[None]
    return total * exists + folded.constant


def _block_sizes(gallery: int, cells: int, itemsize: int, device: torch.device) -> tuple[int, int]:
    """Faces per block: (probes, gallery)."""
    on_cpu = device.type == "cpu"
    step = CPU_GALLERY_STEP if on_cpu else CUDA_GALLERY_STEP
    # Blocks of at least `step` faces: a narrower last one would be slower than all others.
    step_gallery = -(-gallery // max(gallery // step, 1))
    budget = CPU_BLOCK_BYTES if on_cpu else CUDA_BLOCK_BYTES
    return max(budget // (cells * cells * itemsize * max(step_gallery, 1)), 1), step_gallery


def _slices(count: int, step: int, full: bool = False) -> Iterator[slice]:
    """Blocks of `step` that cover `count`; if `full`, the last reaches back to be as wide."""
    for start in range(0, count, max(step, 1)):
        first = max(min(start, count - step), 0) if full else start
        yield slice(first, min(start + step, count))


@torch.inference_mode()
def match(
    matcher: QAConv,
    probe_maps: Tensor,
    gallery_maps: Tensor,
    probe_visibility: Tensor | None = None,
    gallery_visibility: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    compile: bool = False,
) -> Tensor:
    """Scores of every probe with every gallery face, as `matcher` in eval mode gives them.

    Args:
        matcher: its device is where the work is done; the maps may lie elsewhere, for example in
            host memory. In training mode its scores would depend on the blocks, so its running
            statistics are used either way.
        probe_maps: (P, C, h, w), any float type; all probes are kept at `dtype` on the device.
        gallery_maps: (G, C, h, w); only one block of it at a time is.
        probe_visibility, gallery_visibility: (P, 1, H, W) or (P, H, W) and likewise, 0 to 1;
            None = all visible.
        dtype: precision of the products, float32 or bfloat16; sums over cells are float32.
        compile: make one kernel of both maxima; without a compiler a warning says so, once, and
            the scores are made without. For many blocks of one size.

    Returns:
        (P, G) float32 on the matcher's device.

    Raises:
        ModelError: when a shape does not fit.
    """
    matcher.check(probe_maps, gallery_maps)
    for name, maps, given in (
        ("probe", probe_maps, probe_visibility),
        ("gallery", gallery_maps, gallery_visibility),
    ):
        if given is not None and len(given) != len(maps):
            raise ModelError(f"found {len(given)} {name} visibilities for {len(maps)} maps")
    uses = probe_visibility is not None or gallery_visibility is not None
    uses = uses and matcher.weighting != "none"
    if not uses:
        probe_visibility = gallery_visibility = None
    penalised = uses and matcher.weighting != "scale"
    device = matcher.fc.weight.device
    cells = matcher.height * matcher.width
    step_probe, step_gallery = _block_sizes(len(gallery_maps), cells, dtype.itemsize, device)
    folded = _Folded.of(matcher)

    def prepared(maps: Tensor, visibility: Tensor | None, rows: slice, is_probe: bool) -> _Faces:
        seen = None if visibility is None else visibility[rows]
        return _prepare(matcher, maps[rows], seen, penalised, is_probe, dtype)

    probes = [
        (rows, prepared(probe_maps, probe_visibility, rows, True))
        # Blocks of one size are compiled once.
        for rows in _slices(len(probe_maps), step_probe, full=compile)
    ]
    best = _compiled_matches() if compile else _best_matches
    scores = torch.empty(len(probe_maps), len(gallery_maps), device=device)
    for columns in _slices(len(gallery_maps), step_gallery, full=True):
        gallery = prepared(gallery_maps, gallery_visibility, columns, False)
        for rows, probe in probes:
            scores[rows, columns] = _block_scores(matcher, folded, probe, gallery, best)
    return scores
