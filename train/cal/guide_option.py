"""How `train cal` guides attention: its options, their defaults and their record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from faceguide.core.commands.option_types import FiniteRange, NamedNumber, once_each
from faceguide.core.commands.settings import option

# Weights at which a prototype on real faces did no measurable harm; of `prior`, the first share.
DEFAULT_WEIGHTS = {
    "loss": 0.3,
    "oval": 0.3,
    "regions": 1.0,
    "regions-log": 0.1,
    "counterfactual": 1.0,
    "prior": 0.3,
    "contrastive": 0.1,
}

OUTSIDE_LOSS = 0.5  # penalty outside, method 1
OUTSIDE_REGIONS = 0.3  # penalty outside, method 2
INSIDE_RANGE = (0.0, 0.3)  # fake attention on landmarks, method 3
OUTSIDE_RANGE = (0.5, 1.5)  # fake attention elsewhere, method 3
MARGIN = 0.5  # cosine without penalty, method 5


class Guide(NamedNumber):
    """NAME or NAME=WEIGHT of a method of guidance."""

    def __init__(self) -> None:
        super().__init__("method", "a method", DEFAULT_WEIGHTS, FiniteRange(0, min_open=True))

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        name, weight = super().convert(value, param, ctx)
        if str(value).startswith("counterfactual="):
            self.fail("counterfactual has no weight; leave the = out", param, ctx)
        if name == "prior" and weight >= 1:
            self.fail("the weight of prior, a share, must be below 1", param, ctx)
        return name, weight


class Counts(click.ParamType):
    """Three whole numbers, comma-separated."""

    name = "eyes,nose,mouth"
    lists = True

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
        if len(parts) != 3 or not all(str(part).strip().isdigit() for part in parts):
            self.fail(f"expected three numbers such as 12,8,8, found {value!r}", param, ctx)
        return tuple(int(part) for part in parts)


class Range(click.ParamType):
    """Two numbers from 0 on, the lower one first, comma-separated."""

    name = "low,high"
    lists = True

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        parts = value if isinstance(value, (list, tuple)) else str(value).split(",")
        try:
            low, high = (float(part) for part in parts)
        except (TypeError, ValueError):
            low, high = 1.0, 0.0
        if not 0 <= low <= high < float("inf"):
            self.fail(f"expected two numbers such as 0.5,1.5, found {value!r}", param, ctx)
        return low, high

    def text(self, value: tuple[float, ...]) -> str:
        """What `convert` takes."""
        return ",".join(f"{number:g}" for number in value)


@dataclass(frozen=True)
class GuidanceSettings:
    """Which methods guide attention.

    `guides` are `loss`, method 1, the landmark-weighted attention loss; `oval`, the same inside the
    oval of the face; `regions`, method 2, heads assigned to regions; `regions-log`, its logarithmic
    form; `counterfactual`, method 3, fake attention that avoids the landmarks, its weight has no
    meaning; `prior`, method 4, the weight is its share at the first step, which falls to 0;
    `contrastive`, method 5.
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
    outside: float = option(
        OUTSIDE_LOSS, "Penalty of --guide loss and oval for energy outside; inside counts -1.",
        "--outside-penalty", type=FiniteRange(0),
    )  # fmt: skip
    outside_region: float = option(
        OUTSIDE_REGIONS,
        "Penalty of --guide regions for energy outside a head's region; inside counts -1.",
        "--outside-region-penalty", type=FiniteRange(0),
    )  # fmt: skip
    fake_inside: tuple[float, ...] = option(
        INSIDE_RANGE, "Range of fake attention on landmarks, --guide counterfactual; CAL's is 0,2.",
        type=Range(), multiple=False,
    )  # fmt: skip
    fake_outside: tuple[float, ...] = option(
        OUTSIDE_RANGE,
        "Range of fake attention off landmarks, --guide counterfactual; CAL's is 0,2.",
        type=Range(), multiple=False,
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
