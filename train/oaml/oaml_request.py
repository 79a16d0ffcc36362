"""What a run of `train oaml` is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from faceguide.train.oaml.oaml_step import OamlSettings


@dataclass(frozen=True)
class OamlRun:
    """What `train oaml` is asked for.

    Attributes:
        backbone: a name in `train.models.MODELS` of a face backbone, or `module:function` of the
            user's own, see `train.models.own`.
        recipe: of a step.
        head: "adaface", "arcface" or "cosface".
        qaconv: version of the matcher, "2.1" or "2.0".
        weighting: how visibility enters the matcher.
        sampler: "pk", "graph" or "shuffle".
        images_per_person: K of the first two.
        batch_size: recognition images per batch and process.
        occlusion_batch: images of the second cache per batch and process.
        clean_share: of the occlusion batch, wholly visible faces.
        hold_out: share of the faces with known visibility that is kept for evaluation.
        rate: learning rate at the start.
        weight_decay: on all weights but those of BatchNorm.
        min_images: persons with fewer images are left out.
        meta: required values of meta columns.
        init: weights file or finished run of `train oaml` to start from, or None.
        colour: "RGB" or "BGR", the order of the channels that the backbone is fed; None = as
            `init` or the network tells.
        threads: of each stream.
    """

    backbone: str
    recipe: OamlSettings
    head: str = "adaface"
    qaconv: str = "2.1"
    weighting: str = "common"
    sampler: str = "pk"
    images_per_person: int = 4
    batch_size: int = 64
    occlusion_batch: int = 32
    clean_share: float = 0.2
    hold_out: float = 0.1
    rate: float = 0.1
    weight_decay: float = 5e-4
    min_images: int = 2
    meta: tuple[tuple[str, str], ...] = ()
    init: Path | None = None
    colour: str | None = None
    threads: int = 2
