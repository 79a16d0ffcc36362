"""Values of options that Click has no type for."""

from __future__ import annotations

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A number in a range; NaN, which no comparison refuses, and infinity are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if not math.isfinite(found):
            self.fail(f"{value} is not finite", param, ctx)
        return found


class Equals(click.ParamType):
    """NAME=VALUE."""

    name = "name=value"
    lists = True  # a record has [NAME, VALUE]

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, (list, tuple)) and len(value) == 2:
            return str(value[0]), str(value[1])
        name, sign, text = str(value).partition("=")
        if not name or not sign:
            self.fail(f"expected NAME=VALUE such as split=train, found {value!r}", param, ctx)
        return name, text


class Weighted(Equals):
    """NAME=WEIGHT, 0 or above."""

    name = "name=weight"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        name, text = super().convert(value, param, ctx)
        return name, FiniteRange(0).convert(text, param, ctx)


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
            raise click.BadParameter(f"{name} is given more than once", context, option)
    return values
