"""What `train cal` is asked for: its options, their defaults and their record."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click

from faceguide.core.commands.option_types import FiniteRange
from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import FILE
from faceguide.train.cal.guide_option import GuidanceSettings
from faceguide.train.training_settings import POSITIVE, Fit, Recipe

MODELS = Literal[
    "cal_resnet18", "cal_resnet34", "cal_resnet50", "cal_resnet101", "cal_resnet152",
    "cal_mobilefacenet",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CalSettings(Recipe):
    """The recipe of a step; the defaults are the published ones."""

    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    views: bool = option(True, "Also train on the attention crop and the attention drop.")


@dataclass(frozen=True, kw_only=True)
class CalRun(Fit):
    """What is learnt, and how."""

    model: MODELS = option("cal_resnet101", "Network to train.")
    heads: int = option(32, "Number of attention maps.", type=POSITIVE)
    stride: Literal[16, 32] = option(16, "Pixels per cell of the attention map; 32 is faster.")
    crop: int | None = option(
        None, "Side of the training crop.  [default: 7/8 of a cache with margin, else all]",
        type=click.IntRange(16),
    )  # fmt: skip
    recipe: CalSettings = CalSettings()
    forwards: Literal[1, 2, 8] = option(1, "Views per image in the evaluation.", free=True)
    rate: float = option(
        1e-3,
        "Learning rate, multiplied by 0.9 every two epochs.",
        "--lr",
        type=FiniteRange(0, min_open=True),
    )


@dataclass(frozen=True)
class ContrastiveList:
    """Pairs that guidance method 5 takes; which they are stands in the resume key."""

    contrastive_pairs: Path | None = option(
        None,
        "Pairs for --guide contrastive (twins, hard negatives): CSV, pairs.txt or ND-TWIN JSON.  "
        "[default: split train of --pairs, if it is ND-TWIN's]",
        type=FILE, free=True,
    )  # fmt: skip
    contrastive_split: str | None = option(
        None,
        "Part of --contrastive-pairs, if it is an ND-TWIN JSON file.  [default: train]",
        free=True,
    )
