"""ROC, DET and CMC curves, as files for a paper and as SVG for the report."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.core.files import write_bytes
from faceguide.evaluate.metrics.roc import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart, and lines for print in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_COLUMN = 4.8  # inches, of a paper's column


def roc_figure(curves: Mapping[str, Curve], least_far: float, width: float = _COLUMN) -> Figure:
    """TAR over FAR with a logarithmic x axis.

    Args:
        curves: name → FAR and TAR.
        least_far: left end of the axis, above 0: one false accept of the shortest list.
        width: inches.
    """
    figure, axes = _axes(width, "false accept rate", "true accept rate")
    for (name, (far, tar)), style in zip(curves.items(), _styles(), strict=False):
        # A step: between two points of the ROC only the left one can be reached.
        axes.step(np.maximum(far, least_far), tar, where="post", label=_plain(name), **style)
    bottom = _bottom(tar[far >= least_far].min(initial=1.0) for far, tar in curves.values())
    axes.set_xlim(least_far, 1.0)
    axes.set_ylim(bottom, 1.0 + 0.02 * (1.0 - bottom))
    axes.legend(loc="lower right", frameon=False)
    return figure


def det_figure(
    curves: Mapping[str, Curve],
    least_far: float,
    points: Mapping[str, Iterable[tuple[float, float]]],
    width: float = _COLUMN,
) -> Figure:
    """FNMR over FMR, both on the scale of a normal distribution's quantiles (DET).

    Martin et al., "The DET curve in assessment of detection task performance" (1997).

    Args:
        curves: name → FAR (FMR) and TAR (1 − FNMR).
        least_far: left end of the axis, above 0: one false match of the shortest list.
        points: name of a curve → FMR and FNMR of thresholds to mark on it.
        width: inches.
    """
    from scipy.special import ndtri

    figure, axes = _axes(width, "false match rate", "false non-match rate")
    axes.set_xscale("linear")
    ends = []
    for (name, (far, tar)), style in zip(curves.items(), _styles(), strict=False):
        shown = (far >= least_far) & (far < 1.0) & (tar < 1.0) & (tar > 0.0)
        axes.plot(ndtri(far[shown]), ndtri(1.0 - tar[shown]), label=_plain(name), **style)
        ends += (1.0 - tar[shown]).tolist()
        for fmr, fnmr in points.get(name, ()):
            if 0.0 < fmr < 1.0 and 0.0 < fnmr < 1.0:
                axes.plot(ndtri(fmr), ndtri(fnmr), "o", color=style["color"], markersize=5)
    least = min(ends, default=least_far)
    ticks = np.array([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5])
    for axis, low in ((axes.xaxis, least_far), (axes.yaxis, least)):
        used = ticks[ticks >= low * 0.5]
        axis.set_ticks(ndtri(used), labels=[f"{100 * tick:g} %" for tick in used])
    axes.set_xlim(ndtri(least_far), ndtri(0.6))
    axes.set_ylim(ndtri(max(least * 0.7, 1e-7)), ndtri(0.6))
    axes.legend(loc="upper right", frameon=False)
    return figure


def shown_figure(curves: Mapping[str, NDArray[np.float64]], width: float = _COLUMN) -> Figure:
    """Accuracy over the share of the face that is visible, with intervals.

    Args:
        curves: name → (K, 4) visible share, accuracy and the ends of its interval.
        width: inches.
    """
    figure, axes = _axes(width, "visible share of the probe's face", "accuracy")
    axes.set_xscale("linear")
    for (name, points), style in zip(curves.items(), _styles(), strict=False):
        share, accuracy, low, high = points.T
        axes.plot(share, accuracy, marker="o", markersize=4, label=_plain(name), **style)
        axes.fill_between(share, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set_xlim(1.02, 0.0)
    axes.set_ylim(_bottom(points[:, 2].min() for points in curves.values()), 1.005)
    axes.legend(loc="lower left", frameon=False)
    return figure


def cmc_figure(curves: Mapping[str, NDArray[np.float64]], width: float = _COLUMN) -> Figure:
    """Identification rate over rank with a logarithmic x axis.

    Args:
        curves: name → rates at ranks 1, 2, …
        width: inches.
    """
    figure, axes = _axes(width, "rank", "identification rate")
    for (name, rates), style in zip(curves.items(), _styles(), strict=False):
        axes.plot(np.arange(1, len(rates) + 1), rates, label=_plain(name), **style)
    axes.set_xlim(1, max(len(rates) for rates in curves.values()))
    axes.set_ylim(_bottom(rates[0] for rates in curves.values()), 1.002)
    axes.legend(loc="lower right", frameon=False)
    return figure


def _axes(width: float, x: str, y: str) -> tuple[Figure, Axes]:
    # Imported here: drawing is rare, and matplotlib takes a second to import.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 3.6), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel=x, ylabel=y, axisbelow=True)
    axes.grid(True, which="major", color="0.88", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _styles() -> Iterator[dict[str, Any]]:
    for colour, line in zip(itertools.cycle(_COLOURS), itertools.cycle(_LINES), strict=False):
        yield {"color": colour, "linestyle": line, "linewidth": 1.6}


def _bottom(values: Iterable[float]) -> float:
    """Where the y axis begins: a multiple of 0.05 a little below the lowest of these."""
    return max(0.0, float(np.floor((min(values, default=1.0) - 0.02) * 20) / 20))


def _plain(name: str) -> str:
    """A legend entry: matplotlib would read $…$ as mathematics and hide a leading underscore."""
    text = name.replace("\\", "\\\\").replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def save(figure: Figure, out: Path, stem: str) -> None:
    """Write `stem.pdf` and `stem.png`; the same figure gives the same bytes."""
    # Without dates, so that a figure changes only when its curves do.
    for kind, fact in (("pdf", "CreationDate"), ("png", "Software")):
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=200, metadata={fact: None})
        write_bytes(out / f"{stem}.{kind}", data.getvalue())


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
