"""Values of options that Click has no type for."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import click

# Here and not beside the methods: `train --help` must not wait for torch.
METHODS = ("loss", "regions", "regions-log", "counterfactual", "prior", "contrastive")
# Weights at which a prototype on real faces did no measurable harm; of `prior`, the first share.
DEFAULT_WEIGHTS = {
    "loss": 0.3,
    "regions": 1.0,
    "regions-log": 0.1,
    "counterfactual": 1.0,
    "prior": 0.3,
    "contrastive": 0.1,
}


class FiniteRange(click.FloatRange):
    """A number in a range; NaN, which no comparison refuses, and infinity are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number."""
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not finite", param, ctx)
        return found


class Start(click.Path):
    """A weights file, or the directory of a finished run of `train oaml`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        found = Path(os.fsdecode(super().convert(value, param, ctx)))
        if found.is_dir() and not (found / "backbone.safetensors").exists():
            self.fail(
                f"{found} is neither weights nor a finished run of train oaml (it has no "
                "backbone.safetensors)",
                param,
                ctx,
            )
        return found


class Guide(click.ParamType):
    """NAME or NAME=WEIGHT of a method of guidance."""

    name = "method"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        """The method and its weight."""
        if isinstance(value, tuple):
            return value
        name, _, text = str(value).partition("=")
        if name not in METHODS:
            self.fail(f"{name!r} is no method; choose from {', '.join(METHODS)}", param, ctx)
        if name == "counterfactual" and text:
            self.fail("counterfactual has no weight; leave the = out", param, ctx)
        try:
            weight = float(text) if text else DEFAULT_WEIGHTS[name]
        except ValueError:
            self.fail(f"{text!r} is no weight; write e.g. {name}=0.5", param, ctx)
        if not 0 < weight < float("inf") or (name == "prior" and weight >= 1):
            self.fail(f"the weight of {name} must be above 0 (prior: and below 1)", param, ctx)
        return name, weight

    def text(self, value: tuple[str, float]) -> str:
        """What `convert` takes."""
        name, weight = value
        return name if name == "counterfactual" else f"{name}={weight!r}"


class Counts(click.ParamType):
    """Three whole numbers, comma-separated."""

    name = "eyes,nose,mouth"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The three numbers."""
        if isinstance(value, tuple):
            return value
        parts = str(value).split(",")
        if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
            self.fail(f"expected three numbers such as 12,8,8, found {value!r}", param, ctx)
        return tuple(int(part) for part in parts)

    def text(self, value: tuple[int, ...]) -> str:
        """What `convert` takes."""
        return ",".join(map(str, value))


class Equals(click.ParamType):
    """NAME=VALUE."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Name and value."""
        if isinstance(value, tuple):
            return value
        name, sign, text = str(value).partition("=")
        if not name or not sign:
            self.fail(f"expected NAME=VALUE such as split=train, found {value!r}", param, ctx)
        return name, text

    def text(self, value: tuple[str, str]) -> str:
        """What `convert` takes."""
        return "=".join(value)


class Backbone(click.ParamType):
    """A name of ours, or `module:function` of the user's own."""

    name = "backbone"

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The text itself, if it can be a backbone."""
        if ":" not in value and value not in self.names:
            listed = ", ".join(self.names)
            self.fail(f"{value!r}: choose one of {listed}, or give module:function", param, ctx)
        return value


def once_each(
    context: click.Context, option: click.Parameter, values: tuple[tuple[str, Any], ...]
) -> tuple[tuple[str, Any], ...]:
    """The values of a repeated option NAME=VALUE, once no name stands there twice.

    Raises:
        click.BadParameter: when one does: which of the two is meant?
    """
    names = [name for name, _ in values]
    for name in names:
        if names.count(name) > 1:
            raise click.BadParameter(f"{name} is given twice", context, option)
    return values


device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto (CUDA where it is there), cpu, cuda or cuda:N.",
)
