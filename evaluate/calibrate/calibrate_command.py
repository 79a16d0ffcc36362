"""The command `evaluate calibrate`; registered by the group in `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import Command, echo_json, interruptible, printable
from faceguide.core.commands.doubts import OF_WEIGHTS, Doubts
from faceguide.core.commands.settings import settings
from faceguide.core.commands.shared_options import CACHES, OUT_FILE, Output
from faceguide.evaluate.calibrate.calibrate_settings import CalibrateOptions
from faceguide.evaluate.evaluation_options import NetworkOptions


@click.command("calibrate", cls=Command)
@click.argument("directory", metavar="CACHE", type=CACHES)
@click.option("--out", type=OUT_FILE, required=True, help="File of the calibration.")
@settings(network=NetworkOptions, options=CalibrateOptions, output=Output)
def calibrate_command(
    directory: Path, out: Path, network: NetworkOptions, options: CalibrateOptions, output: Output
) -> None:
    """Fit, on the identities of CACHE, what turns scores into log-likelihood ratios.

    A calibrated score is the natural logarithm of the odds at even priors: 0 tells nothing, 2.3
    is ten to one for one identity. With --method visibility it takes into account what a pair
    shows in common, so that lists of faces under different covers are ranked rightly; it learns
    this from drawn covers. The identities must not be those that are tested later. Give the file to
    verification, identification or ijb by --calibration.

    \b
    Examples:
      evaluate calibrate train/ --weights run/ --out calibration.safetensors
      evaluate calibrate train/ --weights ir50.ckpt --method platt --out cosine.safetensors
    """
    from faceguide.evaluate.calibrate.calibrate_run import calibrate

    cache = FaceCache.open(directory)
    with interruptible():
        record = calibrate(cache, network.load(), options, out)
    Doubts.of(record["doubts"]).say(but=OF_WEIGHTS)
    if output.as_json:
        echo_json(record)
    else:
        _show(record)


def _show(record: dict[str, Any]) -> None:
    click.echo(
        f"{printable(record['file'])}: {record['method']}, of {record['matcher']}; "
        f"{record['identities']:,} identities, {record['faces']:,} faces, {record['genuine']:,} "
        f"pairs of one identity, {record['impostor']:,} of two"
    )
    click.echo("on identities that the fit did not see, half of them each time:")
    for when in ("before", "after"):
        found = record[when]
        cells = [f"AUC {100 * found['auc']:.2f} %"]
        for far in ("1e-2", "1e-3"):
            tar = found[f"tar_{far}"]
            cells.append(f"TAR@{far} {'–' if tar is None else f'{100 * tar:.1f} %'}")
        if "cllr" in found:
            cells.append(f"Cllr {found['cllr']:.3f} bits")
        click.echo(f"  {when:7} {', '.join(cells)}")
