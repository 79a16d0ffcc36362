"""What `train cal` is asked for: its options, their defaults and their record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from faceguide.core.commands.option_types import FiniteRange, once_each
from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import FILE
from faceguide.train.cal.guide_option import DEFAULT_WEIGHTS, Counts, Guide
from faceguide.train.training_settings import POSITIVE, Fit, Recipe

MODELS = Literal[
    "cal_resnet18", "cal_resnet34", "cal_resnet50", "cal_resnet101", "cal_resnet152",
    "cal_mobilefacenet",
]  # fmt: skip
MARGIN = 0.5  # cosine without penalty, method 5


@dataclass(frozen=True)
class GuidanceSettings:
    """Which methods guide attention.

    `guides` are `loss`, method 1, the landmark-weighted attention loss; `regions`, method 2, heads
    assigned to regions; `regions-log`, its logarithmic form; `counterfactual`, method 3, fake
    attention that avoids the landmarks, its weight has no meaning; `prior`, method 4, the weight
    is its share at the first step, which falls to 0; `contrastive`, method 5.
    """

    guides: tuple[tuple[str, float], ...] = option(
        (),
        f"Guide attention by landmarks: {', '.join(DEFAULT_WEIGHTS)}, =WEIGHT replaces "
        "the default weight. May be repeated.",
        "--guide", type=Guide(), multiple=True, callback=once_each,
    )  # fmt: skip
    assignment: tuple[int, ...] | None = option(
        None, "Heads of eyes,nose,mouth; the others stay free.  [default: 3/8, 1/4, 1/4 of all]",
        "--heads-per-region", type=Counts(), multiple=False,
    )  # fmt: skip
    margin: float = option(
        MARGIN, "Margin of --guide contrastive: no penalty below this cosine.",
        "--contrastive-margin", type=FiniteRange(-1, 1),
    )  # fmt: skip
    template: bool = option(
        False, "Also guide by the template's mean landmarks.", "--guide-template"
    )

    def weight(self, method: str) -> float:
        """Weight of a method; 0 when it is off."""
        return dict(self.guides).get(method, 0.0)


@dataclass(frozen=True, kw_only=True)
class CalSettings(Recipe):
    """The recipe of a step; the defaults are the published ones."""

    guidance: GuidanceSettings = GuidanceSettings()
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
