"""Options that `train cal` and `train oaml` share, each declared once: what, how long, where."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from faceguide.core.commands.console import echo_json
from faceguide.core.commands.option_types import (
    Equals,
    FiniteRange,
    NamedNumber,
    Weighted,
    once_each,
)
from faceguide.core.commands.settings import REQUIRED, argument, option
from faceguide.core.commands.shared_options import CACHES, EXISTING, FILE, Seed
from faceguide.train.run.repeat import fill

POSITIVE = click.IntRange(1)
SHAPES = ("medical", "band", "rectangle")  # drawn covers of one outline
KINDS = (*SHAPES, "niqab")  # of drawn covers


@dataclass(frozen=True)
class Source:
    """The cache that is learnt from."""

    cache_directory: Path = argument(metavar="CACHE", type=CACHES)


@dataclass(frozen=True)
class Output:
    """Where the run goes and how it reports; not part of its record."""

    directory: Path = option(REQUIRED, "Run directory.", "--out", type=click.Path(path_type=Path))
    repeat: Path | None = option(
        None, "Repeat the run of this run.json; options given here replace its own.", "--from",
        type=FILE, is_eager=True, callback=fill, metavar="RUN.JSON",
    )  # fmt: skip
    as_json: bool = option(False, "Print one JSON object.", "--json")
    dry_run: bool = option(False, "Check everything and say what would be trained; no run.")

    def rehearsed(self, found: dict[str, Any]) -> NoReturn:
        """Print what a dry run found, and end the command."""
        if self.as_json:
            echo_json(found)
        else:
            shown = {name.replace("_", " "): value for name, value in found.items()}
            click.echo("\n".join(f"{name}: {value}" for name, value in shown.items()))
        raise click.exceptions.Exit(0)

    def report(self, result: dict[str, Any], what: str) -> None:
        """Print the outcome: as JSON, or the value under `what` and the number of steps."""
        if self.as_json:
            echo_json(result)
        else:
            click.echo(f"{result[what]}: after {result['steps']} steps")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Which rows are learnt, in which batches, from which weights."""

    init: Path | None = option(
        None, "Start from a weights file, a downloaded folder or a finished run of train.",
        type=EXISTING,
    )  # fmt: skip
    meta: tuple[tuple[str, str], ...] = option(
        (), "Use only rows with this value, e.g. split=train.",
        type=Equals(), multiple=True, callback=once_each,
    )  # fmt: skip
    batch_size: int = option(REQUIRED, "Images per batch and process.", type=click.IntRange(2))


@dataclass(frozen=True, kw_only=True)
class Fit(Start):
    """What identities are learnt with."""

    min_images: int = option(help="Leave out identities with fewer images.", type=POSITIVE)
    mix: tuple[tuple[str, float], ...] = option(
        (), "How often a cache's images come, if CACHE is several: a weight for each, by its name.",
        type=Weighted(), multiple=True, callback=once_each,
    )  # fmt: skip
    weight_decay: float = option(REQUIRED, "Weight decay of the optimiser.", type=FiniteRange(0))
    threads: int = option(2, "Threads that read a cache.", type=POSITIVE, free=True)


SWAP = NamedNumber("swap=P", "a change", {"swap": None}, FiniteRange(0, 1, min_open=True))


@dataclass(frozen=True, kw_only=True)
class Recipe(Seed):
    """What a step of either trainer depends on; fixed statistics are for small batches."""

    surround: tuple[str, float] | None = option(
        None, "Give this share of the images another identity's hair and background, by landmarks; "
        "the face itself stays.", type=SWAP, multiple=False,
    )  # fmt: skip
    freeze_norm: bool = option(False, "Keep the statistics of BatchNorm.", "--freeze-norm")


@dataclass(frozen=True)
class Verification:
    """Pairs that choose the best checkpoint; which pairs they are stands in the resume key."""

    pairs: Path | None = option(
        None, "Verification pairs, evaluated after every epoch.", type=FILE, free=True
    )
    pairs_split: str | None = option(
        None, "Part of --pairs, if it is an ND-TWIN JSON file.  [default: val]",
        free=True,
    )  # fmt: skip
    allow_leak: bool = option(
        False,
        "Of an ND-TWIN file: also learn identities of other splits than train.",
        "--allow-leak",
    )
    eval_cache: Path | None = option(
        None, "Cache with the images of --pairs.  [default: CACHE]", type=CACHES, free=True
    )


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How long, in which precision, and what is written meanwhile; a step is an optimiser step."""

    steps: int | None = option(
        None, "Stop after so many optimiser steps.", type=POSITIVE, free=True
    )
    accumulate: int = option(1, "Batches per optimiser step.", type=POSITIVE)
    amp: Literal["off", "bf16", "fp16"] = option(
        "off", "Precision of the forward pass; fp16 needs CUDA."
    )
    compile: bool = option(
        False, "Use torch.compile; the first step takes minutes on a CPU.", "--compile", free=True
    )
    log_every: int = option(20, "Steps per line of metrics.jsonl.", type=POSITIVE, free=True)
    save_every: int = option(
        1000, "Steps between checkpoints; an epoch ends with one too.", type=POSITIVE, free=True
    )
    picture_every: int = option(
        1000, "Steps between pictures; the last step has one too. 0 = none.",
        type=click.IntRange(0), free=True,
    )  # fmt: skip
    tensorboard: bool = option(False, "Write TensorBoard events too.", "--tensorboard", free=True)


@dataclass(frozen=True, kw_only=True)
class LoopSettings(StepSettings):
    """For trainers that count epochs."""

    epochs: int = option(REQUIRED, "Passes over the rows.", type=POSITIVE, free=True)
