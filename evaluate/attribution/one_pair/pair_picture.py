"""The picture of an explained pair: faces, maps, what carried them, what would change it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import AttributionError
from faceguide.core.files import write_bytes
from faceguide.evaluate.attribution.cells import GRID
from faceguide.evaluate.attribution.one_pair.crop_changes import CellChange
from faceguide.evaluate.attribution.one_pair.crop_parts import Parts, regions_of
from faceguide.evaluate.attribution.one_pair.pair_explanation import SIDES, PairExplanation
from faceguide.evaluate.attribution.pages import drawings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".png", ".pdf", ".svg")
_A, _B = "#0072B2", "#CC79A7"  # bars of the two faces
_ROW = 2.1  # inches
_COARSE = 28  # side of the maps that are drawn, as in the report


def check_picture(path: Path) -> None:
    """Refuse a name that no picture can have, before the work begins.

    Raises:
        AttributionError: naming those that can be written.
    """
    if path.suffix.lower() not in KINDS:
        raise AttributionError(f"{path}: expected a name that ends in {', '.join(KINDS)}")


def save_picture(found: PairExplanation, path: Path) -> None:
    """Write the picture; the ending says of which kind."""
    data = io.BytesIO()
    kind = path.suffix.lower().removeprefix(".")
    # Without dates, so that a picture changes only when its figures do.
    fact = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}[kind]
    pair_figure(found).savefig(data, format=kind, dpi=150, metadata={fact: None})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, data.getvalue())


def pair_figure(found: PairExplanation) -> Figure:
    """A row of faces and of changed scores, and a row a method: both maps and their shares."""
    from matplotlib.figure import Figure

    rows = 1 + len(found.maps)
    figure = Figure(figsize=(9.6, 0.9 + _ROW * rows), layout="constrained")
    figure.suptitle(_title(found), fontsize=9)
    grid = figure.add_gridspec(rows, 3, width_ratios=(1, 1, 2.4))
    for place, face in enumerate(found.faces):
        cells = None if found.cells is None else found.cells[place]
        _picture(
            figure.add_subplot(grid[0, place]),
            _outlined(drawings.enlarged(face.crop), face.parts, cells),
            f"{SIDES[place]}: {_plain(face.name)}",
        )
    _changes(figure.add_subplot(grid[0, 2]), found)
    for row, (name, both) in enumerate(found.shares().items(), start=1):
        for place, (face, heat) in enumerate(zip(found.faces, found.maps[name], strict=True)):
            # Single pixels are too few to be seen.
            size = (_COARSE, _COARSE)
            soft = cv2.resize(heat, size, interpolation=cv2.INTER_AREA).astype(np.float32)
            shown = _outlined(drawings.tinted(drawings.enlarged(face.crop), soft), face.parts)
            _picture(figure.add_subplot(grid[row, place]), shown, f"{_plain(name)}, {SIDES[place]}")
        _shares(figure.add_subplot(grid[row, 2]), both, found.signed[name], row == 1)
    return figure


def _title(found: PairExplanation) -> str:
    lines = [found.decision(), *found.what_changes_it()]
    if found.cells is not None and any(cells.crosses for cells in found.cells):
        lines.append("white: these cells")
    return _plain("\n".join(lines))


def _plain(text: str) -> str:
    return text.replace("$", r"\$")


def _picture(axes: Axes, image: NDArray[np.uint8], title: str) -> None:
    axes.imshow(image)
    axes.set_axis_off()
    axes.set_title(title if len(title) <= 30 else f"{title[:3]}…{title[-26:]}", fontsize=7)


def _outlined(
    image: NDArray[np.uint8], parts: Parts, cells: CellChange | None = None
) -> NDArray[np.uint8]:
    """The landmark regions as lines, and the cells that would change the decision."""
    features = regions_of(parts)
    inside = np.zeros(GRID * GRID, bool)
    if cells is not None and cells.crosses:
        inside[[row * GRID + column for row, column in cells.cells]] = True
    return drawings.marked(
        image, np.round(255 * features).astype(np.uint8), ((inside, drawings.LOW),)
    )


def _bars(axes: Axes, names: list[str], values: dict[str, list[float]], origin: float) -> None:
    """A bar for each name and each kind, from `origin` on."""
    styles: dict[str, dict[str, Any]] = {
        "A": {"color": _A},
        "B": {"color": _B},
        "A blurred": {"color": _A},
        "A exchanged": {"edgecolor": _A, "facecolor": "white", "hatch": "////"},
        "B blurred": {"color": _B},
        "B exchanged": {"edgecolor": _B, "facecolor": "white", "hatch": "////"},
    }
    high = 0.8 / len(values)
    for place, (kind, lengths) in enumerate(values.items()):
        at = np.arange(len(names)) + (place - (len(values) - 1) / 2) * high
        axes.barh(at, np.array(lengths) - origin, high, origin, label=kind, **styles[kind])
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    axes.axvline(origin, color="0.4", linewidth=0.8)
    axes.legend(fontsize=6, frameon=False, loc="best")


def _changes(axes: Axes, found: PairExplanation) -> None:
    values: dict[str, list[float]] = {}
    for side, changes in zip(SIDES, found.changes, strict=True):
        for one in changes:
            values.setdefault(f"{side} {one.how}", []).append(one.score)
    _bars(axes, list(found.faces[0].parts), values, found.score)
    label = "score when one region is blurred or exchanged"
    if found.threshold is not None:
        axes.axvline(found.threshold.value, color="#D55E00", linestyle="--", linewidth=1.2)
        label += "; dashed: threshold"
    axes.set_xlabel(label, fontsize=7)


def _shares(
    axes: Axes, both: tuple[dict[str, float], dict[str, float]], signed: bool, legend: bool
) -> None:
    values = {
        side: [100 * one for one in found.values()] for side, found in zip(SIDES, both, strict=True)
    }
    _bars(axes, list(both[0]), values, 0.0)
    axes.set_xlabel(
        "share of the map, %: right (orange) supports the match, left (blue) opposes it"
        if signed
        else "share of the map, %; it claims no direction",
        fontsize=7,
    )
    if not legend:
        axes.get_legend().remove()  # type: ignore[union-attr]
