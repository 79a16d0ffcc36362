"""A tiny run of `train oaml`, as the command would make it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from faceguide.cache.reader import FaceCache
from faceguide.train.distributed import Processes
from faceguide.train.models import create
from faceguide.train.oaml.oaml_run import run_oaml
from faceguide.train.oaml.oaml_settings import OamlRun, OamlSettings
from faceguide.train.run.metrics_log import read_metrics
from faceguide.train.run.run_context import RunContext
from faceguide.train.training_settings import LoopSettings


def tiny_run(recipe: OamlSettings | None = None, **options: Any) -> OamlRun:
    """MobileFaceNet, batches of 2 identities with 3 images, 3 covered faces behind them."""
    return OamlRun(
        recipe=recipe or OamlSettings(),
        **{
            "backbone": "mobilefacenet",
            "batch_size": 6,
            "images_per_person": 3,
            "occlusion_batch": 3,
            "rate": 1e-3,
            "weight_decay": 5e-4,
            "min_images": 2,
            "hold_out": 0.2,
            **options,
        },
    )


def started(run: OamlRun, weights: Path) -> OamlRun:
    """The same run with `weights` to start from: those that its seed draws without."""
    torch.manual_seed(run.recipe.seed)
    create(run.backbone)  # one is made to be looked at
    torch.save(create(run.backbone).state_dict(), weights)
    return replace(run, init=weights)


def train_tiny(
    cache: FaceCache,
    directory: Path,
    run: OamlRun | None = None,
    second: FaceCache | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Train for `steps` (default 3) and return the lines of metrics.jsonl."""
    loop = LoopSettings(**{"epochs": 9, "steps": 3, "log_every": 1, "picture_every": 0, **options})
    context = RunContext(
        cache=cache, directory=directory, loop=loop, device=torch.device("cpu"),
        processes=Processes(),
    )  # fmt: skip
    run_oaml(context, run or tiny_run(), second)
    return read_metrics(directory)
