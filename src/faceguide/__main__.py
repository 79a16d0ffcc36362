"""`faceguide`: all command groups under one name, where `prep` or `cache` mean something else."""

from __future__ import annotations

import importlib

import click

from faceguide import __version__
from faceguide.core.commands.console import Group

GROUPS = ("prep", "cache", "train", "evaluate")
_MODULES = {"prep": "preprocess"}


class Umbrella(Group):
    """Loads a group when it is asked for: `faceguide cache` must not wait for torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The groups, in the order of the work."""
        return list(GROUPS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The group of this name."""
        if name not in GROUPS:
            return None
        module = importlib.import_module(f"faceguide.{_MODULES.get(name, name)}.cli")
        command: click.Command = module.main
        return command


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
