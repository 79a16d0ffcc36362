"""How faces are compared: the matchers by name, and the options around them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from faceguide.core.commands.settings import option
from faceguide.core.commands.shared_options import CACHES, FILE, Seed
from faceguide.core.errors import EvaluationError

VISIBLE = "visible-embedding"
MATCHERS = ("cosine", "qaconv", "qaconv+occlusion", VISIBLE, "fused")
# Fusions by name. Parts in this order; the share that is fitted is that of the first. QAConv is
# weighted by visibility, and counts all cells alike where it is unknown.
FUSIONS = {
    "qaconv+cosine": ("qaconv+occlusion", "cosine"),
    "qaconv+visible-embedding": ("qaconv+occlusion", VISIBLE),
}
Visibility = Literal["auto", "head", "cache"]
Hidden = Literal["zero", "drop"]


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """`name=weight` texts as a mapping, by name: sums must not depend on what was typed first.

    Raises:
        EvaluationError: for another form, an unknown name, or fewer than two.
    """
    weights: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if name not in MATCHERS or name == "fused" or not math.isfinite(weight) or name in weights:
            raise EvaluationError(
                f"--fuse {text}: expected NAME=WEIGHT once per matcher, NAME one of "
                f"{', '.join(MATCHERS[:-1])}"
            )
        weights[name] = weight
    if len(weights) < 2:
        raise EvaluationError("a fusion needs --fuse NAME=WEIGHT at least twice")
    return dict(sorted(weights.items()))


@dataclass(frozen=True, kw_only=True)
class MatcherName:
    """Which matcher."""

    matcher: str = option(
        "cosine", "How two faces are compared.", type=click.Choice((*MATCHERS, *FUSIONS))
    )


@dataclass(frozen=True, kw_only=True)
class VisibilitySource:
    """Where visibility comes from."""

    visibility: Visibility = option(
        "auto", "From the occlusion head or the cache's masks; auto: the head if there is one."
    )


@dataclass(frozen=True, kw_only=True)
class CalibrationFile:
    """How sure a score makes."""

    calibration: Path | None = option(
        None, "File of `evaluate calibrate`: scores become log-likelihood ratios.", type=FILE
    )


@dataclass(frozen=True, kw_only=True)
class MatcherOptions(Seed, MatcherName, CalibrationFile):
    """How faces are compared; all of it changes the scores.

    Attributes:
        fuse: matcher → weight, for `fused`.
        fit_cache: None = the cache that is tested.
    """

    flip: bool = option(True, "Average embeddings with those of mirror images.")
    fuse: Mapping[str, float] = option(
        dict,
        "Part of a fusion; may be repeated.",
        multiple=True,
        metavar="NAME=WEIGHT",
        callback=lambda context, option, texts: parse_weights(texts) if texts else {},
    )
    fusion_scales: Path | None = option(None, "fusion.json of an earlier run.", type=FILE)
    fit_pairs: Path | None = option(
        None, "Training pairs that a fusion by name is fitted on.", type=FILE
    )
    fit_split: str | None = option(None, "Split of --fit-pairs, if a list of ND-TWIN.")
    fit_cache: Path | None = option(
        None, "Cache with the images of --fit-pairs.  [default: CACHE]", type=CACHES
    )
    visibility: Visibility = "auto"
    hidden: Hidden = "zero"

    def names(self) -> list[str]:
        """The matchers in use.

        Raises:
            EvaluationError: when the options of a fusion and `matcher` do not belong together.
        """
        by_name = self.matcher in FUSIONS
        if (self.matcher == "fused") != bool(self.fuse):
            raise EvaluationError("--matcher fused and --fuse NAME=WEIGHT belong together")
        if self.fusion_scales is not None and not self.fuse and not by_name:
            raise EvaluationError("--fusion-scales is for a fusion; leave it out")
        if by_name and (self.fit_pairs is None) == (self.fusion_scales is None):
            raise EvaluationError(
                f"--matcher {self.matcher} is fitted on training pairs: give --fit-pairs FILE, or "
                "--fusion-scales with the fusion.json of an earlier fit"
            )
        if not by_name and self.fit_pairs is not None:
            raise EvaluationError(
                f"--fit-pairs is for --matcher {' or '.join(FUSIONS)}; leave it out"
            )
        if self.hidden == "drop" and VISIBLE not in (
            *self.fuse, *FUSIONS.get(self.matcher, ()), self.matcher,
        ):  # fmt: skip
            raise EvaluationError(f"--hidden drop is for {VISIBLE}; leave it out")
        if self.fit_pairs is None and (self.fit_cache or self.fit_split):
            raise EvaluationError("--fit-cache and --fit-split belong to --fit-pairs")
        return list(self.fuse) or list(FUSIONS.get(self.matcher, (self.matcher,)))


@dataclass(frozen=True, kw_only=True)
class CachedMatcherOptions(VisibilitySource, MatcherOptions):
    """The same for faces of a cache, which may know what is visible."""

    hidden: Hidden = option(
        "zero",
        "For visible-embedding: occluded cells count zero, or a vision transformer drops their "
        "tokens before its first block (not yet measured on trained weights).",
    )


@dataclass(frozen=True, kw_only=True)
class TemplateOptions(MatcherOptions):
    """The same for templates of several images."""

    norm: bool = option(True, "Weigh embeddings by their norm.")
    detector_score: bool = option(True, "Weigh embeddings by the detector's score.")
    images_per_template: int = option(
        4, "Representatives of a template for all matchers but cosine.", type=click.IntRange(1)
    )

    def rule(self) -> str:
        """How a template score comes about, for the record."""
        if self.matcher != "cosine":
            return (
                f"mean over all pairs of at most {self.images_per_template} images of either "
                "template, one per medium, best detector score first"
            )
        used = {
            "mirror image added": self.flip,
            "weighted by norm": self.norm,
            "weighted by detector score": self.detector_score,
        }
        return "; ".join(
            ["embeddings: mean within each medium, sum over media"]
            + [name for name, given in used.items() if given]
        )
