"""`… submit`: commands as Slurm jobs, each a script that resumes its command when requeued."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click
from click.core import ParameterSource

from faceguide.core.commands.console import Command, Group, echo_json, printable
from faceguide.core.commands.settings import option, settings
from faceguide.core.commands.shared_options import OUT_FOLDER, Caches, Output
from faceguide.core.errors import FaceguideError

# Options that say how a command runs on one machine.
_HERE = {"--jobs", "--part", "--dask", "--allow-failures", "--json", "--prepare", "--dry-run"}
_COUNT = click.IntRange(1)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a user asks of Slurm for any job."""

    partition: str | None = option(None, "Slurm's partition.  [default: the cluster's]")
    time: str = option("4:00:00", "Limit of a task, which then resumes.", metavar="H:MM:SS")
    memory: str | None = option(None, "Of a node.  [default: the cluster's]", metavar="8G")
    cpus: int = option(4, "Of a process.", type=_COUNT)
    gpus: int = option(0, "Of a node.", type=click.IntRange(0))
    logs: Path | None = option(None, "[default: next to the results]", type=OUT_FOLDER)


@dataclass(frozen=True, kw_only=True)
class ArrayLimits(Limits):
    """For an array of tasks, each with a part of the work."""

    parts: int = option(16, "Tasks of the array.", type=_COUNT)
    indices: str | None = option(None, "Only these parts: 1,3,10-12.  [default: all]")
    array_parallelism: int = option(256, "Tasks at the same time.", type=_COUNT)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(\d{1,6}(-\d{1,6})?(,(?!$)|$))+", self.array):
            raise click.UsageError(f"--indices {self.array}: expected numbers of parts: 1,3,10-12")
        if (last := max(map(int, re.findall(r"\d+", self.array)))) >= self.parts:
            raise click.UsageError(f"--indices: {last} is not among 0 to {self.parts - 1}")

    @property
    def array(self) -> str:
        """The parts, as Slurm takes them."""
        return f"0-{self.parts - 1}" if self.indices is None else self.indices


@dataclass(frozen=True, kw_only=True)
class NodeLimits(Limits):
    """For one job on whole machines."""

    nodes: int = option(1, "Machines.", type=_COUNT)
    tasks_per_node: int | None = option(None, "[default: one per GPU]", type=_COUNT)


@dataclass(frozen=True)
class Job:
    """One command: on one processor, as an array of `--part i/N`, or on all nodes by srun."""

    name: str
    words: tuple[str, ...]  # after `faceguide`
    kind: Literal["light", "array", "srun"] = "light"
    after: Literal["ok", "any"] = "ok"  # the job before it has succeeded, or has ended


@dataclass(frozen=True)
class Request:
    """A command as it was typed for Slurm."""

    program: str
    name: str
    typed: Mapping[str, tuple[str, ...]]  # flag, or name of an argument → words of a command line
    results: Path  # where the command writes
    limits: Any  # NodeLimits or ArrayLimits

    def words(self, *more: str, without: Iterable[str] = ()) -> tuple[str, ...]:
        """The command line: `program name more`, then what was typed except for some flags."""
        kept = [words for flag, words in self.typed.items() if flag not in without]
        return (self.program, self.name, *more, *(word for words in kept for word in words))


Jobs = Callable[[Request], dict[str, Job]]  # role → job, each dependent on the one before it


def script(job: Job, limits: Limits, before: str | None = None) -> str:
    """The sbatch script of a job; `before` is the number of the job that it waits for."""
    from jinja2 import Template

    template = Path(__file__).with_suffix(".sh").read_text()
    command = shlex.join([sys.executable, "-m", "faceguide", *job.words])
    return Template(template, trim_blocks=True, lstrip_blocks=True).render(
        job=job, limits=limits, before=before, command=command, quote=shlex.quote
    )


def submit(jobs: Mapping[str, Job], limits: Limits) -> dict[str, str]:
    """Submit jobs, each dependent on the one before it; return role → Slurm's job number.

    Raises:
        FaceguideError: when Slurm is not here or refuses a job.
    """
    if shutil.which("sbatch") is None:
        raise FaceguideError("no sbatch here: submit where Slurm is; --print shows the scripts")
    if limits.logs is not None:
        limits.logs.mkdir(parents=True, exist_ok=True)  # Slurm makes no folder for its logs
    numbers: dict[str, str] = {}
    for role, job in jobs.items():
        text = script(job, limits, *[*numbers.values()][-1:])
        sbatch = ["sbatch", "--parsable"]
        done = subprocess.run(sbatch, input=text, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.replace("sbatch: ", "").replace("error: ", "").strip().splitlines()
            undo = f"; scancel {' '.join(numbers.values())} withdraws the others" * bool(numbers)
            raise FaceguideError(f"Slurm refused the job {job.name}: {'; '.join(said)}{undo}")
        numbers[role] = done.stdout.strip().partition(";")[0]  # number;cluster
    return numbers


def submit_group(
    program: str, commands: Iterable[click.Command], text: str, jobs: Jobs | None = None
) -> click.Group:
    """`PROGRAM submit`: of commands with `--part`; without `jobs` each is one job for srun."""
    chosen = [
        _submit_command(program, command, text, jobs)
        for command in commands
        if jobs is None or any("--part" in param.opts for param in command.params)
    ]
    return Group("submit", chosen, help=chosen[0].help)


class _AsTyped(Command):
    """Keeps what was typed, before types make values of it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[__name__] = self.make_parser(ctx).parse_args(list(args))[0]
        return super().parse_args(ctx, args)


def _submit_command(
    program: str, command: click.Command, text: str, jobs: Jobs | None
) -> click.Command:
    own = [param for param in command.params if not _HERE.intersection(param.opts)]
    own_help = inspect.cleandoc(command.help or "")
    example = re.findall(rf"{program} ({command.name} (?:.*\\\n)*.*)", own_help)[0]

    @settings(limits=ArrayLimits if jobs else NodeLimits, output=Output)
    @click.option("--print", "only_print", is_flag=True, help="Show scripts; submit none.")
    @click.pass_context
    def call(
        context: click.Context, limits: Any, output: Output, only_print: bool, **_: Any
    ) -> None:
        typed = {
            param.opts[0]: _words(param, context.meta[__name__][param.name])
            for param in own
            if context.get_parameter_source(str(param.name)) == ParameterSource.COMMANDLINE
        }
        if "--overwrite" in typed and getattr(limits, "indices", None):
            raise click.UsageError("--overwrite starts over, --indices resumes: give only one")
        (place,) = typed.get("--out") or typed["--cache"]
        results = Path(place.partition("=")[2])
        logs = limits.logs or results.with_name(f"{results.name}-jobs")
        limits = replace(limits, logs=logs.absolute())
        request = Request(program, str(command.name), typed, results, limits)
        one = {"job": Job(f"{program}-{command.name}", request.words(), "srun")}
        roles = jobs(request) if jobs else one
        if only_print:
            before = [None, *(f"<{job.name}>" for job in roles.values())]
            for job, name in zip(roles.values(), before, strict=False):
                click.echo(script(job, limits, name) + "\n")
            return
        numbers = submit(roles, limits)
        if output.as_json:
            echo_json(numbers)
        else:
            shown = ", ".join(f"{role} {number}" for role, number in numbers.items())
            click.echo(f"Slurm: {shown}; logs in {printable(limits.logs)}")

    return click.command(
        command.name,
        cls=_AsTyped,
        params=[*own],  # Click adds to the list
        short_help=f"Submit `{program} {command.name}`.",
        help=f"{text}\n\n\b\nExample:\n  {program} submit {example} --cpus 8 --print",
    )(call)


def _words(param: click.Parameter, typed: Any) -> tuple[str, ...]:
    """A parameter on a command line; paths become absolute, as a task may start elsewhere."""
    words = [*typed] if isinstance(typed, (list, tuple)) else [typed]
    if isinstance(typed, bool):
        return (param.opts[0] if typed else param.secondary_opts[0],)
    if isinstance(param.type, Caches):
        words = [Caches.absolute(word) for word in words]
    elif isinstance(param.type, click.Path):
        words = [str(Path(word).absolute()) for word in words]
    flag = "" if isinstance(param, click.Argument) else f"{param.opts[0]}="
    return tuple(flag + word for word in words)  # a value may begin with a dash
