"""The embeddings of a run, or of one part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.parts import WHOLE
from faceguide.core.errors import Unfinished
from faceguide.evaluate.evaluation_options import RunOptions, progress_bar
from faceguide.evaluate.score.embed import blocks_of, embed_rows, store_key, unfinished
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.score.prepare import Needs
from faceguide.train.models.loading.network import Network


@dataclass(frozen=True)
class Embedded:
    """What came of the embeddings of a run, or of its part.

    Attributes:
        store: all faces of the run; None when other parts are needed first.
    """

    computed: int
    store: FaceStore | None


def embed_part(
    open_store: Callable[[], FaceStore],
    compute: Callable[[FaceStore, tuple[int, int]], int],
    lacking: Callable[[FaceStore], Sequence[int]],
    blocks: int,
    run: RunOptions,
) -> Embedded:
    """Embed what this process is to embed, and see whether that makes the run complete.

    Args:
        compute: embeds a part; returns the number of faces.
        lacking: blocks that are not finished.

    Raises:
        Unfinished: when nothing is to be computed and blocks are missing.
    """
    store = open_store()
    computed = 0 if run.merging else compute(store, run.part)
    if run.todo == WHOLE:
        return Embedded(computed, store)
    if not run.merging:
        store = open_store()  # other parts have gone on meanwhile
    missing = lacking(store)
    if missing and run.merging:
        raise Unfinished(run.out, "embeddings", missing, blocks)
    return Embedded(computed, None if missing else store)


def embed_cached(
    cache: FaceCache,
    network: Network,
    rows: NDArray[np.int64],
    groups: frozenset[str],
    run: RunOptions,
) -> Embedded:
    """`embed_part` over rows of a cache.

    Args:
        run: which part, and whose store is filled.
    """

    def compute(store: FaceStore, part: tuple[int, int]) -> int:
        todo = max((len(store.missing(group, rows)) for group in groups), default=0)
        progress = progress_bar("faces", todo // part[1])
        return embed_rows(
            cache, network, store, rows, groups,
            part=part, batch_size=run.batch_size, progress=progress,
        )  # fmt: skip

    return embed_part(
        lambda: FaceStore.open(run.embeddings or run.out, store_key(cache, network)),
        compute,
        lambda store: list(unfinished(store, rows, groups)),
        len(blocks_of(rows)),
        run,
    )


def part_record(run: RunOptions, embedded: Embedded, needs: Needs | None = None) -> dict[str, Any]:
    """What a part of a run has to say, in place of the record of the run.

    `waits` says whether it must be rerun: scores that are not cheap can be computed only
    once all parts have embedded.
    """
    waits = needs is not None and not needs.cheap and embedded.store is None
    return {"part": run.part, "computed": embedded.computed, "waits": waits}
