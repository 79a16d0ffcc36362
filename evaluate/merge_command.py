"""The command `evaluate merge`; registered by the group in `cli`."""

from __future__ import annotations

from pathlib import Path

import click

from faceguide.core.commands.parts import (
    parts_of,
    show_indices,
)
from faceguide.evaluate.evaluation_options import FOLDER


@click.command("merge")
@click.argument("directory", metavar="RUN", type=FOLDER)
@click.option(
    "--parts", type=click.IntRange(1), metavar="N", help="Say which of N parts are missing."
)
@click.option("--allow-failures", is_flag=True, help="Exit 0 although some were left out.")
@click.option("--json", "as_json", is_flag=True, help="Print the record of the results.")
def merge_command(directory: Path, parts: int | None, allow_failures: bool, as_json: bool) -> None:
    """Write the results of a RUN whose parts are all done; again writes the same bytes.

    RUN is of embed, verification, identification, ijb or attribution. Nothing is embedded here;
    when blocks are missing, the exit code is 1.

    \b
    Examples:
      evaluate merge maps/
      evaluate merge lfw/ --parts 16
    """
    from faceguide.core.errors import (
        EvaluationError,
        Unfinished,
    )
    from faceguide.evaluate.attribution import attribution_commands as attribution
    from faceguide.evaluate.command_output import show
    from faceguide.evaluate.merge import merge_run

    try:
        command, record = merge_run(directory)
    except Unfinished as error:
        if parts is None:
            raise
        again = parts_of(error.blocks, parts)
        raise EvaluationError(
            f"{directory}: {len(again)} of {parts} parts are not finished ({error.what}); run "
            f"them again: --part i/{parts}, or evaluate submit with --parts {parts} --indices "
            f"{show_indices(again)}"
        ) from None
    if command == "attribution":
        attribution.show_results(record, directory, as_json, allow_failures)
    else:
        show(command, record, directory, as_json, allow_failures)
