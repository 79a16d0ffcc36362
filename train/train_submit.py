"""`train submit`: a training as one Slurm job, on one node or several."""

from __future__ import annotations

import click

from faceguide.cache.cluster_commands import job_command
from faceguide.core.commands.console import Group

_EXAMPLES = {
    "cal": "cache/ --out runs/cal --guide regions --nodes 2 --gpus 4 --cpus 8 --time 1-00",
    "oaml": "cache/ --out runs/oaml --init ir50.ckpt --gpus 8 --amp bf16 --print",
}
_HERE = frozenset({"as_json"})


def submit_group(*commands: click.Command) -> click.Group:
    """The group `train submit`, with these commands."""

    @click.group("submit", cls=Group)
    def group() -> None:
        """Train in a Slurm job that goes on by itself when it is preempted or out of time.

        \b
        Example:
          train submit cal cache/ --out runs/cal --nodes 2 --gpus 4 --cpus 8 --time 1-00
        """

    for command in commands:
        name = str(command.name)
        group.add_command(
            job_command("train", command, _EXAMPLES[name], here=_HERE, results="directory")
        )
    return group
