"""One declaration per option: a dataclass field is the Click option, its help, and its record.

A command's settings are a few frozen dataclasses, each about one concern. `settings` makes Click
parameters of their fields; run.json, `--from`, what must be equal to resume, parts and merges read
the same fields.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import click

from faceguide.core.errors import FaceguideError

# What commands declare and record their settings with.
__all__ = ["fixed", "from_json", "option", "parameters", "settings", "to_json"]

Settings = TypeVar("Settings")
Command = TypeVar("Command", bound=Callable[..., Any])

REQUIRED: Any = dataclasses.MISSING  # the default of an option that has none
_CLICK, _FREE = "faceguide.click", "faceguide.free"  # keys of a field's metadata
FREE = {_FREE: True}  # metadata of a field that is no option and may differ too


def option(
    default: Any = REQUIRED, help: str = "", *flags: str, free: bool = False, **click_arguments: Any
) -> Any:
    """A dataclass field that is an option of a command.

    Args:
        default: REQUIRED, unless `settings` gets one for its command; a function makes one, as
            `dict` does.
        help: its line in `--help`, with the unit.
        flags: names of the option; default: the field's name with dashes.
        free: may differ when a run is resumed (how and where, not what).
        click_arguments: of `click.option`: `type` with a range, `multiple`, `metavar` …
    """
    about = {"flags": flags, "help": help, **click_arguments}
    metadata = {_CLICK: about, _FREE: free}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def argument(**click_arguments: Any) -> Any:
    """A dataclass field that is a positional parameter of a command, of `click.argument`."""
    return dataclasses.field(metadata={_CLICK: {"flags": None, **click_arguments}})


def settings(
    defaults: Mapping[str, Any] | None = None, /, **classes: type
) -> Callable[[Command], Command]:
    """Give a command the options of these dataclasses, and an instance of each by keyword.

    Fields that `option` did not make keep their defaults, but for dataclasses with options.

    Args:
        defaults: field → default, where commands that share a dataclass differ.
        classes: keyword → dataclass.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(*positional: Any, **values: Any) -> Any:
            made = {name: _made(kind, values) for name, kind in classes.items()}
            return command(*positional, **values, **made)

        decorated: Any = call
        for kind in reversed(classes.values()):
            for field, hint in reversed(list(_options(kind))):
                decorated = _click_option(field, hint, defaults or {})(decorated)
        return decorated

    return decorate


def _options(kind: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Fields that are options, with their types; those of a dataclass inside in its place."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if _CLICK in field.metadata:
            yield field, hints[field.name]
        elif dataclasses.is_dataclass(hints[field.name]):
            yield from _options(hints[field.name])


def _holds_options(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) and next(_options(kind), None) is not None  # type: ignore[arg-type]


def _made(kind: type, values: dict[str, Any]) -> Any:
    """An instance from the values of a command, which are taken out of `values`."""
    hints: dict[str, Any] = get_type_hints(kind)
    own: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        inside = hints[field.name]
        if _CLICK in field.metadata:
            value = values.pop(field.name)
            if value is not None or field.default_factory is dataclasses.MISSING:
                own[field.name] = value
        elif _holds_options(inside):
            own[field.name] = _made(inside, values)
    return kind(**own)


def _click_option(
    field: dataclasses.Field[Any], hint: Any, defaults: Mapping[str, Any]
) -> Callable[[Any], Any]:
    arguments = {**_of_type(hint), **field.metadata[_CLICK]}
    flags = arguments.pop("flags")
    if flags is None:
        return click.argument(field.name, **arguments)
    dashed = f"--{field.name.replace('_', '-')}"
    default = defaults.get(field.name, field.default)
    if default is dataclasses.MISSING:
        arguments.setdefault("required", field.default_factory is dataclasses.MISSING)
    elif default is not None and default is not False and default != ():
        kind = arguments["type"]
        text = str if isinstance(kind, click.Choice) else getattr(kind, "text", None)
        many = arguments.get("multiple")
        arguments["default"] = default if many or text is None else text(default)
        arguments.setdefault("show_default", True)
    else:  # Click would show an option that is off as a default too
        arguments["default"] = default
    if arguments.get("is_flag") and default is True:
        dashed = f"{dashed}/--no-{dashed[2:]}"
    return click.option(*(flags or (dashed,)), field.name, **arguments)


def _of_type(hint: Any) -> dict[str, Any]:
    """What Click needs to know of a field's type."""
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    if get_origin(hint) is Literal:
        return {"type": click.Choice(kinds)}
    if get_origin(hint) is tuple:
        return {**_of_type(kinds[0]), "multiple": True}
    if get_origin(hint) is None:
        if hint is bool:
            return {"type": bool, "is_flag": True}
        return {"type": click.Path(path_type=Path) if hint is Path else hint}
    return _of_type(kinds[0])  # of X | None


@functools.cache
def _converter() -> Any:
    import cattrs  # here, so that --help need not wait for it

    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook(Path, lambda value, _: Path(value))
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _strict(kind))
    return converter


def _strict(kind: type) -> Callable[[Any, Any], Any]:
    """A value of exactly this kind: cattrs would make a number of "3" and a truth of "no"."""

    def structure(value: Any, _: Any) -> Any:
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise TypeError(f"expected {kind.__name__}, found {value!r:.40}")
        return kind(value)

    return structure


def to_json(value: Any) -> Any:
    """Settings as JSON values: paths as text, tuples as lists, as JSON gives them back."""
    return json.loads(json.dumps(_converter().unstructure(value), allow_nan=False))


def from_json(kind: type[Settings], value: Mapping[str, Any], where: object) -> Settings:
    """Settings that `to_json` wrote.

    Args:
        value: field → JSON value; absent fields take their defaults.
        where: the file, for the error.

    Raises:
        FaceguideError: when a field is unknown, missing or of another type.
    """
    from cattrs import transform_error

    try:
        found: Settings = _converter().structure(value, kind)
        return found
    except Exception as error:  # cattrs raises groups of anything
        reason = "; ".join(transform_error(error))
        raise FaceguideError(f"{where}: not settings of this version ({reason})") from None


def fixed(*given: Any) -> dict[str, Any]:
    """Field → JSON value of what must be equal for a run to be resumed; paths are absolute.

    Options of a dataclass inside come in its place.
    """
    return {name: value for field, name, value in _flat(given) if not field.metadata.get(_FREE)}


def recorded(*given: Any) -> dict[str, Any]:
    """Option → JSON value, for run.json; paths are absolute."""
    return {name: value for field, name, value in _flat(given) if _CLICK in field.metadata}


def _flat(given: tuple[Any, ...]) -> Iterator[tuple[dataclasses.Field[Any], str, Any]]:
    for one in given:
        for field in dataclasses.fields(one):
            value = getattr(one, field.name)
            if _holds_options(type(value)):
                yield from _flat((value,))
            else:
                path = isinstance(value, Path)
                yield field, field.name, str(value.resolve()) if path else to_json(value)


def refixed(value: Mapping[str, Any], where: object, *kinds: type) -> list[Any]:
    """An instance of each of these dataclasses from what `fixed` made of them together.

    Raises:
        FaceguideError: as `from_json`.
    """
    names = [{field.name for field in dataclasses.fields(kind)} for kind in kinds]
    unknown = {name: value[name] for name in value.keys() - set().union(*names)}
    return [
        from_json(kind, {**{n: value[n] for n in value if n in own}, **unknown}, where)
        for kind, own in zip(kinds, names, strict=True)
    ]


def parameters(kind: type, command: click.Command) -> dict[str, click.Parameter]:
    """Field name → the option that `settings` made of it."""
    by_name = {str(found.name): found for found in command.params}
    return {field.name: by_name[field.name] for field, _ in _options(kind)}
