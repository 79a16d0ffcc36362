"""Which rows of a cache are learnt, and which class a label is."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import TrainError

_LISTED = 12  # values in a message


def require_meta(cache: FaceCache, meta: Mapping[str, str]) -> None:
    """Each value of --meta is in the cache.

    Raises:
        TrainError: lists the values that are.
    """
    for name, value in meta.items():
        if not len(cache.select(status=None, meta={name: value})):
            there = sorted(set(cache.texts(f"meta/{name}", range(len(cache)))))
            listed = ", ".join(map(repr, there[:_LISTED])) + (" …" if len(there) > _LISTED else "")
            raise TrainError(
                f"{cache.directory}: no row has {name}={value}; the values of {name} are {listed}"
            )


def training_rows(
    cache: FaceCache,
    min_images: int,
    meta: Mapping[str, str],
    learnable: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on, and the labels among them in increasing order.

    Args:
        min_images: identities with fewer usable images are left out.
        learnable: other rows are left out; None = all may be learnt.

    Raises:
        TrainError: as `require_meta`, or when fewer than two identities are left.
    """
    require_meta(cache, meta)
    rows = cache.select(labelled=True, meta=meta or None)
    if learnable is not None:
        rows = np.intersect1d(rows, learnable)
    labels = cache.read(rows, ["label"])["label"]
    people, counts = np.unique(labels, return_counts=True)
    people = people[counts >= min_images]
    rows = rows[np.isin(labels, people)]
    if len(people) < 2:
        raise TrainError(
            f"{cache.directory}: expected at least two labelled identities with {min_images} or "
            f"more images, found {len(people)}; loosen --min-images and --meta"
        )
    return rows, people


def class_table(identities: int, people: NDArray[np.int64]) -> Tensor:
    """(identities,) int64: label → class in the order of `people`, −1 where not trained."""
    table = torch.full((identities,), -1)
    table[torch.from_numpy(people)] = torch.arange(len(people))
    return table
