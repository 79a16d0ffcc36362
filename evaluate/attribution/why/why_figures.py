"""Effects with their intervals, a figure per outcome; and the surest dependences as points."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.attribution.why.dependence import Question
from faceguide.evaluate.attribution.why.findings import SIGNIFICANT, findings, spelt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 6  # methods side by side
_POINTS = 6  # dependences that are drawn as points
_WINDOW = 0.2  # of the pairs, for the running mean


def _plain(name: str) -> str:
    return name.replace("$", r"\$")


def effect_figure(records: list[dict[str, Any]], outcome: str) -> Figure | None:
    """ρ with its interval for every covariate of an outcome, a panel per method; None untested."""
    from matplotlib.figure import Figure

    shown = [one for one in records if one["outcome"] == outcome and one["effect"] is not None]
    if not shown:
        return None
    methods, covariates = (
        list(dict.fromkeys(one[key] for one in shown)) for key in ("method", "covariate")
    )
    across = min(len(methods), _COLUMNS)
    down = -(-len(methods) // across)
    size = (1.9 + 1.6 * across, 0.7 + down * (0.5 + 0.2 * len(covariates)))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten()
    for axes in panels[len(methods) :]:
        axes.set_visible(False)
    for axes, method in zip(panels, methods, strict=False):
        for one in (one for one in shown if one["method"] == method):
            place = covariates.index(one["covariate"])
            sure = one["p_bh"] is not None and one["p_bh"] < SIGNIFICANT
            colour = "#D55E00" if sure else "0.45"
            axes.plot(one["interval"] or [one["effect"]] * 2, [place] * 2, color=colour, lw=1.8)
            axes.plot(one["effect"], place, "o", color=colour, markersize=4)
        axes.axvline(0, color="0.6", linewidth=1, zorder=0)
        axes.set_title(_plain(method), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(True, axis="x", color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_yticks(range(len(covariates)), map(spelt, covariates))
    panels[0].set_xlim(-1, 1)
    panels[0].invert_yaxis()
    figure.supxlabel(
        f"{spelt(outcome)}: rank correlation ρ, 95 % over identities; orange: holds after the "
        "correction",
        fontsize=8,
    )
    return figure


def point_figure(records: list[dict[str, Any]], question: Question) -> Figure | None:
    """The pairs behind the surest dependences, with running means; None where none holds."""
    from matplotlib.figure import Figure

    held = findings(records)[:_POINTS]
    if not held:
        return None
    across = min(len(held), 3)
    down = -(-len(held) // across)
    figure = Figure(figsize=(2.9 * across, 2.5 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flatten()
    for axes in panels[len(held) :]:
        axes.set_visible(False)
    values = {(one.method, one.name): one.values for one in question.outcomes}
    kinds = question.covariates.kind
    for axes, one in zip(panels, held, strict=False):
        y = values[one["method"], one["outcome"]]
        x = question.covariates.tested[one["covariate"]]
        both = np.isfinite(x) & np.isfinite(y)
        mixed = kinds is not None and one["covariate"] != "label"
        for kind, colour in ((1, "#0072B2"), (0, "#D55E00")) if mixed else ((None, "0.35"),):
            here = both & (kinds == kind) if kind is not None else both
            if not here.any():
                continue
            binary = np.isin(y[here], (0.0, 1.0)).all()
            # So that points of yes and no do not hide each other.
            shift = np.random.default_rng(0).uniform(-0.06, 0.06, here.sum()) if binary else 0.0
            axes.plot(x[here], y[here] + shift, ".", color=colour, markersize=3, alpha=0.5)
            axes.plot(*_running_mean(x[here], y[here]), color=colour, linewidth=1.8)
        axes.set_title(f"{_plain(one['method'])}: {spelt(one['outcome'])}", fontsize=8)
        axes.set_xlabel(spelt(one["covariate"]), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _running_mean(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of both over windows of a fifth of the pairs, along x."""
    order = np.argsort(x, kind="stable")
    width = max(round(_WINDOW * len(x)), 1)
    kernel = np.full(width, 1 / width)
    along, across = (np.convolve(values[order], kernel, "valid") for values in (x, y))
    return along, across
