"""Commands that submit another command to Slurm: as an array of parts, or as one job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from faceguide.cache.cluster import Cluster, Job, scripts, submit
from faceguide.cache.cluster_options import (
    SubmitCommand,
    arguments_of,
    array_options,
    cluster_options,
)
from faceguide.core.commands.console import (
    echo_json,
    printable,
)
from faceguide.core.commands.parts import show_indices
from faceguide.core.errors import FaceguideError


@dataclass(frozen=True)
class Array:
    """What is asked for of an array.

    Attributes:
        options: parameters of the command by name.
        arguments: those that were typed, as a command line.
        without: the same, but for parameters of these names.
        parts: N.
        chosen: which of the parts are to run.
        cpus: of one task.
    """

    options: dict[str, Any]
    arguments: tuple[str, ...]
    without: Callable[[frozenset[str]], tuple[str, ...]]
    parts: int
    chosen: tuple[int, ...]
    cpus: int

    def job(
        self, name: str, words: Sequence[str], further: Sequence[str], after: str = "ok"
    ) -> Job:
        """A job with a task for each part: `words --part=i/N further`."""
        tasks = ((*words, f"--part={index}/{self.parts}", *further) for index in self.chosen)
        return Job(name, tuple(tasks), after)


Jobs = Callable[[Array], dict[str, Job]]


def array_command(
    command: click.Command, jobs: Jobs, *, here: frozenset[str], results: str, text: str
) -> click.Command:
    """The same command with the options of a Slurm array instead of those of one machine.

    Args:
        command: what is submitted.
        jobs: role → job, each behind the one before it.
        here: names of its parameters that say how it runs here, not what it makes.
        results: name of its parameter that says where the results go; logs go beside that.
        text: of --help.
    """
    params = [param for param in command.params if param.name not in here]

    @array_options
    @cluster_options
    @click.option("--json", "as_json", is_flag=True, help="Print Slurm's job numbers as JSON.")
    @click.pass_context
    def callback(
        context: click.Context,
        parts: int,
        indices: tuple[int, ...] | None,
        array_parallelism: int,
        partition: str | None,
        minutes: int,
        memory: str | None,
        cpus: int,
        gpus: int,
        logs: Path | None,
        print_only: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        chosen = tuple(range(parts)) if indices is None else indices
        if chosen[-1] >= parts:
            raise click.UsageError(f"--indices: {chosen[-1]} is none of the parts 0 to {parts - 1}")
        if options.get("overwrite") and indices is not None:
            raise click.UsageError("--overwrite starts over, --indices goes on: give one of them")
        cluster = Cluster(
            _logs(logs, options[results]), partition, minutes, memory, cpus, gpus, array_parallelism
        )

        def without(names: frozenset[str]) -> tuple[str, ...]:
            return arguments_of(context, [param for param in params if param.name not in names])

        array = Array(options, without(frozenset()), without, parts, chosen, cpus)
        _finish(jobs(array), f"{show_indices(chosen)} of {parts}", cluster, print_only, as_json)

    return _wrapped(command, params, callback, text)


def job_command(
    group: str, command: click.Command, example: str, *, here: frozenset[str], results: str
) -> click.Command:
    """The same command, to be run by Slurm on some nodes; repeated until it ends by itself.

    Its processes find each other by srun's variables.

    Args:
        group: the program that it is a command of.
        command: what is submitted.
        example: what the user types behind `GROUP submit NAME`.
        here: names of its parameters that say how it runs here.
        results: name of its parameter that says where the results go; logs go beside that.
    """
    name = command.name
    params = [param for param in command.params if param.name not in here]

    @click.option("--nodes", type=click.IntRange(1), default=1, show_default=True, help="Machines.")
    @click.option(
        "--tasks-per-node", type=click.IntRange(1),
        help="Processes on each.  [default: one per GPU of --gpus]",
    )  # fmt: skip
    @cluster_options
    @click.option("--json", "as_json", is_flag=True, help="Print Slurm's job number as JSON.")
    @click.pass_context
    def callback(
        context: click.Context,
        nodes: int,
        tasks_per_node: int | None,
        partition: str | None,
        minutes: int,
        memory: str | None,
        cpus: int,
        gpus: int,
        logs: Path | None,
        print_only: bool,
        as_json: bool,
        **options: Any,
    ) -> None:
        cluster = Cluster(_logs(logs, options[results]), partition, minutes, memory, cpus, gpus)
        processes = tasks_per_node or max(1, gpus)
        arguments = (group, str(name), *arguments_of(context, params))
        job = Job(f"{group}-{name}", (arguments,), nodes=nodes, tasks_per_node=processes)
        _finish({"job": job}, "", cluster, print_only, as_json)

    text = f"""Run `{group} {name}` as a Slurm job.

    Out of time or preempted, it saves its work, waits in the queue and goes on. --gpus are those
    of a node, --cpus those of a process.

    \b
    Example:
      {group} submit {name} {example}
    """
    return _wrapped(command, params, callback, text)


def _logs(chosen: Path | None, results: Path) -> Path:
    results = results.absolute()
    return (chosen or results.with_name(f"{results.name}-jobs")).absolute()


def _finish(
    jobs: dict[str, Job], parts: str, cluster: Cluster, print_only: bool, as_json: bool
) -> None:
    if print_only:
        click.echo(scripts(list(jobs.values()), cluster))
        return
    numbers = dict(zip(jobs, submit(list(jobs.values()), cluster), strict=True))
    if as_json:
        echo_json(numbers)
        return
    shown = [
        f"{role} {numbers[role]}" + ("" if job.light or not parts else f" ({parts})")
        for role, job in jobs.items()
    ]
    click.echo(f"Slurm: {', '.join(shown)}; logs in {printable(cluster.logs)}")


def _wrapped(
    command: click.Command, params: list[click.Parameter], callback: Any, text: str
) -> click.Command:
    further = callback.__click_params__[::-1]
    taken = {param.name for param in params} & {param.name for param in further}
    if taken:
        listed = ", --".join(sorted(map(str, taken)))
        raise FaceguideError(f"{command.name}: --{listed} means two things")
    return SubmitCommand(command.name, params=[*params, *further], callback=callback, help=text)
