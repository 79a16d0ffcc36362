"""A tiny run of `train cal`, as the command would make it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from faceguide.cache.reader import FaceCache
from faceguide.train.cal.cal_run import run_cal
from faceguide.train.cal.cal_settings import CalRun, CalSettings, GuidanceSettings
from faceguide.train.distributed import Processes
from faceguide.train.run.metrics_log import read_metrics
from faceguide.train.run.run_context import RunContext
from faceguide.train.training_settings import LoopSettings

CROP = 32


def guided(**weights: float) -> GuidanceSettings:
    """Methods by name, with their weights: `guided(regions_log=0.1)`."""
    return GuidanceSettings(tuple((name.replace("_", "-"), w) for name, w in weights.items()))


ALL = {"loss": 0.3, "regions": 1.0, "regions_log": 0.1, "counterfactual": 1.0, "contrastive": 0.1}
EVERYTHING = guided(**ALL, prior=0.3)


def tiny_run(
    guidance: GuidanceSettings | None = None, *, batch_size: int = 6, **recipe: Any
) -> CalRun:
    """MobileFaceNet on 32 pixels with 8 heads on a 4×4 map."""
    return CalRun(
        model="cal_mobilefacenet",
        recipe=CalSettings(guidance=guidance or GuidanceSettings(), **recipe),
        crop=CROP,
        heads=8,
        batch_size=batch_size,
        rate=2e-4,
        weight_decay=1e-5,
        min_images=1,
    )


def train_tiny(
    cache: FaceCache, directory: Path, run: CalRun | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Train for `steps` (default 5) and return the lines of metrics.jsonl."""
    loop = LoopSettings(**{"epochs": 9, "steps": 5, "log_every": 1, "picture_every": 0, **options})
    context = RunContext(
        cache=cache, directory=directory, loop=loop, device=torch.device("cpu"),
        processes=Processes(),
    )  # fmt: skip
    run_cal(context, run or tiny_run())
    return read_metrics(directory)


def weights(directory: Path, name: str = "last.pt") -> dict[str, torch.Tensor]:
    """All tensors that a save holds of the trained module."""
    found: dict[str, torch.Tensor] = torch.load(directory / name, weights_only=True)["module"]
    return found
