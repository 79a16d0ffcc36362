"""Templates: several images of one identity that are compared as one.

For `cosine`, embeddings are pooled as published for IJB: the mean within each medium (a video is
one medium), the sum over media, length 1. Embeddings go in with their norm, which gives clear
images more weight, or without; with their detector score as a factor, or without; and with the
mirror image added, or without.

Local matchers compare images, not pools: a template is represented by one image per medium, the one
with the best detector score, and of these by the best `images`; the template score is the mean
over all pairs of a representative of the one and a representative of the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.score.face_store import FaceStore

_BLOCK = 1 << 14  # uses of images whose embeddings are held at once


@dataclass(frozen=True)
class Uses:
    """Images by template, sorted by template and medium.

    Attributes:
        image: (M,) image of each use.
        medium: (M,).
        score: (M,) detector score.
        template: (T,) templates, in increasing order.
        start: (T + 1,) where the uses of each begin.
    """

    image: NDArray[np.int64]
    medium: NDArray[np.int64]
    score: NDArray[np.float32]
    template: NDArray[np.int64]
    start: NDArray[np.int64]


def sort_uses(
    image: NDArray[np.int64],
    template: NDArray[np.int64],
    medium: NDArray[np.int64],
    score: NDArray[np.float32],
    usable: NDArray[np.bool_],
) -> Uses:
    """Group the uses whose image is usable; a template without any is absent.

    Args:
        image: (M,).
        template: (M,).
        medium: (M,).
        score: (M,) detector score.
        usable: (M,) bool.
    """
    order = np.lexsort((medium, template))
    order = order[usable[order]]
    names, start = np.unique(template[order], return_index=True)
    return Uses(image[order], medium[order], score[order], names, np.append(start, len(order)))


def pool(
    store: FaceStore, uses: Uses, *, flip: bool, norm: bool, detector_score: bool
) -> NDArray[np.float32]:
    """(T, E) template embeddings of length 1.

    Args:
        norm: weigh each embedding by its norm.
        detector_score: weigh each embedding by its detector score.
    """
    name = "embedding" if flip else "plain_embedding"
    length = "norm" if flip else "plain_norm"
    out: NDArray[np.float32] | None = None
    first = 0
    while first < len(uses.template):
        # Whole templates only, at least one, about a block of uses.
        last = int(np.searchsorted(uses.start, uses.start[first] + _BLOCK, side="right")) - 1
        last = min(max(last, first + 1), len(uses.template))
        part = slice(uses.start[first], uses.start[last])
        vectors = store.read(name, uses.image[part]).astype(np.float64)
        if norm:
            vectors *= store.read(length, uses.image[part])[:, None]
        if detector_score:
            vectors *= uses.score[part][:, None]
        of = np.repeat(np.arange(first, last), np.diff(uses.start[first : last + 1])) - first
        medium = uses.medium[part]
        new = np.append(True, (of[1:] != of[:-1]) | (medium[1:] != medium[:-1]))
        begins = np.flatnonzero(new)
        means = np.add.reduceat(vectors, begins) / np.diff(np.append(begins, len(of)))[:, None]
        sums = np.zeros((last - first, vectors.shape[1]))
        np.add.at(sums, of[begins], means)
        if out is None:
            out = np.zeros((len(uses.template), vectors.shape[1]), np.float32)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        out[first:last] = sums / np.maximum(lengths, np.finfo(np.float64).tiny)
        first = last
    return np.empty((0, 0), np.float32) if out is None else out


def represent(uses: Uses, images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The representatives of each template, for local matchers.

    Returns:
        (R,) images and (T + 1,) where those of each template begin.
    """
    of = np.repeat(np.arange(len(uses.template)), np.diff(uses.start))
    best = np.lexsort((uses.image, -uses.score, uses.medium, of))
    first = np.append(
        True,
        (of[best][1:] != of[best][:-1]) | (uses.medium[best][1:] != uses.medium[best][:-1]),
    )[: len(best)]
    kept = best[first]  # one per medium
    kept = kept[np.lexsort((uses.image[kept], -uses.score[kept], of[kept]))]
    begins = np.searchsorted(of[kept], np.arange(len(uses.template)))
    within = np.arange(len(kept)) - begins[of[kept]]
    kept = kept[within < images]
    start = np.searchsorted(of[kept], np.arange(len(uses.template) + 1))
    return uses.image[kept], start


def image_pairs(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    image: NDArray[np.int64],
    start: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of representatives of pairs of templates.

    Args:
        first: (N,) places of templates.
        second: (N,) places of templates.
        image: (R,) from `represent`.
        start: (T + 1,) from `represent`.

    Returns:
        (K,) images, (K,) images, and (K,) which of the N pairs each belongs to.
    """
    count_first, count_second = np.diff(start)[first], np.diff(start)[second]
    each = count_first * count_second
    pair = np.repeat(np.arange(len(first)), each)
    inside = np.arange(len(pair)) - np.repeat(np.cumsum(each) - each, each)
    a, b = np.divmod(inside, count_second[pair])
    return image[start[first][pair] + a], image[start[second][pair] + b], pair
