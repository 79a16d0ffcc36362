"""`evaluate submit`: a command as Slurm jobs, an array of parts and the job that merges them."""

from __future__ import annotations

from collections.abc import Mapping

import click

from faceguide.cache.cluster import Job
from faceguide.cache.cluster_commands import Array, array_command
from faceguide.core.commands.console import Group
from faceguide.evaluate.evaluation_options import FIT_IN_PARTS

_NETWORK = "--weights run/ --gpus 1 --device cuda"
_EXAMPLES = {
    "embed": f"cache/ {_NETWORK} --out faces/ --parts 32",
    "verification": f"cache/ --pairs pairs.csv {_NETWORK} --out lfw/ --parts 8",
    "identification": f"cache/ {_NETWORK} --out id/ --parts 16 --time 1:00:00",
    "ijb": f"IJBC/ {_NETWORK} --matcher qaconv+occlusion --out ijbc/ --parts 64",
    "attribution": "cache/ --pairs pairs.csv --weights run/ --out maps/ --parts 64 --print",
}
# Options that say how a command runs here, not what it makes. Of what is left out, the merge tells.
_HERE = frozenset({"part", "allow_failures", "as_json"})


def submit_group(commands: Mapping[str, click.Command]) -> click.Group:
    """The group `evaluate submit`, with those of the commands that have parts."""

    @click.group("submit", cls=Group)
    def group() -> None:
        """Run a command as a Slurm array and merge what its parts find.

        \b
        Examples:
          evaluate submit verification cache/ --pairs pairs.csv --weights run/ --out lfw/ --parts 8
          evaluate submit attribution cache/ --pairs p.csv --weights run/ --out maps/ --print
        """

    for name in _EXAMPLES:
        group.add_command(_submit_command(commands[name]))
    return group


def _submit_command(command: click.Command) -> click.Command:
    name = str(command.name)

    def jobs(array: Array) -> dict[str, Job]:
        if array.options.get("fit_pairs") is not None:
            raise click.UsageError(FIT_IN_PARTS)
        found = {"parts": array.job(f"evaluate-{name}", ("evaluate", name), array.arguments)}
        # Scores that are more than products of embeddings wait until all faces are embedded.
        if name != "attribution" and array.options.get("matcher", "cosine") != "cosine":
            found["scores"] = array.job(
                f"evaluate-{name}-scores", ("evaluate", name), array.arguments, after="any"
            )
        out = str(array.options["out"].absolute())
        merge = ("evaluate", "merge", f"--parts={array.parts}", "--allow-failures", "--", out)
        found["merge"] = Job(f"evaluate-{name}-merge", (merge,), after="any", light=True)
        return found

    text = f"""Run `evaluate {name}` as a Slurm array.

    An array does the parts, and a last job merges them, or says which parts are missing and ends
    with exit code 1. With another matcher than cosine a second array scores what the first one
    has embedded. Submitting the same again computes only what is missing.

    \b
    Example:
      evaluate submit {name} {_EXAMPLES[name]}
    """
    return array_command(command, jobs, here=_HERE, results="out", text=text)
