"""Options that several `evaluate` commands share, and what they do with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from faceguide.core.commands.console import say
from faceguide.core.commands.option_types import device_option
from faceguide.core.commands.parts import own_part
from faceguide.core.errors import FaceguideError

EXISTING = click.Path(exists=True, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
OUT = click.Path(file_okay=False, path_type=Path)

# Named here so that --help need not import torch; a test compares them with the modules' own.
MATCHERS = ("cosine", "qaconv", "qaconv+occlusion", "visible-embedding", "fused")
FUSIONS = ("qaconv+cosine", "qaconv+visible-embedding")
FIT_IN_PARTS = (
    "--fit-pairs is for one process: fit on a short list first, then give the parts the "
    "fusion.json of that run by --fusion-scales"
)


def _part(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int]:
    try:
        return own_part(value)
    except FaceguideError as error:
        raise click.UsageError(str(error)) from None


part_option = click.option(
    "--part",
    metavar="i/N",
    callback=_part,
    help="Do only part i of N, i from 0 to N−1; then `evaluate merge`.  [default: all, or as a "
    "Slurm array says]",
)


def _order(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    return None if value is None else value.upper()


colour_option = click.option(
    "--colour",
    type=click.Choice(["rgb", "bgr"]),
    callback=_order,
    help="Order of the channels that the weights were trained on.  [default: as the file or the "
    "network tells]",
)


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--backbone, --weights, --colour, --device, --batch-size."""
    for option in (
        click.option(
            "--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Crops."
        ),
        device_option,
        colour_option,
        click.option(
            "--weights", type=EXISTING, required=True, help="A weights file or a training run."
        ),
        click.option(
            "--backbone", help="Its name, or module:function; a training run knows its name."
        ),
    ):
        command = option(command)
    return command


def matcher_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How faces are compared, where the run goes, and which part of it is done here."""
    for option in (
        part_option,
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option("--allow-failures", is_flag=True, help="Exit 0 although some were left out."),
        click.option("--overwrite", is_flag=True, help="Replace another run in --out."),
        click.option("--seed", type=int, default=0, show_default=True, help="Of all draws."),
        click.option(
            "--bootstrap",
            type=click.IntRange(0),
            default=1000,
            show_default=True,
            help="Draws of persons behind the intervals; 0 = none.",
        ),
        click.option(
            "--embeddings", type=OUT, help="Run directory whose embeddings are used and filled."
        ),
        click.option("--fit-cache", type=FOLDER, help="Cache of --fit-pairs.  [default: CACHE]"),
        click.option("--fit-split", help="Of ND-TWIN's pairs: train, val or test."),
        click.option(
            "--fit-pairs", type=FILE, help="Training pairs that a fusion by name is fitted on."
        ),
        click.option("--fusion-scales", type=FILE, help="An earlier run's fusion.json."),
        click.option("--fuse", multiple=True, metavar="NAME=WEIGHT", help="Part of a fusion."),
        click.option("--flip/--no-flip", default=True, show_default=True, help="Mirror image."),
        click.option(
            "--matcher",
            type=click.Choice(MATCHERS + FUSIONS),
            default="cosine",
            show_default=True,
        ),
        click.option("--out", type=OUT, required=True, help="Run directory."),
    ):
        command = option(command)
    return network_options(command)


visibility_option = click.option(
    "--visibility",
    type=click.Choice(("auto", "head", "cache")),
    default="auto",
    show_default=True,
    help="From the occlusion head or the cache's masks; auto: the head if there is one.",
)


def load(
    backbone: str | None, weights: Path, colour: str | None, device: str, batch_size: int
) -> tuple[Any, int]:
    """The network of `network_options`, and the batch size."""
    from faceguide.evaluate.score.network import (
        load_network,
        on_device,
    )

    network = load_network(backbone, weights, on_device(device), colour)
    for note in network.notes:
        say(note)
    network.doubts.say()
    return network, batch_size


def prepare(
    *,
    backbone: str | None,
    weights: Path,
    colour: str | None,
    device: str,
    batch_size: int,
    matcher: str,
    flip: bool,
    visibility: str,
    fuse: tuple[str, ...],
    fusion_scales: Path | None,
    fit_pairs: Path | None,
    fit_split: str | None,
    fit_cache: Path | None,
    out: Path,
    embeddings: Path | None,
    bootstrap: int,
    seed: int,
    overwrite: bool,
    part: tuple[int, int],
) -> tuple[Any, Any, Any]:
    """Network, `MatcherOptions` and `RunOptions` of `matcher_options`."""
    from faceguide.evaluate.score.fusion import parse_weights
    from faceguide.evaluate.score.network import on_device
    from faceguide.evaluate.score.prepare import (
        MatcherOptions,
        RunOptions,
    )

    options = MatcherOptions(
        matcher,
        flip,
        visibility,
        parse_weights(fuse) if fuse else {},
        fusion_scales,
        fit_pairs,
        fit_split,
        fit_cache,
        batch_size,
        str(on_device(device)),
        seed,
    )
    options.names()  # before weights are read
    if fit_pairs is not None and part[1] > 1:
        raise click.UsageError(FIT_IN_PARTS)
    network, _ = load(backbone, weights, colour, device, batch_size)
    return network, options, RunOptions(out, embeddings, bootstrap, overwrite, progress_bar, part)


def progress_bar(what: str, total: int) -> Callable[[int], object]:
    """A bar on stderr; nothing without a terminal."""
    bar = tqdm(total=total, unit=f" {what}", disable=None)
    return bar.update
