"""What a `train oaml` run measures at the end of an epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from faceguide.cache.reader import FaceCache
from faceguide.train.models.embedder import embed
from faceguide.train.oaml.oaml_batches import Covered
from faceguide.train.oaml.oaml_settings import OamlRun
from faceguide.train.oaml.oaml_step import OamlTrainee
from faceguide.train.oaml.visibility_metrics import evaluate_visibility, mean_visibility
from faceguide.train.pair_evaluation import Pairs, verify

Evaluation = Callable[[], dict[str, float]]


def evaluation_of(
    trainee: OamlTrainee,
    run: OamlRun,
    covered: Covered | None,
    pairs: tuple[FaceCache, Pairs] | None,
    device: torch.device,
) -> Evaluation | None:
    """What is measured at the end of an epoch; None when there is nothing to measure on."""
    held = covered if covered is not None and len(covered.held) else None
    if held is None and pairs is None:
        return None
    mean = torch.ones(run.recipe.map_size, run.recipe.map_size)
    if held is not None:
        learnt = np.concatenate([held.veiled, held.clean])
        mean = mean_visibility(held.cache, learnt, run.recipe.map_size)

    def predict(images: Tensor) -> Tensor:
        pixels = trainee.backbone.input_spec.prepare(images)
        maps = trainee.backbone.feature_map(pixels, run.recipe.map_size)
        return trainee.occlusion_head(maps)[:, 0]

    def describe(images: Tensor) -> Tensor:
        return embed(trainee.backbone, trainee.backbone.input_spec.prepare(images))[0]

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        trainee.eval()
        values: dict[str, float] = {}
        shared: dict[str, Any] = {"batch_size": run.batch_size, "device": device}
        if held is not None:
            values |= evaluate_visibility(held.cache, held.held, mean, predict, **shared)
            values["score"] = -values["visibility_mse"]
        if pairs is not None:
            values |= verify(*pairs, describe, **shared)
        return values

    return evaluate
