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
from faceguide.train.models.backbones.backbone import FaceBackbone
from faceguide.train.run.run_context import RunContext
from faceguide.train.training_settings import LoopSettings


def settled(name: str, **arguments: Any) -> FaceBackbone:
    """Random weights whose norms have seen noise, so that no layer is degenerate; in eval mode."""
    torch.manual_seed(0)
    network: FaceBackbone = create(name, **arguments).train()
    side = network.input_spec.size
    beside = {"keypoints": torch.rand(4, 5, 2)} if network.needs_keypoints else {}
    with torch.no_grad():
        network(torch.randn(4, 3, side, side), **beside)
    return network.eval()


def weights(path: Path, name: str = "mobilefacenet", **arguments: Any) -> Path:
    """A file of such weights."""
    torch.save(settled(name, **arguments).state_dict(), path)
    return path


def distil(
    cache: FaceCache,
    directory: Path,
    init: Path,
    recipe: DistilSettings | None = None,
    *,
    rate: float = 5e-4,
    options: dict[str, Any] | None = None,
    maps: Path | None = None,
    **loop: Any,
) -> dict[str, Any]:
    """Batches of 4 covered, 2 swapped and 2 unaltered faces, from the 7×7 blocks on."""
    how = {"epochs": 9, "steps": 3, "log_every": 1, "picture_every": 0, **loop}
    context = RunContext(
        cache=cache, directory=directory, loop=LoopSettings(**how), device=torch.device("cpu"),
        processes=Processes(),
    )  # fmt: skip
    asked = {"from_layer": "features.12", **(options or {})}
    recipe = recipe or DistilSettings(clean_limit=0.0)
    return run_distil(
        context, DistilRun(init=init, batch_size=8, rate=rate, recipe=recipe, **asked), maps
    )
