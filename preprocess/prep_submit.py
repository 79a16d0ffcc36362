"""`prep submit`: a command as three Slurm jobs, what all parts share, the parts, the seal."""

from __future__ import annotations

import click

from faceguide.cache.cluster import Job
from faceguide.cache.cluster_commands import Array, array_command
from faceguide.preprocess.prep_options import (
    HERE,
    MASKS,
)

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

    def jobs(array: Array) -> dict[str, Job]:
        first = (name, "--prepare", *array.arguments)
        made = _GROUPS[name]
        if name == "landmarks":
            first = ("plan", *array.without(MASKS))
            if array.options["mask_root"] or array.options["clean"]:
                made = (*made, "occlusion")
        # Only the first job starts over: the parts must not remove what the others made.
        again = tuple(argument for argument in array.arguments if argument != "--overwrite")
        groups = tuple(f"--group={group}" for group in made)
        directory = str(array.options["directory"].absolute())
        seal = ("cache", "seal", *groups, f"--parts={array.parts}", "--", directory)
        further = (f"--jobs={array.cpus}", "--allow-failures", *again)
        return {
            "prepare": Job(f"prep-{name}-prepare", (("prep", *first),), light=True),
            "parts": array.job(f"prep-{name}", ("prep", name), further),
            "seal": Job(f"prep-{name}-seal", (seal,), after="any", light=True),
        }

    text = f"""Run `prep {name}` as a Slurm array.

    One job settles what all parts share, an array makes the parts, and a last job seals the
    cache, or says which parts are missing and ends with exit code 1. Submitting the same
    again makes only what is missing.

    \b
    Example:
      prep submit {name} {_EXAMPLES[name]}
    """
    return array_command(command, jobs, here=HERE, results="directory", text=text)
