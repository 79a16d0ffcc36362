"""The command `train export`; registered by the group in `cli`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from faceguide.core.commands.console import Command, echo_json, printable, say
from faceguide.core.commands.settings import argument, option, settings
from faceguide.core.commands.shared_options import EXISTING, OUT_FILE, Output, Told


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Told):
    """What is exported, and where to."""

    weights: Path = argument(metavar="RUN", type=EXISTING)
    onnx: Path = option(help="The file to write.", type=OUT_FILE)


@click.command("export", cls=Command)
@settings(options=ExportOptions, output=Output)
def export_command(options: ExportOptions, output: Output) -> None:
    """Write the network of RUN, or of a weights file, as ONNX.

    The file takes RGB pixels (N, 3, S, S) from 0 to 255: colour order, mean and std are inside. It
    gives `embedding` (N, E), its length the norm, and `visibility` (N, h, w) where there is an
    occlusion head. It is written once ONNX Runtime gives what torch gives, to 1e-5.

    \b
    Examples:
      train export runs/oaml --onnx oaml.onnx
      train export adaface_ir50_ms1mv2.ckpt --onnx ir50.onnx --colour bgr
    """
    from faceguide.core.files import file_sha256
    from faceguide.train.models.loading.network import load_network
    from faceguide.train.models.onnx.onnx_export import export_onnx

    network = load_network(options.backbone, options.weights, "cpu", options.colour, options.heads)
    for note in network.notes:
        say(note)
    network.doubts.say()
    found = export_onnx(
        network.backbone, options.onnx, network.name, network.occlusion_head, network.map_side
    )
    if output.as_json:
        echo_json(
            {
                "network": network.name,
                "side": network.input_spec.size,
                "outputs": found,
                "sha256": file_sha256(options.onnx),
            }
        )
        return
    outputs = ", ".join(
        f"{name} (differs from torch by {value:.0e})" for name, value in found.items()
    )
    click.echo(f"{printable(options.onnx)}: {network.name} with {outputs}")
