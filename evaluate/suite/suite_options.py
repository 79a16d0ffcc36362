"""The options of `evaluate suite`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import FILE, OUT_FOLDER, Names
from faceguide.evaluate.evaluation_options import Bootstrap, Overwrite
from faceguide.preprocess.public_sets.benchmarks import BENCHMARKS


class BenchmarkNames(Names):
    """Names of benchmarks, separated by commas."""

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        names = super().convert(value, param, ctx)
        for name in names:
            if name not in BENCHMARKS:
                known = ", ".join(BENCHMARKS)
                self.fail(f"{name!r} is not one of {known}", param, ctx)
        return names


@dataclass(frozen=True, kw_only=True)
class SuiteOptions(Overwrite, Bootstrap):
    """Which sets are run, and where what is made of them goes.

    Attributes:
        caches: None = `out`/caches.
        model: of the finder, as `prep landmarks` takes it.
    """

    out: Path = option(help="Run directory.", free=True, type=OUT_FOLDER)
    only: tuple[str, ...] = option(
        (), "Run only these benchmarks.", free=True, type=BenchmarkNames(), multiple=False
    )
    caches: Path | None = option(
        None,
        "Where prepared sets are kept; runs of several networks share it.  [default: OUT/caches]",
        free=True,
        type=OUT_FOLDER,
    )
    model: Path | None = option(
        None, "face_landmarker.task, where MediaPipe carries no models.", free=True, type=FILE
    )
    jobs: int | None = option(
        None,
        "Processes that prepare unaligned sets.  [default: all cores]",
        free=True,
        type=click.IntRange(1),
    )
    batch_size: int | None = option(
        None,
        "Crops of one forward pass.  [default: 16 a core, 128 on a GPU]",
        free=True,
        type=click.IntRange(1),
    )
