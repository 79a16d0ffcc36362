"""`faceguide`: all command groups under one name, where `prep` or `cache` mean something else."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from faceguide import __version__
from faceguide.core.commands.console import FAILED, Group, say
from faceguide.core.commands.opencv_fault import opencv_fault

GROUPS = ("prep", "cache", "train", "evaluate")
_MODULES = {"prep": "preprocess"}


class Umbrella(Group):
    """Loads a group when it is asked for: `faceguide cache` must not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The groups, in the order of the work."""
        return list(GROUPS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The group of this name."""
        return _group(name) if name in GROUPS else None


def _group(name: str) -> click.Command:
    try:
        module = importlib.import_module(f"faceguide.{_MODULES.get(name, name)}.cli")
        if "cv2" in sys.modules:  # left without its files, it imports as an empty namespace
            _ = sys.modules["cv2"].imdecode
    except (ImportError, AttributeError) as error:
        fault = opencv_fault(error)
        if fault is None:
            raise
        say(f"Error: {fault}")
        sys.exit(FAILED)
    command: click.Command = module.main
    return command


def __getattr__(name: str) -> Any:
    """The groups are scripts too, see setup.cfg: each is loaded when its script asks for it."""
    if name in GROUPS:
        return _group(name)
    raise AttributeError(name)


@click.command(cls=Umbrella)
@click.version_option(__version__, prog_name="faceguide")
def main() -> None:
    """What guides a face network, computed once and kept.

    \b
    Example:
      faceguide prep landmarks photos/ --out cache/
      faceguide cache info cache/
    """


if __name__ == "__main__":
    main()
