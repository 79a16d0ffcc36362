"""`evaluate merge`: the results of a run whose parts are done, from its run.json only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from faceguide.core.commands.console import Command
from faceguide.core.commands.parts import parts_of, show_indices
from faceguide.core.commands.settings import refixed, settings
from faceguide.core.commands.shared_options import FOLDER, MissingParts, Outcome
from faceguide.core.errors import EvaluationError, Unfinished
from faceguide.evaluate.evaluation_options import ScoreOptions, SearchOptions, VerifiedPairs
from faceguide.evaluate.score.matcher_options import MatcherOptions, TemplateOptions

# Command → the dataclasses of its settings, besides that of the run.
SETTINGS: dict[str, tuple[type, ...]] = {
    "embed": (),
    "verification": (VerifiedPairs, MatcherOptions),
    "identification": (SearchOptions, MatcherOptions),
    "ijb": (TemplateOptions,),
}


@click.command("merge", cls=Command)
@click.argument("directory", metavar="RUN", type=FOLDER)
@settings(missing=MissingParts, output=Outcome)
def merge_command(directory: Path, missing: MissingParts, output: Outcome) -> None:
    """Write the results of a RUN whose parts are all done; a rerun writes the same bytes.

    RUN is of embed, verification, identification, ijb or attribution. Nothing is embedded here;
    when blocks are missing, the exit code is 1.

    \b
    Examples:
      evaluate merge maps/
      evaluate merge lfw/ --parts 16
    """
    from faceguide.evaluate.attribution import attribution_commands as attribution
    from faceguide.evaluate.command_output import show

    try:
        command, record = merge_run(directory)
    except Unfinished as error:
        if (parts := missing.parts) is None:
            raise
        again = parts_of(error.blocks, parts)
        raise EvaluationError(
            f"{directory}: {len(again)} of {parts} parts are not finished ({error.what}); rerun "
            f"them: --part i/{parts}, or evaluate submit with --parts {parts} --indices "
            f"{show_indices(again)}"
        ) from None
    if command == "attribution":
        attribution.show_results(record, directory, output)
    else:
        show(command, record, directory, output)


def merge_run(out: Path) -> tuple[str, dict[str, Any]]:
    """Gather what parts have computed; merging twice writes the same bytes.

    Returns:
        The command whose run it is, and what that command returns.

    Raises:
        EvaluationError: when it is no run of parts, or its cache or weights were changed since.
        Unfinished: when blocks are missing.
    """
    from faceguide.cache.reader import FaceCache
    from faceguide.core.commands.run_directory import read_run
    from faceguide.evaluate import runs
    from faceguide.evaluate.attribution import run as attribution
    from faceguide.evaluate.ijb.ijb_run import run_ijb
    from faceguide.train.models.loading.network import load_network
    from faceguide.train.run.training_data import cache_hash

    def unchanged(what: str, now: str, then: str) -> None:
        if now != then:
            raise EvaluationError(
                f"{out}: {what} was changed since the parts ran; rerun them in another --out"
            )

    about = read_run(out)
    command = str(about.get("command"))
    if command == attribution.COMMAND:
        return command, attribution.merge_run(out)
    if command not in SETTINGS or not about.get("weights"):
        raise EvaluationError(
            f"{out}: not a run of embed, verification, identification, ijb or attribution that "
            f"can be merged (its command is {command!r})"
        )
    # What --colour said; what the weights say by themselves they still say.
    colour = about["colour"] if about["colour_from"] == "option" else None
    network = load_network(
        about["backbone"],
        Path(about["weights"]),
        colour=colour,
        heads=about.get("heads"),
        output=about.get("onnx_output"),
        precision=about["precision"],
    )
    unchanged(about["weights"], network.sha256, about["weights_sha256"])
    place = {"out": str(out), "embeddings": about["embeddings"], "merging": True}
    kinds = (*SETTINGS[command], ScoreOptions)
    given = refixed({**about["settings"], **place}, out, *kinds)
    if command == "ijb":
        return command, run_ijb(Path(about["folder"]), network, *given)
    cache = FaceCache.open(about["cache"])
    unchanged(about["cache"], cache_hash(cache), about["cache_manifest"])
    if command == "embed":
        return command, runs.run_embed(cache, network, given[0], frozenset(about["groups"]))
    course: Any = runs.run_verification if command == "verification" else runs.run_identification
    return command, course(cache, network, *given)
