"""Figures of a run: skill with intervals, rates per pair, strata; and overlays of maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.attribution.cells import GRID, cell_bounds
from faceguide.evaluate.attribution.pages.attribution_tables import ordered
from faceguide.evaluate.attribution.pages.chimera_tables import groups
from faceguide.evaluate.attribution.pages.chimera_tables import ordered as chimera_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUPPORTS, OPPOSES = (213, 94, 0), (0, 114, 178)  # RGB
HIGH, LOW = (20, 20, 20), (255, 255, 255)  # of the outlines of cells
_STRONGEST = 0.75  # share of a colour where a map is largest
_SIDE = 196  # of an overlay, a multiple of 7


def _rows(names: list[str], height: float) -> tuple[Figure, Axes]:
    """An empty figure with a row a method, the first at the top."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, height + 0.27 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def skill_figure(record: dict[str, Any]) -> Figure:
    """Skill of every method that claims a direction, with intervals, and the ceilings."""
    names = [name for name in ordered(record) if record["methods"][name]["signed"]]
    figure, axes = _rows(names, 0.9)
    for kind, colour, shift in (("genuine", "#0072B2", -0.13), ("impostor", "#D55E00", 0.13)):
        for place, name in enumerate(names):
            value = record["methods"][name][f"skill_{kind}"]
            if value is None:
                continue
            ends = record["methods"][name][f"skill_{kind}_interval"] or (value, value)
            axes.plot(ends, [place + shift] * 2, color=colour, linewidth=2)
            axes.plot(value, place + shift, "o", color=colour, markersize=4.5)
        if (top := record["ceiling"][f"signed_{kind}"]) is not None:
            axes.axvline(top, color=colour, linestyle=":", linewidth=1)
    axes.axvline(0, color="0.6", linewidth=1, zorder=0)
    axes.set_xlabel(
        f"pair-specific skill ({record['pairs']['n']} pairs); dotted: ceiling\n"
        "blue: genuine pairs, orange: impostor pairs"
    )
    axes.grid(True, axis="x", color="0.92")
    return figure


def rate_bars(record: dict[str, Any]) -> Figure:
    """Share of pairs whose rate is 0, between, 1, or that were not tested."""
    names = ordered(record)
    figure, axes = _rows(names, 1.0)
    left = np.zeros(len(names))
    kinds = (("zero", "0", "#009E73"), ("between", "between", "#E69F00"), ("one", "1", "#D55E00"))
    methods = [record["methods"][name] for name in names]
    for key, label, colour in kinds:
        share = np.array([found["rate_histogram"][key] / found["n"] for found in methods])
        axes.barh(range(len(names)), share, left=left, color=colour, label=label, height=0.7)
        left += share
    axes.barh(range(len(names)), 1 - left, left=left, color="0.85", label="untested", height=0.7)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of pairs by falsification rate, lower rates are better")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=4, frameon=False)
    return figure


def enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(S, S, 3) at the size of the gallery."""
    found = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return found.astype(np.uint8)


def told_apart_figure(record: dict[str, Any]) -> Figure:
    """How well each method tells two identities apart, with intervals, beside chance and pixels."""
    found = groups(record)
    names = [name for name in chimera_order(record) if record["methods"][name]["signed"]]
    figure, axes = _rows(names, 0.8)
    colours = dict.fromkeys(found["best"], "#009E73") | dict.fromkeys(found["above"], "#0072B2")
    for place, name in enumerate(names):
        one = record["methods"][name]
        value = 100 * one["told_apart"]
        ends = [100 * end for end in one["told_apart_interval"] or (one["told_apart"],) * 2]
        colour = colours.get(name, "0.75" if one["control"] else "0.45")
        axes.plot(ends, [place, place], color=colour, linewidth=2)
        axes.plot(value, place, "s" if one["control"] else "o", color=colour, markersize=5)
        text = axes.text(101, place, f"{value:.0f}", fontsize=8, color=colour)
        text.set(va="center", fontweight="bold" if name in found["best"] else "normal")
    axes.set_xlim(25, 100)
    axes.axvline(50, color="0.6", linewidth=1, zorder=0)
    axes.axvline(100 * record["methods"]["pixels"]["told_apart"], color="0.6", ls=":", zorder=0)
    axes.set_xlabel(
        f"tells apart, % of comparisons, higher is better ({record['chimeras']['n']} chimeras)\n"
        "line: chance; dotted: comparing patches; squares: controls"
    )
    axes.grid(True, axis="x", color="0.92")
    return figure


def tinted(base: NDArray[np.uint8], heat: NDArray[np.floating]) -> NDArray[np.uint8]:
    """A picture under its map (h, w): what supports the match in orange, what opposes it in blue.

    The largest magnitude has the strongest colour; a map that is not finite leaves it as it is.
    """
    values = heat.astype(np.float32)
    largest = float(np.abs(values).max())
    if not np.isfinite(values).all() or largest == 0:
        return base
    big = cv2.resize(values / largest, base.shape[1::-1], interpolation=cv2.INTER_LINEAR)[..., None]
    colour = np.where(big > 0, np.array(SUPPORTS), np.array(OPPOSES))
    grey = base.mean(2, keepdims=True)  # so that only the map has colour
    share = _STRONGEST * np.abs(big)
    return np.round(share * colour + (1 - share) * grey).astype(np.uint8)


def two_coloured(
    image: NDArray[np.uint8], heat: NDArray[np.floating], part: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """A chimera under its map, the donor's part outlined.

    Args:
        image: (S, S, 3) uint8 RGB.
        heat: (h, w) signed.
        part: (S, S) uint8, 255 in the part.
    """
    base = tinted(enlarged(image), heat)
    large = cv2.resize(part, (_SIDE, _SIDE), interpolation=cv2.INTER_NEAREST)
    edge = np.pad(large[1:-1, 1:-1], 1)  # a part that touches the border is closed there
    outlines, _ = cv2.findContours(edge, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(base, outlines, -1, (255, 255, 255), 2, cv2.LINE_AA)
    return base


def overlay(
    image: NDArray[np.uint8],
    heat: NDArray[np.floating],
    high: NDArray[np.bool_],
    low: NDArray[np.bool_],
    regions: NDArray[np.uint8] | None,
) -> NDArray[np.uint8]:
    """The probe under its map: heat, the outlines of landmark regions, high and low cells.

    Args:
        image: (S, S, 3) uint8 RGB.
        heat: (h, w) signed; not finite = no map.
        high: (49,) bool, outlined in black.
        low: (49,) bool, outlined in white.
        regions: (3, g, g) uint8 of the cache, or None.
    """
    return marked(tinted(enlarged(image), heat), regions, ((low, LOW), (high, HIGH)))


def marked(
    base: NDArray[np.uint8],
    regions: NDArray[np.uint8] | None,
    cells: Sequence[tuple[NDArray[np.bool_], tuple[int, int, int]]],
) -> NDArray[np.uint8]:
    """An enlarged picture with outlines of landmark regions and of cells; it is drawn upon.

    Args:
        base: as `enlarged` makes it.
        regions: (K, g, g) uint8, or None.
        cells: (49,) bool and their colour.
    """
    if regions is not None:
        for region in regions:
            mask = cv2.resize(region, (_SIDE, _SIDE), interpolation=cv2.INTER_LINEAR)
            outlines, _ = cv2.findContours(
                (mask > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(base, outlines, -1, (120, 220, 160), 1, cv2.LINE_AA)
    edges = cell_bounds(_SIDE).tolist()
    for chosen, colour in cells:
        for cell in np.flatnonzero(chosen):
            row, column = divmod(int(cell), GRID)
            start = (edges[column] + 2, edges[row] + 2)
            end = (edges[column + 1] - 3, edges[row + 1] - 3)
            cv2.rectangle(base, start, end, colour, 2)
    return base
