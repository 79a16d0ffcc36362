"""The section "Which pairs, and why" of a report: findings, figures, list and gallery."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from faceguide.evaluate.attribution.why.dependence import Question
from faceguide.evaluate.attribution.why.findings import (
    dependence_table,
    sentences,
    spelt,
    untested_table,
)
from faceguide.evaluate.attribution.why.why_figures import effect_figure, point_figure
from faceguide.evaluate.report import figures
from faceguide.evaluate.report.tables import Table

_LISTED = 60  # uniform pairs; pairs.csv has them all
_GALLERY = 6


class Shown(NamedTuple):
    """A pair or chimera as a reader sees it.

    Attributes:
        title: what it is called in the list.
        names: of its images.
        pictures: (S, S, 3) uint8 each.
    """

    title: str
    names: list[str]
    pictures: list[NDArray[np.uint8]]


def why_section(
    out: Path,
    records: list[dict[str, Any]],
    question: Question,
    shown: Callable[[int], Shown],
    seed: int,
) -> dict[str, Any]:
    """What the template `why.html` shows; writes why_OUTCOME.pdf and .png into the run.

    Args:
        records: from `dependences`.
        shown: place of a pair → its pictures.
        seed: of the choice of the other pairs.
    """
    drawn = []
    for outcome in dict.fromkeys(one["outcome"] for one in records):
        if (figure := effect_figure(records, outcome)) is not None:
            figures.save(figure, out, f"why_{outcome}")
            drawn.append((f"{spelt(outcome)}: effects", figure))
    if (points := point_figure(records, question)) is not None:
        drawn.append(("The surest dependences; lines: running means", points))
    outcomes = [one for one in question.outcomes if one.name == "uniform"]
    pairs = len(question.covariates.tested["score"])
    uniform = np.array([one.values == 1 for one in outcomes], bool).reshape(-1, pairs)
    count = uniform.sum(0)
    order = np.argsort(-count, kind="stable")
    chosen = order[count[order] > 0]
    rest = np.flatnonzero(count == 0)
    others = np.random.default_rng(seed).permutation(rest)[:_GALLERY]

    def described(places: NDArray[np.int64]) -> list[dict[str, Any]]:
        return [_described(shown(int(place)), int(place), question, uniform) for place in places]

    return {
        "sentences": sentences(records),
        "figures": [{"alt": alt, "uri": figures.data_uri(figure)} for alt, figure in drawn],
        "table": dependence_table(records),
        "untested": untested_table(records),
        "uniform": len(chosen),
        "pairs": pairs,
        "list": _list(chosen, rest, question, uniform, shown),
        "listed": min(len(chosen), _LISTED),
        "gallery": [
            ("uniform", described(chosen[:_GALLERY])),
            ("not uniform, chosen at random", described(np.sort(others))),
        ]
        if len(chosen)
        else [],
    }


def _known(question: Question) -> list[str]:
    """The covariates that the cache knows of some pair."""
    tested = question.covariates.tested
    return [name for name, values in tested.items() if np.isfinite(values).any()]


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else "–"


def _list(
    chosen: NDArray[np.int64],
    rest: NDArray[np.int64],
    question: Question,
    uniform: NDArray[np.bool_],
    shown: Callable[[int], Shown],
) -> Table:
    """The pairs with uniform maps, those of most methods first, below the medians of both kinds."""
    names, tested = _known(question), question.covariates.tested
    rows = [
        [f"median of {title}", "", *(_median(tested[name][some]) for name in names), ""]
        for title, some in (("these pairs", chosen), ("the other pairs", rest))
        if len(some) and len(chosen)
    ]
    for place in chosen[:_LISTED]:
        one = shown(int(place))
        methods = int(uniform[:, place].sum())
        values = (_number(tested[name][place]) for name in names)
        rows.append([one.title, str(methods), *values, " – ".join(one.names)])
    return ["pair", "uniform maps", *map(spelt, names), "images"], rows


def _median(values: NDArray[np.float64]) -> str:
    finite = values[np.isfinite(values)]
    return _number(float(np.median(finite))) if len(finite) else "–"


def _described(
    one: Shown, place: int, question: Question, uniform: NDArray[np.bool_]
) -> dict[str, Any]:
    tested = question.covariates.tested
    facts = [
        f"{spelt(name)} {_number(tested[name][place])}"
        for name in _known(question)
        if name != "label" and np.isfinite(tested[name][place])
    ]
    methods = [one.method for one in question.outcomes if one.name == "uniform"]
    return {
        "title": one.title,
        "faces": [
            {"name": name, "uri": figures.picture_uri(picture)}
            for name, picture in zip(one.names, one.pictures, strict=True)
        ],
        "facts": ", ".join(facts),
        "methods": ", ".join(
            name for name, here in zip(methods, uniform[:, place], strict=True) if here
        ),
    }
