"""`prep submit`: a command as three Slurm jobs, what all parts share, the parts, the seal."""

from __future__ import annotations

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
from faceguide.cache.console import echo_json, printable
from faceguide.cache.parts import show_indices
from faceguide.preprocess.options import HERE

_EXAMPLES = {
    "landmarks": "photos/ --out cache/ --parts 64 --cpus 8 --time 2:00:00",
    "masks": "masks/ --cache cache/ --polarity visible --parts 16",
    "guidance": "--cache cache/ --grid 56 --parts 16 --print",
}
_GROUPS = {"landmarks": ("faces", "guidance"), "guidance": ("guidance",), "masks": ("occlusion",)}


def submit_command(command: click.Command) -> click.Command:
    """The same command with the options of a Slurm array instead of those of one machine."""
    name = command.name
    assert name is not None
    params = [param for param in command.params if param.name not in HERE]

    @array_options
    @cluster_options
    @click.option("--json", "as_json", is_flag=True, help="Print Slurm's job numbers as JSON.")
    @click.pass_context
    def callback(
        context: click.Context,
        directory: Path,
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
        overwrite: bool = False,
        **others: Any,
    ) -> None:
        chosen = tuple(range(parts)) if indices is None else indices
        if chosen[-1] >= parts:
            raise click.UsageError(f"--indices: {chosen[-1]} is none of the parts 0 to {parts - 1}")
        if overwrite and indices is not None:
            raise click.UsageError("--overwrite starts over, --indices goes on: give one of them")
        directory = directory.absolute()
        logs = (logs or directory.with_name(f"{directory.name}-jobs")).absolute()
        cluster = Cluster(logs, partition, minutes, memory, cpus, gpus, array_parallelism)
        jobs = _jobs(name, arguments_of(context, params), directory, parts, chosen, cpus)
        if print_only:
            click.echo(scripts(jobs, cluster))
            return
        numbers = submit(jobs, cluster)
        if as_json:
            echo_json(dict(zip(("prepare", "parts", "seal"), numbers, strict=True)))
        else:
            click.echo(
                f"Slurm jobs {numbers[0]} (what all parts share), {numbers[1]} (parts "
                f"{show_indices(chosen)} of {parts}), {numbers[2]} (seal); "
                f"logs in {printable(logs)}"
            )

    further = callback.__click_params__[::-1]  # type: ignore[attr-defined]
    return SubmitCommand(
        name,
        params=[*params, *further],
        callback=callback,
        help=f"""Run `prep {name}` as a Slurm array.

        One job settles what all parts share, an array makes the parts, and a last job seals the
        cache, or says which parts are missing and ends with exit code 1. Submitting the same
        again makes only what is missing.

        \b
        Example:
          prep submit {name} {_EXAMPLES[name]}
        """,
    )


def _jobs(
    name: str,
    arguments: tuple[str, ...],
    directory: Path,
    parts: int,
    chosen: tuple[int, ...],
    cpus: int,
) -> list[Job]:
    """What is submitted, in this order, each behind the one before."""
    first = ("plan",) if name == "landmarks" else (name, "--prepare")
    # Only the first job starts over: the parts must not remove what the others made.
    again = tuple(argument for argument in arguments if argument != "--overwrite")
    groups = tuple(f"--group={group}" for group in _GROUPS[name])
    return [
        Job(f"prep-{name}-prepare", (("prep", *first, *arguments),), light=True),
        Job(
            f"prep-{name}",
            tuple(
                (
                    *("prep", name, f"--part={index}/{parts}"),
                    *(f"--jobs={cpus}", "--allow-failures", *again),
                )
                for index in chosen
            ),
        ),
        Job(
            f"prep-{name}-seal",
            (("cache", "seal", *groups, f"--parts={parts}", "--", str(directory)),),
            after="any",
            light=True,
        ),
    ]
