"""Embed rows of a cache into a store, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.evaluate.network import Network
from faceguide.evaluate.run_directory import cache_hash
from faceguide.evaluate.store import BLOCK_ROWS, GROUPS, FaceStore

BATCH = 64

Batches = Callable[[NDArray[np.int64]], Iterator[tuple[NDArray[np.int64], torch.Tensor]]]


def open_store(run: Path, cache: FaceCache, network: Network) -> FaceStore:
    """The store of this cache and this network in a run directory."""
    return FaceStore.open(run, {"cache": cache_hash(cache), **network.key()})


def embed_rows(
    cache: FaceCache,
    network: Network,
    store: FaceStore,
    rows: NDArray[np.int64],
    groups: frozenset[str],
    *,
    batch_size: int = BATCH,
    progress: Callable[[int], object] = lambda count: None,
) -> int:
    """Compute what the store lacks of these rows.

    Args:
        cache: where the crops are.
        network: what looks at them.
        store: where the results go; what it has is not computed again.
        rows: rows of the cache that have a face.
        groups: names in `store.GROUPS`.
        batch_size: crops of one forward pass.
        progress: called with the number of rows done.

    Returns:
        The number of rows computed.

    Raises:
        EvaluationError: when the crops have another size than the network takes.
        CacheError: when a row differs from its checksum.
    """
    network.check_size(cache.require("image").shape[0], str(cache.directory))

    def batches(wanted: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        stream = Stream(
            cache,
            wanted,
            columns=("image",),
            batch_size=batch_size,
            shuffle=False,
            ragged="exact",
            check=True,
        )
        for batch in stream:
            yield batch["row"].numpy().copy(), batch["image"]

    return fill(store, network, rows, groups, batches, progress)


def fill(
    store: FaceStore,
    network: Network,
    rows: NDArray[np.int64],
    groups: frozenset[str],
    batches: Batches,
    progress: Callable[[int], object] = lambda count: None,
) -> int:
    """Write blocks of the rows that the store lacks, whatever they are read from.

    Args:
        store: where the blocks go.
        network: what looks at the crops.
        rows: all rows wanted.
        groups: names in `store.GROUPS`.
        batches: gives (rows, (N, S, S, 3) uint8 crops) of the rows it is asked for, in order.
        progress: called with the number of rows done.

    Returns:
        The number of rows computed.
    """
    lacking = {group: store.missing(group, rows) for group in sorted(groups)}
    todo = np.unique(np.concatenate([np.empty(0, np.int64), *lacking.values()]))
    if not len(todo):
        return 0
    needed = frozenset(group for group, missing in lacking.items() if len(missing))
    held: list[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]] = []
    for chunk, images in batches(todo):
        held.append((chunk, network.describe(images, needed)))
        progress(len(chunk))
        if sum(len(part) for part, _ in held) >= BLOCK_ROWS:
            _write(store, lacking, needed, held)
            held = []
    if held:
        _write(store, lacking, needed, held)
    return len(todo)


def _write(
    store: FaceStore,
    lacking: dict[str, NDArray[np.int64]],
    needed: frozenset[str],
    held: list[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]],
) -> None:
    rows = np.concatenate([part for part, _ in held])
    for group in sorted(needed):
        keep = np.isin(rows, lacking[group])
        if keep.any():
            arrays = {
                column: np.concatenate([values[column] for _, values in held])[keep]
                for column in GROUPS[group]
            }
            store.add(group, rows[keep], arrays)
