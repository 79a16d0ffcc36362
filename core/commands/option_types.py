"""Values of options that Click has no type for."""

from __future__ import annotations

import math
from collections.abc import Mapping
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


class NamedNumber(click.ParamType):
    """NAME=NUMBER, of known names; a record has [NAME, NUMBER].

    Args:
        name: what `--help` shows.
        what: a name is, with its article.
        known: name → its number where none is written; None = one has to be.
        numbers: those that are allowed.
    """

    lists = True

    def __init__(
        self, name: str, what: str, known: Mapping[str, float | None], numbers: FiniteRange
    ) -> None:
        self.name, self._what, self._known, self._numbers = name, what, known, numbers

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, float]:
        recorded = isinstance(value, (list, tuple)) and len(value) == 2
        name, text = value if recorded else str(value).partition("=")[::2]
        if name not in self._known:
            listed = ", ".join(self._known)
            self.fail(f"{name!r} is not {self._what}; choose from {listed}", param, ctx)
        number = self._known[name] if text == "" else text
        if number is None:
            self.fail(f"{name} needs a number; write e.g. {name}=0.5", param, ctx)
        try:
            return name, self._numbers.convert(number, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{name}: {error.message} Write e.g. {name}=0.5", param, ctx)


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
