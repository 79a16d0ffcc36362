"""A tiny run of `train distil`, as the command would make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from faceguide.cache.reader import FaceCache
from faceguide.train.distil.distil_run import run_distil
from faceguide.train.distil.distil_settings import DistilRun, DistilSettings
from faceguide.train.distributed import Processes
from faceguide.train.models import create
from faceguide.train.run.run_context import RunContext
from faceguide.train.training_settings import LoopSettings


def weights(path: Path, name: str = "mobilefacenet", **arguments: Any) -> Path:
    """Random weights whose norms have seen some noise, so that no layer is degenerate."""
    torch.manual_seed(0)
    network = create(name, **arguments).train()
    side = network.input_spec.size
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, 3, side, side))
    torch.save(network.state_dict(), path)
    return path


def distil(
    cache: FaceCache,
    directory: Path,
    init: Path,
    recipe: DistilSettings | None = None,
    steps: int = 3,
    rate: float = 5e-4,
    more: dict[str, Any] | None = None,
    **loop: Any,
) -> dict[str, Any]:
    """Batches of 4 covered, 2 swapped and 2 unaltered faces, from the 7×7 blocks on."""
    how = {"epochs": 9, "steps": steps, "log_every": 1, "picture_every": 0, **loop}
    context = RunContext(
        cache=cache, directory=directory, loop=LoopSettings(**how), device=torch.device("cpu"),
        processes=Processes(),
    )  # fmt: skip
    asked = {"from_layer": "features.12", "clean_limit": 0.0, **(more or {})}
    recipe = recipe or DistilSettings(clean_limit=asked.pop("clean_limit"))
    asked.pop("clean_limit", None)
    run = DistilRun(init=init, batch_size=8, rate=rate, recipe=recipe, **asked)
    return run_distil(context, run)
