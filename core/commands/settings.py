"""One declaration per option: a dataclass field is the Click option, its help, and its record.

A command's settings are a few frozen dataclasses, each about one concern. `typed_settings` makes
Click options of their fields; run.json, `--from`, what must be equal to resume, parts and merges
read the same fields.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import cattrs
import click
from typed_settings.cli_click import click_options

from faceguide.core.errors import FaceguideError

# What commands declare and record their settings with.
__all__ = ["fixed", "from_json", "option", "parameters", "settings", "to_json"]

Settings = TypeVar("Settings")
Command = TypeVar("Command", bound=Callable[..., Any])

_FREE = "faceguide.free"  # key of a field's metadata


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *flags: str,
    free: bool = False,
    **click_arguments: Any,
) -> Any:
    """A dataclass field that is an option of a command.

    Args:
        default: without one the option is required.
        help: its line in `--help`, with the unit.
        flags: names of the option; default: the field's name with dashes.
        free: may differ when a run is resumed (how and where, not what).
        click_arguments: of `click.option`: `type` with a range, `multiple`, `metavar` …
    """
    about: dict[str, Any] = {"help": help, "click": dict(click_arguments)}
    if flags:
        about["click"]["param_decls"] = flags
    return dataclasses.field(default=default, metadata={"typed-settings": about, _FREE: free})


def settings(**classes: type) -> Callable[[Command], Command]:
    """Give a command the options of these dataclasses, and an instance of each by keyword."""

    def decorate(command: Command) -> Command:
        for name, kind in reversed(classes.items()):
            command = click_options(kind, [], argname=name)(command)
        return command

    return decorate


_converter = cattrs.Converter(forbid_extra_keys=True)
_converter.register_unstructure_hook(Path, str)
_converter.register_structure_hook(Path, lambda value, _: Path(value))


def _strict(kind: type) -> Callable[[Any, Any], Any]:
    """A value of exactly this kind: cattrs would make a number of "3" and a truth of "no"."""

    def structure(value: Any, _: Any) -> Any:
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"expected {kind.__name__}, found {value!r:.40}")
        return kind(value)

    return structure


for _kind in (bool, int, float, str):
    _converter.register_structure_hook(_kind, _strict(_kind))


def to_json(value: Any) -> Any:
    """Settings as JSON values: paths as text, tuples as lists, as JSON gives them back."""
    return json.loads(json.dumps(_converter.unstructure(value), allow_nan=False))


def from_json(kind: type[Settings], value: Mapping[str, Any], where: object) -> Settings:
    """Settings that `to_json` wrote.

    Args:
        kind: the dataclass.
        value: field → JSON value; absent fields take their defaults.
        where: the file, for the error.

    Raises:
        FaceguideError: when a field is unknown, missing or of another type.
    """
    try:
        return _converter.structure(value, kind)
    except Exception as error:  # cattrs raises groups of anything
        reason = "; ".join(cattrs.transform_error(error))
        raise FaceguideError(f"{where}: not settings of this version ({reason})") from None


def fixed(*given: Any) -> dict[str, Any]:
    """Field → JSON value of what must be equal for a run to be resumed."""
    found: dict[str, Any] = {}
    for one in given:
        values = to_json(one)
        for field in dataclasses.fields(one):
            if not field.metadata.get(_FREE):
                found[field.name] = values[field.name]
    return found


def parameters(kind: type, command: click.Command) -> dict[str, click.Parameter]:
    """Field name → the option that `settings` made of it."""
    by_flag = {flag: found for found in command.params for flag in found.opts}
    made = {}
    for field in dataclasses.fields(kind):
        flags = field.metadata.get("typed-settings", {}).get("click", {}).get("param_decls")
        made[field.name] = by_flag[flags[0] if flags else f"--{field.name.replace('_', '-')}"]
    return made
