"""Options of the commands that submit jobs, and the way back from options to a command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

_TYPED = "faceguide.typed"


class Minutes(click.ParamType):
    """Slurm's notations of a time limit: minutes, H:MM:SS, D-HH:MM … as whole minutes."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The limit in minutes, rounded up."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", value)
        if not match:
            self.fail(f"{value!r}: expected minutes, H:MM:SS or D-HH:MM:SS", param, ctx)
        days, *rest = match.groups()
        numbers = [int(part) for part in rest if part is not None]
        if days is not None:  # D-HH, D-HH:MM, D-HH:MM:SS
            hours, minutes, seconds = (*numbers, 0, 0)[:3]
            seconds += (int(days) * 24 + hours) * 3600 + minutes * 60
        elif len(numbers) == 3:  # H:MM:SS
            seconds = numbers[0] * 3600 + numbers[1] * 60 + numbers[2]
        else:  # minutes, minutes:seconds
            seconds = numbers[0] * 60 + (numbers[1] if len(numbers) == 2 else 0)
        if seconds < 60:
            self.fail("a task needs a minute at least", param, ctx)
        return -(-seconds // 60)


class Indices(click.ParamType):
    """Numbers of parts as `cache seal` prints them: 1,3,10-12."""

    name = "list"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        """The numbers, ascending."""
        if isinstance(value, tuple):
            return value
        found: set[int] = set()
        for piece in value.split(","):
            match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", piece.strip())
            if not match:
                self.fail(f"{value!r}: expected numbers of parts such as 1,3,10-12", param, ctx)
            found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
        return tuple(sorted(found))


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--partition, --time, --memory, --cpus, --gpus, --logs, --print."""
    for option in reversed(
        [
            click.option("--partition", help="Slurm's partition.  [default: the cluster's]"),
            click.option(
                "--time", "minutes", type=Minutes(), default="4:00:00", show_default=True,
                metavar="H:MM:SS", help="Limit of one task, which then goes on by itself.",
            ),
            click.option("--memory", metavar="8G", help="Of one task.  [default: the cluster's]"),
            click.option(
                "--cpus", type=click.IntRange(1), default=4, show_default=True, help="Of one task."
            ),
            click.option(
                "--gpus", type=click.IntRange(0), default=0, show_default=True, help="Of one task."
            ),
            click.option(
                "--logs", type=click.Path(file_okay=False, path_type=Path),
                help="Folder of logs, visible from all nodes.  [default: beside the results]",
            ),
            click.option(
                "--print", "print_only", is_flag=True,
                help="Show the sbatch scripts; submit nothing.",
            ),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def array_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--parts, --indices, --array-parallelism."""
    for option in reversed(
        [
            click.option(
                "--parts", type=click.IntRange(1), default=16, show_default=True,
                help="Tasks of the array.",
            ),
            click.option(
                "--indices", type=Indices(), metavar="1,3,10-12",
                help="Only these parts, as the seal job names them.  [default: all]",
            ),
            click.option(
                "--array-parallelism", type=click.IntRange(1), default=256, show_default=True,
                help="Tasks that run together at most.",
            ),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


class SubmitCommand(click.Command):
    """A command that remembers what was typed, before types made values of it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words that belong to each parameter."""
        ctx.meta[_TYPED] = self.make_parser(ctx).parse_args(list(args))[0]
        return super().parse_args(ctx, args)


def arguments_of(context: click.Context, params: Sequence[click.Parameter]) -> tuple[str, ...]:
    """What the user typed for these parameters, as arguments of a command line.

    Paths become absolute: a task may start elsewhere. Further options go before these, since
    `--` and the positional arguments end them.

    Args:
        context: of a `SubmitCommand`.
        params: those that the other command has.
    """
    arguments: list[str] = []
    positional: list[str] = []
    for param in params:
        assert param.name is not None
        if context.get_parameter_source(param.name) != ParameterSource.COMMANDLINE:
            continue
        typed = context.meta[_TYPED][param.name]
        words = list(typed) if isinstance(typed, (list, tuple)) else [typed]
        if isinstance(param.type, click.Path):
            words = [str(Path(word).absolute()) for word in words]
        if isinstance(param, click.Argument):
            positional += words
        elif isinstance(param, click.Option) and param.is_flag:
            arguments.append(param.opts[0] if typed else param.secondary_opts[0])
        else:
            # In one word, so that a value may begin with a dash.
            arguments += [f"{param.opts[0]}={word}" for word in words]
    return (*arguments, *(["--", *positional] if positional else []))
