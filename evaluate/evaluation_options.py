"""Options that several `evaluate` commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from tqdm import tqdm

from faceguide.core.commands.console import say
from faceguide.core.commands.settings import FREE, option
from faceguide.core.commands.shared_options import (
    EXISTING,
    FILE,
    OUT_FOLDER,
    Device,
    Part,
    Told,
)
from faceguide.evaluate.score.matcher_options import MatcherOptions

if TYPE_CHECKING:  # `evaluate --help` must not wait for torch
    from faceguide.train.models.loading.network import Network

FIT_IN_PARTS = (
    "--fit-pairs is for one process: fit on a short list first, then give the parts the "
    "fusion.json of that run by --fusion-scales"
)


@dataclass(frozen=True, kw_only=True)
class FileOptions(Told):
    """What the user says of a weights file."""

    onnx_output: str | None = option(
        None, "The embedding among the outputs of an ONNX file.  [default: the only one]"
    )


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Device, FileOptions):
    """Which network, and where it works."""

    weights: Path = option(
        help="A weights file, a downloaded folder or a training run.", type=EXISTING
    )
    precision: Literal["float32", "bf16"] = option(
        "float32", "bf16 is faster where the processor multiplies it; what it changes is said."
    )

    def load(self) -> Network:
        """The network; what is noticed about it is said.

        Raises:
            FaceguideError: when weights or device cannot be used.
        """
        from faceguide.train.models.loading.network import load_network, on_device

        network = load_network(
            self.backbone, self.weights, on_device(self.device), self.colour, self.heads,
            self.onnx_output, self.precision,
        )  # fmt: skip
        for note in network.notes:
            say(note)
        network.doubts.say()
        return network


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Which pairs are compared."""

    pairs: Path = option(help="The list of pairs.", type=FILE)
    split: str | None = option(
        None, "Split of --pairs, if a list of ND-TWIN: train, val or test.",
        "--pairs-split", "--split",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VerifiedPairs(PairOptions):
    """Which pairs are compared, and how ND-TWIN's impostors are chosen."""

    impostors: Literal["all", "twins", "others"] = option(
        "all", "Of a list of ND-TWIN: pairs of two twins, of other two identities, or all."
    )


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Who is enrolled, and who is searched for."""

    gallery: Path | None = option(
        None, "CSV of enrolled images: key and, if the cache has none, identity.", type=FILE
    )
    probes: Path | None = option(None, "CSV of images to search for, in the same form.", type=FILE)
    unenrolled: float = option(
        0.0,
        "Without lists: share of identities that are not enrolled, for open-set figures.",
        type=click.FloatRange(0, 1, max_open=True),
    )

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            click.UsageError: one line.
        """
        if (self.gallery is None) != (self.probes is None):
            raise click.UsageError("--gallery and --probes belong together")
        if self.gallery is not None and self.unenrolled:
            raise click.UsageError("--unenrolled is for runs without lists; leave it out")


@dataclass(frozen=True, kw_only=True)
class Bootstrap:
    """How intervals are made.

    Attributes:
        replicates: 0 = no intervals.
    """

    replicates: int = option(
        1000,
        "Resamples of identities behind the intervals; 0 = none.",
        "--bootstrap",
        type=click.IntRange(0),
    )


@dataclass(frozen=True, kw_only=True)
class Tables(Bootstrap):
    """Where figures with intervals go."""

    out: Path = option(help="Directory for tables and figures.", type=OUT_FOLDER)

    def check(self) -> None:
        """Refuse to leave the intervals out.

        Raises:
            click.UsageError: one line.
        """
        if not self.replicates:
            raise click.UsageError("--bootstrap 0: these tables need intervals; give at least 1")


@dataclass(frozen=True, kw_only=True)
class Place(Part):
    """The run directory, and the part of the run that is done here."""

    out: Path = option(help="Run directory.", free=True, type=OUT_FOLDER)


@dataclass(frozen=True, kw_only=True)
class Overwrite:
    """Whether another run may be replaced."""

    overwrite: bool = option(False, "Replace another run in --out.", free=True)


@dataclass(frozen=True, kw_only=True)
class RunOptions(Place):
    """A run that embeds faces.

    Attributes:
        embeddings: a run directory whose embeddings are reused and extended; None = `out`.
        merging: compute nothing, make the results of what is there.
    """

    batch_size: int | None = option(
        None,
        "Crops of one forward pass.  [default: 16 a core, 128 on a GPU]",
        free=True,
        type=click.IntRange(1),
    )
    embeddings: Path | None = None
    overwrite: bool = False
    merging: bool = field(default=False, metadata=FREE)

    @property
    def todo(self) -> tuple[int, int] | None:
        """The part whose blocks are computed here; None = none."""
        return None if self.merging else self.part

    @property
    def is_part(self) -> bool:
        """Whether the results are left to others."""
        return self.part[1] > 1


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Overwrite, Bootstrap, RunOptions):
    """A run that compares faces."""

    embeddings: Path | None = option(
        None, "Reuse and extend the embeddings of this run.", free=True, type=OUT_FOLDER
    )


def check(options: MatcherOptions, run: ScoreOptions) -> None:
    """Refuse what does not go together, before weights are read.

    Raises:
        EvaluationError: one line.
        click.UsageError: one line.
    """
    options.names()
    if options.fit_pairs is not None and run.is_part:
        raise click.UsageError(FIT_IN_PARTS)


def progress_bar(what: str, total: int) -> Callable[[int], object]:
    """A bar on stderr; nothing without a terminal."""
    return tqdm(total=total, unit=f" {what}", disable=None).update
