"""What `evaluate calibrate` is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from faceguide.core.commands.option_types import Equals, once_each
from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import Seed
from faceguide.evaluate.score.matcher_options import VisibilitySource


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(Seed, VisibilitySource):
    """What is fitted, and on which rows."""

    method: Literal["visibility", "platt", "isotonic"] = option(
        "visibility",
        "visibility: of visible-embedding, by what a pair shows in common; platt (a line) and "
        "isotonic (steps): of cosine.",
    )
    meta: tuple[tuple[str, str], ...] = option(
        (), "Use only rows with this value, e.g. split=train.",
        type=Equals(), multiple=True, callback=once_each,
    )  # fmt: skip
