"""What a run of `evaluate attribution` may differ in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from faceguide.core.errors import AttributionError
from faceguide.evaluate.attribution.methods.maps import Settings
from faceguide.evaluate.attribution.protocol import map_metrics
from faceguide.evaluate.attribution.protocol.infill import INFILLS

PROTOCOLS = ("matched", "threshold")


@dataclass(frozen=True)
class Options:
    """What a run may differ in.

    Attributes:
        matcher: of `scores.MATCHERS`, without fusions.
        protocol: "matched" or "threshold".
        infills: names, for `matched`.
        measures: further measures, names in `metrics.METRICS`.
        limit: explain so many pairs, drawn by the seed; None = all.
        block: probes per block; None = as many as take about a minute on a core.
        delta: margin that a claim must exceed.
        tau_high: radians; of the falsifiability criterion.
        tau_low: radians.
        epsilon: radians.
        replicates: of the bootstrap over persons.
        fill: of `threshold`.
        draws: of `threshold`.
        method: settings of the methods, the seed among them.
    """

    matcher: str = "cosine"
    protocol: str = "matched"
    infills: tuple[str, ...] = ("blur", "other")
    measures: tuple[str, ...] = ()
    limit: int | None = None
    block: int | None = None
    delta: float = 0.0
    tau_high: float = 0.75
    tau_low: float = 0.55
    epsilon: float = 0.15
    replicates: int = 1000
    fill: str = "zero"
    draws: int = 100
    method: Settings = field(default_factory=Settings)

    def record(self) -> dict[str, Any]:
        """As run.json and results.json hold it."""
        flat = {name: value for name, value in asdict(self).items() if name != "method"}
        flat |= asdict(self.method)
        flat["infills"], flat["measures"] = list(self.infills), list(self.measures)
        return flat

    def check(self) -> None:
        """Refuse names that do not exist before weights are read.

        Raises:
            AttributionError: with the legal ones.
        """
        for what, given, legal in (
            ("infill", self.infills, INFILLS),
            ("metric", self.measures, tuple(map_metrics.METRICS)),
            ("protocol", (self.protocol,), PROTOCOLS),
        ):
            for name in given:
                if name not in legal:
                    raise AttributionError(f"no {what} {name!r}; choose from {', '.join(legal)}")
        if not self.infills:
            raise AttributionError("at least one infill is needed")
