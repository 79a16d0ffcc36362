"""The work of `prep guidance`: one shard of heatmaps and region masks, from cached landmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from faceguide.cache.plan import Plan
from faceguide.cache.shard import is_done, write_shard
from faceguide.cache.volume import read_faces
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
    (landmarks,) = read_faces(directory, plan, shard, "landmarks")
    rows = len(landmarks)
    blocks = []
    for start in range(0, rows, _BLOCK):
        block = landmarks[start : start + _BLOCK]
        blocks.append(render(block, settings, size=int(plan.recipe["size"])))
        for _ in block:
            tick()
    heatmap, regions = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    known = np.isfinite(landmarks[:, :, :2]).all((1, 2))
    counts = {"ok": int(known.sum()), "no_face": int((~known).sum())}
    report = {"status": {name: n for name, n in counts.items() if n}, "failures": []}
    with write_shard(
        directory, "guidance", shard, recipe, rows=rows, texts={}, report=report
    ) as writer:
        writer.write("heatmap", 0, heatmap)
        writer.write("regions", 0, regions)
