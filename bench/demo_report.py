"""The demo as one HTML page: `demo_report.py FOLDER` shows what demo.sh made in report.html."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from faceguide.cache.reader import FaceCache
from faceguide.core.files import read_json, write_bytes
from faceguide.evaluate.attribution.pages import attribution_tables, drawings
from faceguide.evaluate.report import figures, report_runs, tables
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.train.run.metrics_log import read_metrics

LISTS = {"unoccluded": "unoccluded pairs", "veiled": "veiled against unoccluded"}
MATCHERS = ("cosine", "visible-embedding", "qaconv+occlusion")
EXPLAINED = 3  # pairs whose maps are shown
HARDEST = 4  # pairs of either kind
FACES = 8  # of the visibility panel, most of them veiled
_HERE = Path(__file__).parent


def _uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _last_picture(run: Path) -> str:
    return _uri(max(run.glob("step-*.png")))


def losses(runs: dict[str, Path]) -> str:
    """One panel per training run: its loss over optimiser steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 3.2), layout="constrained")
    for place, (title, run) in enumerate(runs.items(), 1):
        lines = [line for line in read_metrics(run) if line["kind"] == "train"]
        axes = figure.add_subplot(1, len(runs), place)
        axes.plot([e["step"] for e in lines], [e["loss"] for e in lines], "o-", color="#0072B2")
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=0)
        axes.grid(True, color="0.92")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figures.data_uri(figure)


def visibility(cache: FaceCache, store: FaceStore) -> dict[str, Any]:
    """Known and predicted visibility of test faces, and how well they agree over all of them."""
    rows = np.asarray(store.rows("visibility"))
    found = cache.read(rows, ["visibility", "known", "image"])
    rows, true = rows[found["known"]], found["visibility"][found["known"]].astype(np.float32)
    images = found["image"][found["known"]]
    predicted = store.read("visibility", rows).astype(np.float32)
    hidden = np.flatnonzero(true.mean((1, 2)) < 0.9)
    free = np.flatnonzero(true.mean((1, 2)) >= 0.9)
    spread = [part[np.linspace(0, len(part) - 1, count).astype(int)] for part, count in
              ((hidden, FACES - 3), (free, 3)) if len(part)]  # fmt: skip
    shown = [
        [
            figures.picture_uri(drawings.enlarged(picture))
            for picture in (
                images[place],
                report_runs.overlay(images[place], true[place]),
                report_runs.overlay(images[place], predicted[place]),
            )
        ]
        for place in np.concatenate(spread)
    ]
    return {
        "faces": shown,
        "count": len(rows),
        "agree": float(((predicted > 0.5) == (true > 0.5)).mean()),
        "veiled": float(predicted[hidden].mean()),
        "veiled_true": float(true[hidden].mean()),
        "free": float(predicted[free].mean()),
    }


def matcher_table(demo: Path) -> list[dict[str, Any]]:
    """Per matcher the AUC and the EER on either list, per cent; a list's best AUC is marked."""
    records = {
        (matcher, name): read_json(demo / f"{name}-{matcher}" / "verification.json")
        for matcher in MATCHERS
        for name in LISTS
    }
    best = {name: max(records[matcher, name]["auc"] for matcher in MATCHERS) for name in LISTS}
    return [
        {
            "matcher": matcher,
            "cells": [
                {
                    "auc": f"{100 * found['auc']:.1f}",
                    "eer": f"{100 * found['eer']:.1f}",
                    "best": found["auc"] == best[name],
                }
                for name in LISTS
                for found in (records[matcher, name],)
            ],
        }
        for matcher in MATCHERS
    ]


def _some_columns(table: tables.Table) -> tables.Table:
    """Method, kind, skill, uniform share and mean FR: what a first look needs."""
    header, rows = table
    kept = (0, 1, 2, 3, 9, 10)
    return [header[place] for place in kept], [[row[place] for place in kept] for row in rows]


def explained_pairs(run: Path) -> list[Markup]:
    """The first pairs of an attribution run's own page, which has escaped all names already."""
    page = (run / "report.html").read_text(encoding="utf-8")
    pairs = re.findall(r'<div class="pair">\n.*?\n</div>\n</div>', page, re.DOTALL)
    return [Markup(pair) for pair in pairs[:EXPLAINED]]


def write_report(demo: Path) -> Path:
    """Write report.html into the folder that demo.sh filled."""
    cache = FaceCache.open(demo / "cache")
    veiled = demo / f"veiled-{MATCHERS[-1]}"
    record = read_json(veiled / "verification.json")
    attribution = read_json(demo / "attribution" / "results.json")
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined
    )
    html = environment.get_template("demo_report.html").render(
        rows=len(cache),
        identities=len((demo / "cal" / "identities.txt").read_text().split()),
        preview=_uri(demo / "preview.png"),
        losses=losses({"train cal": demo / "cal", "train oaml": demo / "oaml"}),
        attention=_last_picture(demo / "cal"),
        energy=_uri(demo / "cal" / "energy.png"),
        visibility=visibility(cache, FaceStore(Path(record["store"]))),
        lists=[
            f"{text} ({read_json(demo / f'{name}-{MATCHERS[0]}' / 'verification.json')['pairs']})"
            for name, text in LISTS.items()
        ],
        matchers=matcher_table(demo),
        hardest=report_runs.present(veiled, veiled.name, HARDEST)["pairs"],
        methods=_some_columns(attribution_tables.method_table(attribution)),
        explained=explained_pairs(demo / "attribution"),
    )
    write_bytes(demo / "report.html", html.encode("utf-8"))
    return demo / "report.html"


if __name__ == "__main__":
    print(write_report(Path(sys.argv[1])))
