"""`prep submit`: three Slurm jobs: what all parts share, an array of the parts, the seal."""

from __future__ import annotations

from faceguide.core.commands.slurm import Job
from faceguide.core.commands.submit import Request

_GROUPS = {"landmarks": ("faces", "guidance"), "guidance": ("guidance",), "masks": ("occlusion",)}


def prep_jobs(request: Request) -> dict[str, Job]:
    """Prepare → parts → seal, which makes the cache or names the missing parts and exits with 1."""
    name, groups = request.name, _GROUPS[request.name]
    first = request.words("--prepare")
    if name == "landmarks":
        first = request.words(without=("--masks", "--polarity", "--class", "--clean"))
        first = ("prep", "plan", *first[2:])
        if request.typed.keys() & {"--masks", "--clean"}:
            groups = (*groups, "occlusion")
    # Only the first job starts over: the parts must not remove what the others made.
    further = (f"--jobs={request.limits.cpus}", "--allow-failures")
    part = request.words(*further, without=("--overwrite",))
    seal = ("cache", "seal", *(f"--group={group}" for group in groups))
    seal = (*seal, f"--parts={request.limits.parts}", str(request.results))
    return {
        "prepare": Job(f"prep-{name}-prepare", first),
        "parts": Job(f"prep-{name}", part, "array"),
        "seal": Job(f"prep-{name}-seal", seal, after="any"),
    }
