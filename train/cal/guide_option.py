"""What --guide and --heads-per-region take."""

from __future__ import annotations

from typing import Any

import click

# Weights at which a prototype on real faces did no measurable harm; of `prior`, the first share.
DEFAULT_WEIGHTS = {
    "loss": 0.3,
    "regions": 1.0,
    "regions-log": 0.1,
    "counterfactual": 1.0,
    "prior": 0.3,
    "contrastive": 0.1,
}


class Guide(click.ParamType):
    """NAME or NAME=WEIGHT of a method of guidance; a record has [NAME, WEIGHT]."""

    name = "method"
    lists = True

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        recorded = isinstance(value, (list, tuple)) and len(value) == 2
        name, text = value if recorded else str(value).partition("=")[::2]
        if name not in DEFAULT_WEIGHTS:
            listed = ", ".join(DEFAULT_WEIGHTS)
            self.fail(f"{name!r} is not a method; choose from {listed}", param, ctx)
        if name == "counterfactual" and text and not recorded:
            self.fail("counterfactual has no weight; leave the = out", param, ctx)
        try:
            weight = float(text) if text else DEFAULT_WEIGHTS[name]
        except (TypeError, ValueError):
            self.fail(f"invalid weight {text!r}; write e.g. {name}=0.5", param, ctx)
        if not 0 < weight < float("inf") or (name == "prior" and weight >= 1):
            self.fail(f"the weight of {name} must be above 0 (prior: and below 1)", param, ctx)
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
