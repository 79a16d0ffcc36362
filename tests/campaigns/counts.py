"""What a fault campaign did and what came of it: the lines of the closing table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


class UnavailableError(Exception):
    """This machine does not allow to inject the fault; the text says why."""


@dataclass(frozen=True)
class Counts:
    """The outcome of one campaign.

    Attributes:
        injected: faults injected, files corrupted or inputs fed.
        survived: those after which everything that is promised held.
        found: corruptions that were reported; None where nothing is corrupted.
        rows_lost: rows of the undisturbed run that were missing at the end.
        rows_doubled: rows that were there twice at the end.
        crashes: tracebacks, hangs, deaths by a signal that nobody sent.
        seconds: it took.
        details: further counts by name, such as kills per command.
        failures: one line per fault that was not survived: what was done, what came of it.
    """

    injected: int
    survived: int
    found: int | None = None
    rows_lost: int = 0
    rows_doubled: int = 0
    crashes: int = 0
    seconds: float = 0.0
    details: Mapping[str, int | float] = field(default_factory=dict)
    failures: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether something was injected, and all of it survived."""
        harmless = self.rows_lost == self.rows_doubled == self.crashes == 0
        whole = self.found is None or self.found == self.injected
        return 0 < self.injected == self.survived and harmless and whole

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Counts:
        """Read what `save` wrote."""
        found = cls(**json.loads(path.read_text()))
        return replace(found, failures=tuple(found.failures))


@dataclass(frozen=True)
class Campaign:
    """One campaign.

    Attributes:
        run: (count, seed, folder) → Counts; works in `folder` alone, which exists and is empty.
            `count` faults are injected, seeded, the same for the same seed as far as time allows.
        full: `count` of the whole campaign.
    """

    run: Callable[[int, int, Path], Counts]
    full: int


def table(counts: Mapping[str, Counts]) -> str:
    """The closing table, one campaign per line and their sum."""
    head = ("campaign", "injected", "survived", "found", "lost", "doubled", "crashes", "seconds")
    lines = [head]
    for name, one in counts.items():
        found = "–" if one.found is None else f"{one.found:,}"
        lines.append(
            (
                *(name, f"{one.injected:,}", f"{one.survived:,}", found, f"{one.rows_lost:,}"),
                *(f"{one.rows_doubled:,}", f"{one.crashes:,}", f"{one.seconds:,.0f}"),
            )
        )
    every = list(counts.values())
    known = [one.found for one in every if one.found is not None]
    sums = [
        *(sum(one.injected for one in every), sum(one.survived for one in every), sum(known)),
        *(sum(one.rows_lost for one in every), sum(one.rows_doubled for one in every)),
        *(sum(one.crashes for one in every), round(sum(one.seconds for one in every))),
    ]
    lines.append(("all", *(f"{value:,}" for value in sums)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
