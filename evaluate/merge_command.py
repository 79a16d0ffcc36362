"""The command `evaluate merge`; registered by the group in `cli`."""

from __future__ import annotations

from pathlib import Path

import click

from faceguide.core.commands.parts import parts_of, show_indices
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import FOLDER, MissingParts, Outcome


@click.command("merge")
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
    from faceguide.core.errors import EvaluationError, Unfinished
    from faceguide.evaluate.attribution import attribution_commands as attribution
    from faceguide.evaluate.command_output import show
    from faceguide.evaluate.merge import merge_run

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
