"""ROC and CMC curves, as files for a paper and as SVG for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]

# Okabe and Ito's colours, which colour-blind readers can tell apart, and lines for print in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")


def _figure(width: float) -> Figure:
    # Imported here: drawing is rare, and matplotlib takes a second to import.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, 3.6), layout="constrained")


_COLUMN = 4.8  # inches, of a paper's column


def roc_figure(curves: Mapping[str, Curve], least_far: float, width: float = _COLUMN) -> Figure:
    """TAR over FAR with a logarithmic x axis.

    Args:
        curves: name → FAR and TAR.
        least_far: left end of the axis, above 0: one false accept of the shortest list.
    """
    figure = _figure(width)
    axes = figure.add_subplot()
    lowest = 1.0
    for number, (name, (far, tar)) in enumerate(curves.items()):
        colour, line = _style(number)
        # A step: between two points of the ROC only the left one can be reached.
        axes.step(
            np.maximum(far, least_far),
            tar,
            where="post",
            color=colour,
            linestyle=line,
            linewidth=1.6,
            label=_plain(name),
        )
        lowest = min(lowest, float(tar[far >= least_far].min(initial=1.0)))
    axes.set_xscale("log")
    axes.set_xlim(least_far, 1.0)
    bottom = max(0.0, np.floor((lowest - 0.02) * 20) / 20)
    axes.set_ylim(bottom, 1.0 + 0.02 * (1.0 - bottom))
    axes.set_xlabel("false accept rate")
    axes.set_ylabel("true accept rate")
    _finish(figure)
    return figure


def cmc_figure(curves: Mapping[str, NDArray[np.float64]], width: float = _COLUMN) -> Figure:
    """Identification rate over rank with a logarithmic x axis.

    Args:
        curves: name → rates at ranks 1, 2, …
    """
    figure = _figure(width)
    axes = figure.add_subplot()
    lowest = 1.0
    for number, (name, rates) in enumerate(curves.items()):
        colour, line = _style(number)
        ranks = np.arange(1, len(rates) + 1)
        axes.plot(ranks, rates, color=colour, linestyle=line, linewidth=1.6, label=_plain(name))
        lowest = min(lowest, float(rates[0]))
    axes.set_xscale("log")
    axes.set_xlim(1, max(len(rates) for rates in curves.values()))
    axes.set_ylim(max(0.0, np.floor((lowest - 0.02) * 20) / 20), 1.002)
    axes.set_xlabel("rank")
    axes.set_ylabel("identification rate")
    _finish(figure)
    return figure


def _style(number: int) -> tuple[str, str]:
    return _COLOURS[number % len(_COLOURS)], _LINES[number % len(_LINES)]


def _plain(name: str) -> str:
    """A legend entry: matplotlib would read $…$ as mathematics and hide a leading underscore."""
    text = name.replace("\\", "\\\\").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _finish(figure: Figure) -> None:
    axes = figure.axes[0]
    axes.grid(True, which="major", color="0.88", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="lower right", frameon=False)


def save(figure: Figure, out: Path, stem: str, kinds: Sequence[str] = ("pdf", "png")) -> list[Path]:
    """Write `stem.pdf` and `stem.png`; the same figure gives the same bytes."""
    paths = []
    for kind in kinds:
        data = io.BytesIO()
        # Without dates, so that a figure changes only when its curves do.
        facts = {"pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
        figure.savefig(data, format=kind, dpi=200, metadata=facts)
        paths.append(out / f"{stem}.{kind}")
        write_bytes(paths[-1], data.getvalue())
    return paths


def data_uri(figure: Figure) -> str:
    """The source of an `<img>`: there an SVG can run nothing, and its ids clash with no other's."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg(figure).encode()).decode("ascii")


def picture_uri(image: NDArray[np.uint8]) -> str:
    """The source of an `<img>`: an (H, W, 3) RGB picture as JPEG."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def svg(figure: Figure) -> str:
    """The figure as an `<svg>` element; text is drawn as outlines, so no name is markup."""
    import matplotlib

    data = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "faceguide"}):
        figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    text = data.getvalue()
    return text[text.index("<svg") :]
