"""Embed rows of a cache into a store, block by block.

The rows that a run wants, in increasing order, are cut into blocks only by their number. A block
is the unit of work: forward passes never reach over its end, so its bytes do not depend on which
process computes it, or on what else that process does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.cache.stream import Stream
from faceguide.core.commands.console import say
from faceguide.core.commands.parts import WHOLE, shards_of
from faceguide.evaluate.score.face_store import GROUPS, FaceStore
from faceguide.evaluate.score.quick_forward import batch_size_of, quickened, workers_of
from faceguide.train.models.backbones.backbone import keypoints_of
from faceguide.train.models.loading.network import Network, NotFiniteError
from faceguide.train.models.own_check import check_own
from faceguide.train.run.training_data import cache_hash

_BLOCKS = 256  # so many at least, as far as they have 64 rows: work for as many parts
_BLOCK_ROWS = 64, 1024

Rows = NDArray[np.int64]
# What a network is told of N faces besides their images: `keypoints` and `visible`, see
# `Network.describe`.
Beside = dict[str, torch.Tensor]
# Gives the crops, (N, S, S, 3) uint8, of each list of rows it is asked for, whose they are, and
# what is told besides: rows that cannot be read are left out.
Batches = Callable[[Sequence[Rows]], Iterator[tuple[Rows, torch.Tensor, Beside]]]


def store_key(cache: FaceCache, network: Network) -> dict[str, Any]:
    """What the rows of a store depend on."""
    masks = {"masks": cache.groups.get("occlusion")} if network.hidden == "drop" else {}
    return {"cache": cache_hash(cache), **network.key(), **masks}


def beside_of(network: Network, columns: Mapping[str, Any]) -> Beside:
    """What a network is told of the rows of a cache, out of `Network.columns`."""
    found: Beside = {}
    if network.needs_keypoints:
        found["keypoints"] = keypoints_of(torch.as_tensor(columns["landmarks"]))
    if network.hidden == "drop":
        known = torch.as_tensor(columns["known"]).bool()[:, None, None]
        found["visible"] = torch.as_tensor(columns["visibility"]).float().where(known, 1.0)
    return found


def block_rows(rows: int) -> int:
    """Rows of a block of so many rows in all: 64 to 1024, a multiple of 64."""
    least, most = _BLOCK_ROWS
    return int(np.clip(-(-rows // (_BLOCKS * least)) * least, least, most))


def blocks_of(rows: Rows) -> list[Rows]:
    """The blocks of these rows: each row once, in increasing order."""
    rows = np.unique(rows)
    step = block_rows(len(rows))
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def unfinished(store: FaceStore, rows: Rows, groups: frozenset[str]) -> dict[int, Rows]:
    """Block number → rows that a group of the store lacks."""
    blocks, lacking = blocks_of(rows), _lacking(store, rows, groups)
    found = {
        number: np.unique(np.concatenate([_within(missing, block) for missing in lacking.values()]))
        for number, block in enumerate(blocks)
        if lacking
    }
    return {number: missing for number, missing in found.items() if len(missing)}


def embed_rows(
    cache: FaceCache,
    network: Network,
    store: FaceStore,
    rows: Rows,
    groups: frozenset[str],
    *,
    part: tuple[int, int] = WHOLE,
    batch_size: int | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> int:
    """Compute what the store lacks of these rows.

    Args:
        store: where the results go; what it has is not recomputed.
        rows: rows of the cache that have a face.
        groups: names in `store.GROUPS`.
        part: (i, N): blocks i, i + N, … of the rows.
        batch_size: crops of one forward pass; None = as suits the device.
        progress: called with the number of rows done.

    Returns:
        The number of rows computed.

    Raises:
        EvaluationError: when the crops have another size than the network takes.
        CacheError: when a row differs from its checksum.
    """
    network.check_size(cache.require("image").shape[0], str(cache.directory))

    columns = ("image", *network.columns)

    def batches(wanted: Sequence[Rows]) -> Iterator[tuple[Rows, torch.Tensor, Beside]]:
        for batch in Stream(cache, columns=columns, batches=wanted):  # type: ignore[arg-type]
            yield batch["row"].numpy().copy(), batch["image"].clone(), beside_of(network, batch)

    def name(row: int) -> str:
        return cache.texts("key", [row])[0]

    return fill(
        store, network, rows, groups, batches, part=part, batch_size=batch_size,
        progress=progress, name=name,
    )  # fmt: skip


def fill(
    store: FaceStore,
    network: Network,
    rows: Rows,
    groups: frozenset[str],
    batches: Batches,
    *,
    part: tuple[int, int] = WHOLE,
    batch_size: int | None = None,
    progress: Callable[[int], object] = lambda count: None,
    name: Callable[[int], str] = lambda row: f"image {row}",
) -> int:
    """Write the blocks of a part that the store lacks, whatever they are read from.

    Args:
        rows: all rows wanted, whatever the part.
        groups: names in `store.GROUPS`.
        part: (i, N): blocks i, i + N, …
        batch_size: crops of one forward pass; None = as suits the device.
        progress: called with the number of rows done.

    Returns:
        The number of rows that were lacking.

    Raises:
        EvaluationError: naming a face whose result is not finite.
        ModelError: when a user's network fails on the first faces, see `own_check`.
    """
    lacking, todo = _lacking(store, rows, groups), unfinished(store, rows, groups)
    mine = [todo[n] for n in shards_of(part, len(blocks_of(rows))) if n in todo]
    if not mine:
        return 0
    step = batch_size or batch_size_of(network)
    cuts = [[block[at : at + step] for at in range(0, len(block), step)] for block in mine]
    needed = [
        frozenset(group for group in groups if len(_within(lacking[group], block)))
        for block in mine
    ]
    crops = batches([chunk for chunks in cuts for chunk in chunks])
    wanted = (groups for groups, chunks in zip(needed, cuts, strict=True) for _ in chunks)
    found = _all_described(network, zip(crops, wanted, strict=False), name)
    for columns, chunks in zip(needed, cuts, strict=True):
        held = []
        for chunk, (there, values) in zip(chunks, found, strict=False):
            if len(there):
                held.append((there, values))
            progress(len(chunk))
        if held:
            _write(store, lacking, columns, held)
    return sum(map(len, mine))


def _all_described(
    network: Network,
    batches: Iterable[tuple[tuple[Rows, torch.Tensor, Beside], frozenset[str]]],
    name: Callable[[int], str],
) -> Iterator[tuple[Rows, dict[str, NDArray[Any]]]]:
    """Rows and columns of each batch, in order; several threads each work at one.

    Args:
        batches: rows, their crops and what the network takes besides, and the groups wanted.
    """
    workers, tried = workers_of(network), not network.is_foreign
    compared = network.precision == "float32"
    quick = quickened(network)

    def one(
        rows: Rows, images: torch.Tensor, beside: Beside, groups: frozenset[str]
    ) -> dict[str, NDArray[Any]]:
        if workers > 1:
            torch.set_num_threads(1)  # of this thread
        return _described(quick, rows, images, beside, groups, name) if len(rows) else {}

    waiting: deque[tuple[Rows, Future[dict[str, NDArray[Any]]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for (rows, images, beside), groups in batches:
            if not tried and len(rows):
                check_own(network.backbone, network.name, images)
                tried = True
            if not compared and len(rows):
                _say_change(quick, network, images, beside)
                compared = True
            waiting.append((rows, pool.submit(one, rows, images, beside, groups)))
            if len(waiting) > workers:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _say_change(quick: Network, network: Network, images: torch.Tensor, beside: Beside) -> None:
    """What the precision of what is run changes in the scores of some faces, on stderr."""
    plain = frozenset({"plain"})
    rough, exact = (
        one.describe(images, plain, **beside)["plain_embedding"]
        for one in (quick, replace(network, precision="float32"))
    )
    change = np.abs(rough @ rough.T - exact @ exact.T)[np.triu_indices(len(images), 1)]
    if len(change):
        say(
            f"--precision {network.precision} changes the cosines of the first {len(images)} faces "
            f"by {change.mean():.4f} on average, {change.max():.4f} at most"
        )


def describe_crops(
    network: Network,
    crops: Sequence[NDArray[np.uint8]],
    groups: frozenset[str],
    names: Sequence[str],
    beside: Beside | None = None,
) -> dict[str, NDArray[Any]]:
    """What the network says of crops in memory: the columns that a store would keep of them.

    Args:
        crops: N of (S, S, 3) uint8 RGB, N at least 1, all of one side that the network takes.
        groups: names in `store.GROUPS`.

    Returns:
        column → (N, …), see `store`.

    Raises:
        EvaluationError: naming a crop whose result is not finite.
    """
    parts = []
    step = batch_size_of(network)
    for start in range(0, len(crops), step):
        images = torch.from_numpy(np.stack(crops[start : start + step]))
        places = np.arange(start, start + len(images))
        told = {name: values[places] for name, values in (beside or {}).items()}
        parts.append(_described(network, places, images, told, groups, names.__getitem__))
    return {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}


def _described(
    network: Network,
    rows: Rows,
    images: torch.Tensor,
    beside: Beside,
    groups: frozenset[str],
    name: Callable[[int], str],
) -> dict[str, NDArray[Any]]:
    """What the network says of these crops; a result that is not finite is named by its face."""
    try:
        return network.describe(images, groups, **beside)
    except NotFiniteError as error:
        face = name(int(rows[error.place]))
        raise NotFiniteError(error.network, error.column, error.place, face) from None


def _lacking(store: FaceStore, rows: Rows, groups: frozenset[str]) -> dict[str, Rows]:
    return {group: store.missing(group, rows) for group in sorted(groups)}


def _within(rows: Rows, block: Rows) -> Rows:
    """Those of increasing `rows` that lie between the ends of a block."""
    return rows[np.searchsorted(rows, block[0]) : np.searchsorted(rows, block[-1], "right")]


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
