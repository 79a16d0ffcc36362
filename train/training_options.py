"""Options that `train cal` and `train oaml` share, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from faceguide.core.commands.console import (
    echo_json,
    say,
)
from faceguide.core.commands.option_types import (
    Equals,
    device_option,
    once_each,
)
from faceguide.train.run.repeat import repeat_option

if TYPE_CHECKING:  # `train --help` must not wait for torch
    import torch

    from faceguide.cache.reader import FaceCache
    from faceguide.train.distributed import Processes
    from faceguide.train.job import LoopSettings
    from faceguide.train.pair_evaluation import Pairs

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """CACHE, --out and --from."""
    out = click.Path(path_type=Path)
    command = click.option("--out", "directory", type=out, required=True, help="Run directory.")(
        repeat_option(command)
    )
    return click.argument("cache_directory", metavar="CACHE", type=FOLDER)(command)


def loop_options(
    *, epochs: int, batch_size: int, min_images: int, pictures: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Rows, pairs, length, arithmetic and records of a run.

    Args:
        epochs: default of --epochs.
        batch_size: default of --batch-size.
        min_images: default of --min-images.
        pictures: what --picture-every draws.
    """
    options = (
        click.option("--pairs", type=FILE, help="Verification pairs, tried after every epoch."),
        click.option(
            "--pairs-split",
            help="Which part of --pairs, if it is an ND-TWIN JSON file: train, val or test.",
        ),
        click.option(
            "--eval-cache", type=FOLDER, help="Cache that --pairs lie in.  [default: CACHE]"
        ),
        click.option(
            "--meta",
            type=Equals(),
            multiple=True,
            callback=once_each,
            help="Only rows of this, e.g. split=train.",
        ),
        click.option(
            "--min-images",
            type=click.IntRange(1),
            default=min_images,
            show_default=True,
            help="Leave out persons with fewer images.",
        ),
        click.option("--epochs", type=click.IntRange(1), default=epochs, show_default=True),
        click.option("--steps", type=click.IntRange(1), help="Stop after so many optimiser steps."),
        click.option(
            "--batch-size",
            type=click.IntRange(2),
            default=batch_size,
            show_default=True,
            help="Images per process.",
        ),
        click.option(
            "--accumulate",
            type=click.IntRange(1),
            default=1,
            show_default=True,
            help="Batches per optimiser step.",
        ),
        click.option(
            "--amp",
            type=click.Choice(["off", "bf16", "fp16"]),
            default="off",
            show_default=True,
            help="Arithmetic of the forward pass; fp16 needs CUDA.",
        ),
        click.option(
            "--compile",
            is_flag=True,
            help="Use torch.compile; the first step takes minutes on a CPU.",
        ),
        device_option,
        click.option(
            "--threads",
            type=click.IntRange(1),
            default=2,
            show_default=True,
            help="Threads that read a cache.",
        ),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option(
            "--log-every",
            type=click.IntRange(1),
            default=20,
            show_default=True,
            help="Steps per line of metrics.jsonl.",
        ),
        click.option(
            "--save-every",
            type=click.IntRange(1),
            default=1000,
            show_default=True,
            help="Steps between saves.",
        ),
        click.option(
            "--picture-every",
            type=click.IntRange(0),
            default=1000,
            show_default=True,
            help=f"Steps between pictures of {pictures}; the last step has one too. 0 = none.",
        ),
        click.option("--tensorboard", is_flag=True, help="Write TensorBoard events too."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def loop_settings(options: dict[str, Any]) -> LoopSettings:
    """The settings of the loop; each field is the option of its name."""
    from faceguide.train.job import LoopSettings

    return LoopSettings(**{field.name: options[field.name] for field in fields(LoopSettings)})


def device_of(options: dict[str, Any], processes: Processes) -> torch.device:
    """The device of --device, once it can do the arithmetic of --amp."""
    from faceguide.train.distributed import choose_device

    device = choose_device(options["device"], processes)
    if options["amp"] == "fp16" and device.type != "cuda":
        raise click.UsageError("--amp fp16 needs a CUDA device; choose bf16 or off")
    return device


def verification_pairs(
    cache: FaceCache, options: dict[str, Any], speak: bool
) -> tuple[FaceCache, Pairs] | None:
    """The pairs of --pairs and the cache they lie in, or None."""
    from faceguide.cache.reader import FaceCache

    if not options["pairs"]:
        if options["eval_cache"]:
            raise click.UsageError("--eval-cache belongs to --pairs")
        return None
    where = FaceCache.open(options["eval_cache"]) if options["eval_cache"] else cache
    path = options["pairs"]
    pairs, further = pairs_of(where, path, options["pairs_split"], speak)
    pairs.require_both_kinds(str(path), further)
    return where, pairs


def pairs_of(cache: FaceCache, path: Path, split: str | None, speak: bool) -> tuple[Pairs, str]:
    """Pairs of a file as rows of the cache; those it lacks are counted aloud.

    Args:
        cache: where the images are.
        path: the list.
        split: of an ND-TWIN file.
        speak: whether this process speaks.

    Returns:
        The pairs, and the end of a message: how many are left out, and why the first is.

    Raises:
        TrainError: when no pair has both images in the cache; names the first that is missing.
    """
    from faceguide.cache.pairs.pair_doubts import pair_doubts
    from faceguide.cache.pairs.pair_lists import read_pairs
    from faceguide.cache.pairs.pair_rows import resolve
    from faceguide.core.errors import TrainError
    from faceguide.train.pair_evaluation import Pairs

    listed = read_pairs(path, split)
    found = resolve(cache, listed)
    further = ""
    if found.left_out:
        first = found.left_out[0].reason
        if not len(found):
            raise TrainError(
                f"{path}: none of its {found.listed} pairs has both images in {cache.directory}; "
                f"the first: {first}"
            )
        further = f"{len(found.left_out)} of {found.listed} pairs of {path} are left out"
        further = f"{further}; the first: {first}"
        if speak:
            say(f"Note: {further}")
        further = f"; {further}"
    doubts = pair_doubts(cache, listed, found).doubts
    return Pairs(found.probe, found.reference, found.same, doubts), further


def tell(result: dict[str, Any], what: str, *, as_json: bool) -> None:
    """Print the outcome: as JSON, or the value under `what` and the number of steps."""
    if as_json:
        echo_json(result)
    else:
        click.echo(f"{result[what]}: after {result['steps']} steps")
