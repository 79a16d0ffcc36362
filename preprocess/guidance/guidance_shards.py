"""The work of `prep guidance`: one shard of heatmaps and region masks, from cached landmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.plan import Plan
from faceguide.cache.schema import STATUS_CODE
from faceguide.cache.shard import is_done, shard_path, write_shard
from faceguide.cache.volume import read_finished
from faceguide.core.errors import CacheError
from faceguide.preprocess.guidance.drawing import GuidanceSettings, render
from faceguide.preprocess.parallel import Tick

_BLOCK = 256


def make_guidance(
    directory: Path,
    plan: Plan,
    recipe: dict[str, Any],
    settings: GuidanceSettings,
    shard: int,
    tick: Tick,
) -> None:
    """Render one shard unless it is finished under this recipe.

    Raises:
        CacheError: when the shard of faces is not there.
    """
    if is_done(directory, "guidance", shard, recipe):
        for _ in range(plan.rows_of(shard)):
            tick()
        return
    landmarks = read_faces(directory, plan, shard, "landmarks")
    rows = len(landmarks)
    blocks = []
    for start in range(0, rows, _BLOCK):
        block = landmarks[start : start + _BLOCK]
        blocks.append(render(block, settings, size=int(plan.recipe["size"])))
        for _ in block:
            tick()
    heatmap, regions = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    known = np.isfinite(landmarks[:, :, :2]).all((1, 2))
    report = {"status": _counts(known), "failures": []}
    with write_shard(
        directory, "guidance", shard, recipe, rows=rows, texts={}, report=report
    ) as writer:
        writer.write("heatmap", 0, heatmap)
        writer.write("regions", 0, regions)


def read_faces(directory: Path, plan: Plan, shard: int, name: str) -> NDArray[Any]:
    """One column of a finished shard of faces, whose group need not be sealed yet.

    Raises:
        CacheError: when the shard is not there, or is not what was written.
    """
    if not is_done(directory, "faces", shard, plan.recipe):
        path = shard_path(directory, "faces", shard)
        raise CacheError(f"{path}: not there yet; run `prep landmarks` to its end first")
    return read_finished(directory, plan, shard, name)


def _counts(known: NDArray[np.bool_]) -> dict[str, int]:
    counts = {"ok": int(known.sum()), "no_face": int((~known).sum())}
    assert set(counts) <= set(STATUS_CODE)
    return {name: count for name, count in counts.items() if count}
