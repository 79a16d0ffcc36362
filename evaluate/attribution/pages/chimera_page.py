"""One HTML file of a chimera run: which methods to trust, and faces with their maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.run_directory import read_run
from faceguide.core.files import read_json, write_bytes
from faceguide.evaluate.attribution.chimera.chimera_list import Chimeras
from faceguide.evaluate.attribution.chimera.composition import ALL_PARTS, BOXES, PARTS
from faceguide.evaluate.attribution.chimera.told_apart import (
    BLIND,
    ERROR,
    NOT_TOLD,
    TOLD,
    UNIFORM,
    ToldApart,
)
from faceguide.evaluate.attribution.pages import chimera_tables, drawings
from faceguide.evaluate.attribution.pages.attribution_page import LATEX, REPORT
from faceguide.evaluate.attribution.protocol.blocks import TABLE, Plan, gather_blocks
from faceguide.evaluate.attribution.protocol.separation import other_doubts, sentence
from faceguide.evaluate.attribution.results import RESULTS
from faceguide.evaluate.attribution.why.dependence import Question
from faceguide.evaluate.attribution.why.why_section import Shown, why_section
from faceguide.evaluate.report import figures
from faceguide.evaluate.report.html_page import provenance, render

# Class and words of each verdict, for a reader who sees two maps.
_WORDS = {
    TOLD: ("right", "tells them apart"),
    NOT_TOLD: ("wrong", "does not tell them apart"),
    BLIND: ("untested", "does not look at the reference"),
    UNIFORM: ("untested", "uniform"),
    ERROR: ("untested", "failed"),
}


def write_chimera_report(
    out: Path,
    cache: FaceCache,
    plan: Plan,
    chimeras: Chimeras,
    found: dict[str, ToldApart],
    question: Question,
) -> None:
    """Write report.html, methods.tex, told_apart.pdf and .png into a run."""
    record = read_json(out / RESULTS)
    drawn = drawings.told_apart_figure(record)
    figures.save(drawn, out, "told_apart")
    write_bytes(out / LATEX, chimera_tables.chimera_latex(record).encode("utf-8"))
    html = render(
        Path(__file__).with_name("chimera.html"),
        record=record,
        ordered=chimera_tables.ordered(record),
        conclusions=chimera_tables.conclusions(record),
        unfit=sentence(record["network"]),
        doubts=other_doubts(record["doubts"]).lines(),
        network=chimera_tables.network_line(record),
        separated=chimera_tables.separated_line(record),
        reading=chimera_tables.READING,
        methods=chimera_tables.chimera_table(record),
        games=chimera_tables.game_table(record),
        games_reading=chimera_tables.GAMES_READING,
        figure={
            "alt": "How well methods tell two identities apart, 95 % intervals",
            "uri": figures.data_uri(drawn),
        },
        chimeras=_gallery(out, cache, plan, chimeras, found, record),
        why=why_section(
            *(out, record["why"], question),
            lambda place: _shown(cache, chimeras, place),
            record["settings"]["seed"],
        ),
        facts=provenance(read_run(out), record["settings"]),
    )
    write_bytes(out / REPORT, html)


def _shown(cache: FaceCache, chimeras: Chimeras, place: int) -> Shown:
    """A chimera as the list of uniform maps has it: the composed face, and its bearer's name."""
    rows = [int(chimeras.bearer_reference[place]), int(chimeras.donor_reference[place])]
    pictures = [
        *chimeras.images(cache, np.array([place])),
        *cache.read(rows, ["image"])["image"],
    ]
    names = cache.texts("key", [int(chimeras.bearer[place]), *rows])
    return Shown(str(place), names, [drawings.enlarged(picture) for picture in pictures])


def _gallery(
    out: Path,
    cache: FaceCache,
    plan: Plan,
    chimeras: Chimeras,
    found: dict[str, ToldApart],
    record: dict[str, Any],
) -> list[dict[str, Any]]:
    """The first chimera of every part: its faces, and the two maps of each method.

    Of small parts there are two.
    """
    parts, places = np.unique(chimeras.part, return_index=True)
    places = places[(parts < len(PARTS) + 2) | (parts >= len(BOXES))]
    table = gather_blocks(out, plan, TABLE, ["image", "scores"])
    shown = [
        name
        for name in chimera_tables.ordered(record)
        if name in found and not record["methods"][name]["control"]
    ] + ["pixels"]
    thumbs = {name: gather_blocks(out, plan, name, ["thumb"])["thumb"] for name in shown}
    made = []
    for place in places.tolist():
        part = ALL_PARTS[chimeras.part[place]]
        image: NDArray[np.uint8] = table["image"][place]
        outline = chimeras.masks(cache, np.array([place]))[0]
        maps = []
        for name in shown:
            heats = thumbs[name][2 * place : 2 * place + 2].astype(np.float32)
            verdict = found[name].verdict[place]
            failed = verdict == ERROR
            maps.append(
                {
                    "name": name,
                    "uris": [
                        figures.picture_uri(drawings.two_coloured(image, heat, outline))
                        for heat in heats
                    ],
                    "kind": _WORDS[verdict][0],
                    "words": _WORDS[verdict][1],
                    "together": None if failed else float(found[name].told[place]),
                    "single": None if failed else float(found[name].single[place]),
                }
            )
        made.append(
            {
                "number": place,
                "part": part,
                "faces": _faces(cache, chimeras, place, image, outline),
                "scores": table["scores"][place].tolist(),
                "maps": maps,
            }
        )
    return made


def _faces(
    cache: FaceCache,
    chimeras: Chimeras,
    place: int,
    image: NDArray[np.uint8],
    outline: NDArray[np.uint8],
) -> list[dict[str, str]]:
    """The two references, the two faces, and between them what they make."""
    titles = ("P, photograph", "P, bearer", "Q, donor", "Q, photograph")
    columns = chimeras.bearer_reference, chimeras.bearer, chimeras.donor, chimeras.donor_reference
    rows = [int(column[place]) for column in columns]
    pictures = cache.read(rows, ["image"])["image"]
    shown = [
        {"title": title, "name": name, "uri": figures.picture_uri(drawings.enlarged(picture))}
        for title, name, picture in zip(titles, cache.texts("key", rows), pictures, strict=True)
    ]
    blank = np.zeros((1, 1), np.float32)
    composed = figures.picture_uri(drawings.two_coloured(image, blank, outline))
    return [*shown[:2], {"title": "the chimera", "name": "", "uri": composed}, *shown[2:]]
