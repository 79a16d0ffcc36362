"""What `train distil` is asked for: its options, their defaults and their record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from faceguide.core.commands.option_types import FiniteRange, NamedNumber, once_each
from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import OUT_FOLDER, Seed, Told
from faceguide.train.training_settings import KINDS, SHAPES, Start

# Alteration → its share of a batch where none is named.
SHARES = {"cover": 0.5, "surround": 0.25}


ALTERATION = NamedNumber(
    "name=share", "an alteration", dict.fromkeys(SHARES), FiniteRange(0, 1, max_open=True)
)


@dataclass(frozen=True, kw_only=True)
class DistilSettings(Seed):
    """The recipe of a step; the defaults are those of docs/distil.md."""

    alter: tuple[tuple[str, float], ...] = option(
        (),
        "Alter this share of a batch: cover=SHARE, surround=SHARE; the others stay as they are. "
        "May be repeated; what is not named is left out.  [default: cover=0.5, surround=0.25]",
        type=ALTERATION, multiple=True, callback=once_each,
    )  # fmt: skip
    cover: tuple[str, ...] = option(
        SHAPES, "Kinds of drawn covers; may be repeated.", type=click.Choice(KINDS), multiple=True
    )
    surround_weight: float = option(
        0.5, "Weight of the loss of swapped surrounds.", type=FiniteRange(0)
    )
    clean_limit: float = option(
        0.95,
        "Least mean cosine to the released network on unaltered faces that were held out; below "
        "it the run stops.",
        type=FiniteRange(0, 1),
    )

    def counts(self, size: int) -> tuple[int, int, int]:
        """Covered, swapped and unaltered faces in a batch of this size."""
        shares = dict(self.alter) if self.alter else SHARES
        covered, swapped = (round(size * shares.get(name, 0.0)) for name in SHARES)
        return covered, swapped, size - covered - swapped


@dataclass(frozen=True, kw_only=True)
class DistilRun(Start, Told):
    """What is distilled, and how."""

    from_layer: str | None = option(
        None,
        "First layer that is trained; those before it stay as they are.  [default: the last "
        "blocks, by network]",
        metavar="LAYER",
    )
    recipe: DistilSettings = DistilSettings()
    rate: float = option(
        5e-4, "Learning rate after the warm-up; a cosine takes it to 0.", "--lr",
        type=FiniteRange(0),
    )  # fmt: skip
    anyway: bool = option(
        False, "Swap surrounds without covers, which makes covered faces worse.", free=True
    )


@dataclass(frozen=True)
class MapFolder:
    """Where maps are kept; not part of the record."""

    maps: Path | None = option(
        None,
        "Folder for the maps of the frozen layers, which runs that draw alike share.  [default: "
        "maps in --out]",
        type=OUT_FOLDER, free=True,
    )  # fmt: skip
