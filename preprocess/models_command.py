"""`prep models`: list, check and fetch the model files of `prep landmarks`."""

from __future__ import annotations

from typing import Any

import click

from faceguide.core.commands.console import Command, SomeFailed, echo_json
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import Output
from faceguide.preprocess.detect.model_files import MODELS, fetch, models_folder, state

_TOLD = ("name", "purpose", "licence", "address", "sha256", "size")  # of a model


@click.command("models", cls=Command)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--fetch", "wanted", is_flag=True, help="Fetch what is absent or damaged.")
@settings(output=Output)
def models_command(names: tuple[str, ...], wanted: bool, output: Output) -> None:
    """List the models that `prep landmarks` can use, check them, or fetch them.

    They lie in the user's cache folder, or in $FACEGUIDE_MODELS. `prep landmarks` uses the best box
    detector that is there: centerface, else yunet. Files come from where their projects publish
    them and are compared with a known sha256. Without a network, put the files there yourself.

    \b
    Examples:
      prep models
      prep models --fetch centerface
      FACEGUIDE_MODELS=/shared/models prep models --fetch
    """
    known = [model.name for model in MODELS]
    for name in names:
        if name not in known:
            raise click.UsageError(f"no model is called {name!r}; there are {', '.join(known)}")
    folder, bad = models_folder(), 0
    rows: list[dict[str, Any]] = []
    for model in MODELS:
        if names and model.name not in names:
            continue
        if wanted:
            fetch(model, folder)
        now = state(model, folder)
        bad += now == "damaged"
        about = {name: getattr(model, name) for name in _TOLD}
        rows.append({**about, "state": now, "path": str(folder / model.file)})
    if output.as_json:
        echo_json({"folder": str(folder), "models": rows})
    else:
        for row in rows:
            click.echo(
                f"{row['name']}: {row['state']}, {row['path']}\n"
                f"  {row['purpose']} ({row['licence']}, {row['size'] / 1e6:.1f} MB)\n"
                f"  {row['address']}\n  sha256 {row['sha256']}"
            )
    if bad:
        raise SomeFailed(f"{bad} of {len(rows)} models damaged: `prep models --fetch` replaces")
