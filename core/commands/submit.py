"""`… submit`: commands with the options of a Slurm job; their own are passed on as typed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from faceguide.core.commands.console import Group, echo_json, printable
from faceguide.core.commands.slurm import Job, Limits, script, submit

# Options that say how a command runs on one machine.
_HERE = {"--jobs", "--part", "--dask", "--allow-failures", "--json", "--prepare", "--dry-run"}


@dataclass(frozen=True)
class Request:
    """A command as it was typed for Slurm."""

    program: str
    name: str
    typed: Mapping[str, tuple[str, ...]]  # flag, or name of an argument → words of a command line
    results: Path  # where the command writes
    limits: Limits

    def words(self, *more: str, without: Iterable[str] = ()) -> tuple[str, ...]:
        """The command line: `program name more`, then what was typed except for some flags."""
        kept = [words for flag, words in self.typed.items() if flag not in without]
        return (self.program, self.name, *more, *(word for words in kept for word in words))


Jobs = Callable[[Request], dict[str, Job]]  # role → job, each dependent on the one before it


def one_job(request: Request) -> dict[str, Job]:
    """A command that srun starts in one job."""
    return {"job": Job(f"{request.program}-{request.name}", request.words(), "srun")}


def submit_group(
    program: str, commands: Iterable[click.Command], text: str, jobs: Jobs = one_job
) -> click.Group:
    """The group `PROGRAM submit` of commands with `--part`, or of those that are one job."""
    chosen = [
        _SubmitCommand(program, command, text, jobs)
        for command in commands
        if jobs is one_job or any("--part" in param.opts for param in command.params)
    ]
    return Group("submit", chosen, help=chosen[0].help)


class _SubmitCommand(click.Command):
    def __init__(self, program: str, command: click.Command, text: str, jobs: Jobs) -> None:
        self._program, self._jobs = program, jobs
        self._own = [param for param in command.params if not _HERE.intersection(param.opts)]
        self._limits = [
            click.Option(
                [f"--{field.name.replace('_', '-')}"], default=field.default,
                show_default=field.default not in (None, ""), **field.metadata["click"],
            )
            for field in fields(Limits)
            if field.metadata["kind"] in (None, "srun" if jobs is one_job else "array")
        ]  # fmt: skip
        output = [
            click.Option(
                ["--print", "only_print"], is_flag=True, help="Show scripts; submit none."
            ),
            click.Option(["--json", "as_json"], is_flag=True, help="Print job numbers as JSON."),
        ]
        own_help = inspect.cleandoc(command.help or "")
        example = re.findall(rf"{program} ({command.name} (?:.*\\\n)*.*)", own_help)[0]
        super().__init__(
            command.name,
            params=[*self._own, *self._limits, *output],
            short_help=f"Submit `{program} {command.name}`.",
            help=f"{text}\n\n\b\nExample:\n  {program} submit {example} --cpus 8 --print",
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # What was typed, before types make values of it.
        ctx.meta[__name__] = self.make_parser(ctx).parse_args(list(args))[0]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        request = self._request(ctx)
        jobs, limits = self._jobs(request), request.limits
        if ctx.params["only_print"]:
            before = [None, *(f"<{job.name}>" for job in jobs.values())]
            for job, name in zip(jobs.values(), before, strict=False):
                click.echo(script(job, limits, name) + "\n")
            return
        numbers = dict(zip(jobs, submit(jobs.values(), limits), strict=True))
        part = f" ({limits.indices} of {limits.parts})"
        shown = [f"{role} {numbers[role]}{part * (jobs[role].kind == 'array')}" for role in jobs]
        if ctx.params["as_json"]:
            echo_json(numbers)
        else:
            click.echo(f"Slurm: {', '.join(shown)}; logs in {printable(limits.logs)}")

    def _request(self, ctx: click.Context) -> Request:
        typed = {}
        for param in self._own:
            if ctx.get_parameter_source(str(param.name)) == ParameterSource.COMMANDLINE:
                typed[param.opts[0]] = _words(param, ctx.meta[__name__][param.name])
        (place,) = typed.get("--out") or typed["--cache"]
        results = Path(place.partition("=")[2])
        given = {str(option.name): ctx.params[str(option.name)] for option in self._limits}
        logs = Path(given["logs"] or results.with_name(f"{results.name}-jobs"))
        given["logs"] = str(logs.absolute())
        if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", given["time"]):
            raise click.UsageError(f"--time {given['time']}: expected H:MM:SS or D-HH:MM:SS")
        if self._jobs is not one_job:
            given["indices"] = _indices(given["indices"], given["parts"], "--overwrite" in typed)
        limits = Limits(**given)
        return Request(self._program, str(self.name), typed, results, limits)


def _indices(text: str, parts: int, overwrite: bool) -> str:
    """The numbers of an array's tasks."""
    if text and overwrite:
        raise click.UsageError("--overwrite starts over, --indices resumes: give only one")
    if not re.fullmatch(r"(\d{1,6}(-\d{1,6})?(,(?!$)|$))*", text):
        raise click.UsageError(f"--indices {text}: expected numbers of parts such as 1,3,10-12")
    if text and (last := max(map(int, re.findall(r"\d+", text)))) >= parts:
        raise click.UsageError(f"--indices: {last} is not among 0 to {parts - 1}")
    return text or f"0-{parts - 1}"


def _words(param: click.Parameter, typed: Any) -> tuple[str, ...]:
    """A parameter on a command line; paths become absolute, as a task may start elsewhere."""
    words = [*typed] if isinstance(typed, (list, tuple)) else [typed]
    if isinstance(param.type, click.Path):
        words = [str(Path(word).absolute()) for word in words]
    if isinstance(param, click.Argument):
        return tuple(words)
    if isinstance(typed, bool):
        return (param.opts[0] if typed else param.secondary_opts[0],)
    return tuple(f"{param.opts[0]}={word}" for word in words)  # a value may begin with a dash
