"""Options of `evaluate attribution`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import click

from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import Names, Output, Seed
from faceguide.core.errors import AttributionError
from faceguide.evaluate.evaluation_options import Bootstrap, Overwrite, Place
from faceguide.evaluate.score.matcher_options import MatcherName


@dataclass(frozen=True, kw_only=True)
class Settings(Seed):
    """What methods may differ in; all of it is written into the run.

    Attributes:
        steps: gradients of Integrated Gradients and of Geodesic IG (arc), per pair.
        noise: standard deviation of SmoothGrad's noise as a share of the pixel range.
        chunk: images of one forward and backward pass. On a CPU, 32 give some activations more than
            32 MiB, which glibc maps and unmaps for each layer: a fifth of the time.
        lrp_gamma: weight of LRP's γ-rule.
    """

    steps: int = option(20, "Gradients of Integrated Gradients.", type=click.IntRange(1))
    samples: int = option(16, "Samples of SmoothGrad.", type=click.IntRange(1))
    noise: float = 0.15
    baseline: Literal["black", "blur", "grey"] = option(
        "black", "Baseline of the integration paths."
    )
    chunk: int = option(
        16,
        "Images of one backward pass; more for a GPU.",
        "--batch-size",
        type=click.IntRange(1),
    )
    lrp_gamma: float = 0.25


@dataclass(frozen=True, kw_only=True)
class Options(Settings, Bootstrap, MatcherName):
    """What a run may differ in.

    Attributes:
        delta: margin that a claim must exceed.
        protocol: None = what suits the list.
        limit: None = all pairs or chimeras.
        block: probes per block; None = as many as take about a minute on a core.
    """

    protocol: Literal["chimera", "matched", "threshold"] | None = option(
        None,
        "chimera: which identity's part a map finds in a face composed of two; matched: whether "
        "the cells that a map claims change the score of your pairs; threshold: an earlier rule, "
        "to reproduce its figures.  [default: chimera where the list has 80 identities of two "
        "images, else matched]",
    )
    composition: Literal["alpha", "poisson"] = option(
        "alpha", "How a chimera's part is put in: a soft edge, or Poisson's equation."
    )
    games: tuple[str, ...] = option(
        (),
        "Further columns of chimera: small, parts of 2×2 cells; regions, eyes, nose or mouth by "
        "landmarks; deletion, what maps give to the other identity is taken out. Each of the first "
        "two costs as much as the ranking.",
        type=Names(),
        multiple=False,
    )
    infills: tuple[str, ...] = option(
        ("blur", "other"),
        "What replaces a cell: blur, mean, face, other.",
        type=Names(),
        multiple=False,
    )
    measures: tuple[str, ...] = option(
        (),
        "deletion, insertion, srg, sensitivity, infidelity, randomisation, swap.",
        "--metrics",
        type=Names(),
        multiple=False,
    )
    delta: float = option(0.0, "A map passes if its margin exceeds this.")
    tau_high: float = option(0.75, "Radians.")
    tau_low: float = option(0.55, "Radians.")
    epsilon: float = option(0.15, "Radians.")
    limit: int | None = option(
        None,
        "Only so many chimeras or pairs, chosen at random, for a first look.",
        type=click.IntRange(1),
    )
    block: int | None = option(
        None,
        "Probes or chimeras per block, the unit that is saved.  [default: about a minute's]",
        type=click.IntRange(1),
    )

    def check(self) -> None:
        """Refuse names that do not exist before weights are read.

        Raises:
            AttributionError: with the legal ones.
        """
        from faceguide.evaluate.attribution.chimera.chimera_list import GAMES
        from faceguide.evaluate.attribution.protocol import infill, map_metrics

        for what, given, legal in (
            ("game", self.games, GAMES),
            ("infill", self.infills, infill.INFILLS),
            ("metric", self.measures, tuple(map_metrics.METRICS)),
        ):
            for name in given:
                if name not in legal:
                    raise AttributionError(f"no {what} {name!r}; choose from {', '.join(legal)}")
        if not self.infills:
            raise AttributionError("at least one infill is needed")
        if self.protocol == "chimera" and self.measures:
            raise AttributionError("--metrics are for --protocol matched; leave one of them out")
        if self.games and (self.measures or self.protocol not in (None, "chimera")):
            raise AttributionError("--games are of --protocol chimera; leave one of them out")


@dataclass(frozen=True, kw_only=True)
class AttributionPlace(Overwrite, Place, Output):
    """Which methods, and how and where they are run."""

    methods: tuple[str, ...] = option(
        ("standard",),
        "Names or module:function, separated by commas, see `evaluate methods`; all: every one "
        "that suits the network; standard: without costly ones.",
        free=True,
        type=Names(),
        multiple=False,
    )
    anyway: bool = option(
        False, "Also test maps of a network that does not separate the identities.", free=True
    )
    dry_run: bool = option(False, "Check, count and estimate the time; no run.", free=True)
