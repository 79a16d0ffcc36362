"""Options that several `prep` commands share."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

import click

from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import CACHES, FOLDER, Outcome, Part, Seed
from faceguide.preprocess.parallel import usable_cores


@dataclass(frozen=True, kw_only=True)
class Here(Part, Outcome):
    """Where a command works shard by shard, on which part, and how it reports.

    Raises:
        click.UsageError: when machines are named twice.
    """

    jobs: int | None = option(None, "Processes.  [default: all cores]", type=click.IntRange(1))
    dask: str | None = option(
        None,
        "Use the workers of this Dask scheduler, tcp://host:8786, instead of here.",
        metavar="SCHEDULER",
    )

    def __post_init__(self) -> None:
        if self.dask is not None and self.jobs is not None:
            raise click.UsageError(
                "--jobs is for this machine, --dask for others: give one of them"
            )

    @property
    def processes(self) -> int:
        """How many work on this machine."""
        return self.jobs or usable_cores()


@dataclass(frozen=True, kw_only=True)
class Overwrite:
    """Whether what is there may go."""

    overwrite: bool = option(False, "Start over: first remove what is there.")


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """A cache that gets another group of columns."""

    directory: Path = option(MISSING, "Cache of the faces.", "--cache", type=FOLDER)
    prepare: bool = option(False, "Only write what all parts share; make no shards.")


@dataclass(frozen=True, kw_only=True)
class PlanOptions(Overwrite, Seed):
    """A new cache, and the order of its rows."""

    directory: Path = option(MISSING, "Cache.", "--out", type=click.Path(path_type=Path))
    like: Path | None = option(
        None,
        "Take over the settings of this cache, and leave out the images that it holds, whatever "
        "they are called; `cache volumes` makes one of both.",
        type=CACHES, metavar="CACHE",
    )  # fmt: skip
    limit: int | None = option(None, "Only N images, chosen at random.", type=click.IntRange(1))
    shard_rows: int | None = option(
        None, "Rows per shard.  [default: by size]", type=click.IntRange(1)
    )
