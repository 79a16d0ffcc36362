"""`train submit` and `evaluate submit`: a command as one Slurm job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from faceguide.cache.cluster import Cluster, Job, scripts, submit
from faceguide.cache.cluster_options import SubmitCommand, arguments_of, cluster_options
from faceguide.cache.console import echo_json, printable
from faceguide.cache.errors import FaceguideError


def job_command(
    group: str, command: click.Command, example: str, *, distributed: bool
) -> click.Command:
    """The same command, to be run by Slurm; repeated until it ends by itself.

    Args:
        group: the program that it is a command of, `train` or `evaluate`.
        command: it needs an option --out; logs go beside that.
        example: what the user types behind `GROUP submit NAME`.
        distributed: offer --nodes, and start a process per GPU of each node, which find each
            other by srun's variables.
    """
    name = command.name
    assert name is not None
    params = [param for param in command.params if param.name != "as_json"]
    results = next(param.name for param in params if "--out" in param.opts)
    assert results is not None

    @click.pass_context
    def callback(
        context: click.Context,
        partition: str | None,
        minutes: int,
        memory: str | None,
        cpus: int,
        gpus: int,
        logs: Path | None,
        print_only: bool,
        as_json: bool,
        nodes: int = 1,
        **options: Any,
    ) -> None:
        out = Path(options[results]).absolute()
        logs = (logs or out.with_name(f"{out.name}-jobs")).absolute()
        cluster = Cluster(logs, partition, minutes, memory, cpus, gpus)
        processes = max(1, gpus) if distributed else 1
        arguments = (group, name, *arguments_of(context, params))
        job = Job(f"{group}-{name}", (arguments,), nodes=nodes, tasks_per_node=processes)
        if print_only:
            click.echo(scripts([job], cluster))
            return
        (number,) = submit([job], cluster)
        if as_json:
            echo_json({"job": number})
        else:
            click.echo(f"Slurm job {number}; logs in {printable(logs)}")

    wrapped: Any = cluster_options(
        click.option("--json", "as_json", is_flag=True, help="Print Slurm's job number as JSON.")(
            callback
        )
    )
    if distributed:
        wrapped = click.option(
            "--nodes", type=click.IntRange(1), default=1, show_default=True,
            help="With a process per GPU on each.",
        )(wrapped)  # fmt: skip
    taken = {param.name for param in params} & {p.name for p in wrapped.__click_params__}
    if taken:
        raise FaceguideError(f"{group} {name}: --{', --'.join(sorted(taken))} mean two things")
    return SubmitCommand(
        name,
        params=[*params, *wrapped.__click_params__[::-1]],
        callback=wrapped,
        help=f"""Run `{group} {name}` as a Slurm job.

        Out of time or preempted, it saves its work, waits in the queue and goes on.

        \b
        Example:
          {group} submit {name} {example}
        """,
    )
