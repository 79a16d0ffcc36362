"""Options that commands of several groups have, each declared once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from faceguide.core.commands.parts import WHOLE, own_part
from faceguide.core.commands.settings import option
from faceguide.core.errors import FaceguideError

BETWEEN = ","  # caches that are opened as one


class Caches(click.Path):
    """A cache, a volumes.json, or several caches joined by commas.

    Of several, the value joins their real paths, so that it names them from anywhere.
    """

    def __init__(self) -> None:
        super().__init__(exists=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        parts = [FOLDER.convert(part, param, ctx) for part in self.several(os.fspath(value))]
        if parts:
            return Path(BETWEEN.join(str(part.resolve()) for part in parts))
        return Path(os.fsdecode(super().convert(value, param, ctx)))

    @staticmethod
    def several(text: str) -> list[str]:
        """The parts of a text that joins caches; none of one that names a file or a folder."""
        if BETWEEN not in text or Path(text).exists():
            return []
        return [part for part in text.split(BETWEEN) if part]

    @classmethod
    def absolute(cls, text: str) -> str:
        """The same caches, named from anywhere."""
        parts = cls.several(text) or [text]
        return BETWEEN.join(str(Path(part).absolute()) for part in parts)


CACHES = Caches()
EXISTING = click.Path(exists=True, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUT_FILE = click.Path(dir_okay=False, path_type=Path)
OUT_FOLDER = click.Path(file_okay=False, path_type=Path)


def _part(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int]:
    try:
        return own_part(value)
    except FaceguideError as error:
        raise click.UsageError(str(error)) from None


@dataclass(frozen=True, kw_only=True)
class Part:
    """Which part of the work is done here."""

    part: tuple[int, int] = option(
        lambda: WHOLE,
        "Only part i of N, i from 0 to N−1.  [default: all, or as a Slurm array says]",
        free=True,
        type=str,
        multiple=False,
        metavar="i/N",
        callback=_part,
    )


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where a network works."""

    device: str = option("auto", "auto (CUDA if available), cpu, cuda or cuda:N.", free=True)


@dataclass(frozen=True, kw_only=True)
class Told:
    """What the user says of weights.

    Attributes:
        colour: order of the channels; None = as the file or the network says.
        heads: of a vision transformer's attention; None = as its shape says.
    """

    backbone: str | None = option(
        None,
        "Name of the network, which is checked, or module:function.  [default: as the file says]",
    )
    colour: Literal["RGB", "BGR"] | None = option(
        None,
        "Order of the channels that the weights were trained on.  [default: as the file or the "
        "network says]",
        type=click.Choice(["rgb", "bgr"]),
        callback=lambda context, option, value: value and value.upper(),
    )
    heads: int | None = option(
        None,
        "Attention heads of a vision transformer of a shape that is not known.",
        type=click.IntRange(1),
    )


@dataclass(frozen=True, kw_only=True)
class Seed:
    """What random numbers depend on."""

    seed: int = option(0, "Random seed.")


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a command reports."""

    as_json: bool = option(False, "Print one JSON object.", "--json", free=True)
    allow_failures: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome(Output):
    """How a command reports, and which exit code it chooses."""

    allow_failures: bool = option(False, "Exit 0 although some items failed.", free=True)


@dataclass(frozen=True, kw_only=True)
class MissingParts:
    """For commands that gather what parts made."""

    parts: int | None = option(
        None, "Say which of N parts are missing.", type=click.IntRange(1), metavar="N"
    )


class Names(click.ParamType):
    """Names, separated by commas."""

    name = "name,name"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(name.strip() for name in str(value).split(",") if name.strip())

    def text(self, value: tuple[str, ...]) -> str:
        """What `convert` takes."""
        return ",".join(value)
