"""The commands `evaluate networks` and `evaluate describe`; registered by the group in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from faceguide.core.commands.console import Command, echo_json, printable
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import EXISTING, Output
from faceguide.evaluate.evaluation_options import FileOptions


@click.command("networks", cls=Command)
@settings(output=Output)
def networks_command(output: Output) -> None:
    """List the networks: side, colour order, mean and std of their pixels, and what suits them.

    \b
    Example:
      evaluate networks
    """
    from faceguide.train.models.loading.description import networks

    rows = networks()
    if output.as_json:
        echo_json(rows)
        return
    lines = [[row["network"], _pixels(row), ", ".join(row["works_with"])] for row in rows]
    lines.append(["FILE.onnx", "as the graph says", "cosine, occlusion maps"])
    lines.append(["module:function", "as its input_spec says", "all that it offers"])
    wide = [max(len(line[column]) for line in lines) for column in range(2)]
    for name, pixels, works in lines:
        click.echo(f"{name.ljust(wide[0])}  {pixels.ljust(wide[1])}  {works}")


@click.command("describe", cls=Command)
@click.argument("weights", metavar="FILE", type=EXISTING)
@settings(told=FileOptions, output=Output)
def describe_command(weights: Path, told: FileOptions, output: Output) -> None:
    """Say what FILE is: its network, its pixels, what would be assumed, and its digest.

    FILE is a weights file, an ONNX file or a training run. What it does not tell by itself is
    listed as assumed.

    \b
    Examples:
      evaluate describe ir50.ckpt
      evaluate describe w600k_r50.onnx --json
    """
    from faceguide.train.models.loading.description import describe_file

    found = describe_file(weights, told.backbone, told.colour, told.heads, told.onnx_output)
    if output.as_json:
        echo_json(found)
        return
    click.echo(f"{printable(weights)}: {found['network']}, {_pixels(found)}")
    for line in found["assumed"]:
        click.echo(f"  assumed  {line}")
    if "outputs" in found:
        listed = ", ".join(f"{name} {shape}" for name, shape in found["outputs"].items())
        click.echo(f"  outputs  {printable(listed)}")
    click.echo(f"  works with  {', '.join(found['works_with'])}")
    click.echo(f"  sha256  {found['sha256']}")


def _pixels(row: dict[str, Any]) -> str:
    """ "112 px RGB, mean .5 .5 .5, std .5 .5 .5"."""

    def numbers(values: tuple[float, float, float]) -> str:
        shown = [f"{value:.3g}" for value in values]
        return shown[0] if len(set(shown)) == 1 else " ".join(shown)

    colour = row["colour"] or "RGB or BGR"
    return f"{row['side']} px {colour}, mean {numbers(row['mean'])}, std {numbers(row['std'])}"
