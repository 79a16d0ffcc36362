"""`evaluate submit`: Slurm jobs: an array of the parts and the merge."""

from __future__ import annotations

import click

from faceguide.core.commands.slurm import Job, Request
from faceguide.evaluate.evaluation_options import FIT_IN_PARTS


def evaluate_jobs(request: Request) -> dict[str, Job]:
    """Parts → merge, which writes the results or names the missing parts and exits with 1."""
    if "--fit-pairs" in request.typed:
        raise click.UsageError(FIT_IN_PARTS)
    name = f"evaluate-{request.name}"
    jobs = {"parts": Job(name, request.words(), "array")}
    # Scores that are more than products of embeddings wait until all faces are embedded.
    cosine = request.typed.get("--matcher") in (None, ("--matcher=cosine",))
    if not cosine and request.name != "attribution":
        jobs["scores"] = Job(f"{name}-scores", request.words(), "array", "any")
    # Of what was left out the merge tells, which is no failure of a job.
    merge = ("evaluate", "merge", f"--parts={request.limits.parts}", "--allow-failures")
    jobs["merge"] = Job(f"{name}-merge", (*merge, str(request.results)), after="any")
    return jobs
