"""One HTML file of a run: table, intervals, what pairs fail by, and pairs with their maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.run_directory import read_run
from faceguide.core.files import read_json, write_bytes
from faceguide.evaluate.attribution.pages import attribution_tables, drawings
from faceguide.evaluate.attribution.protocol.blocks import Plan, gather_blocks
from faceguide.evaluate.attribution.protocol.matched import UNDECIDED, Outcome
from faceguide.evaluate.attribution.protocol.separation import other_doubts, sentence
from faceguide.evaluate.attribution.results import RESULTS
from faceguide.evaluate.attribution.summary import Judged
from faceguide.evaluate.attribution.why.dependence import Question
from faceguide.evaluate.attribution.why.why_section import Shown, why_section
from faceguide.evaluate.report import figures
from faceguide.evaluate.report.html_page import provenance, render

REPORT, LATEX = "report.html", "methods.tex"
GALLERY = 8
# Why a map claims nothing, for a reader who sees one map.
_CAUSES = {
    "error": "the method failed",
    "nonfinite": "it holds NaN or infinity",
    "dead": "it is rounding noise",
    "relu_dead": "all its evidence is negative, and this method keeps only the positive",
    "flat": "its cells hardly differ",
    "tied": "the highest and the lowest cells have the same value",
}


def write_report(
    out: Path, cache: FaceCache, plan: Plan, judged: dict[str, Judged], question: Question
) -> Path:
    """Write report.html, methods.tex, skill.pdf and .png, rates.pdf and .png into a run.

    Returns:
        The HTML file. It needs no network and runs no script; names are escaped.
    """
    record = read_json(out / RESULTS)
    drawn = [
        (f"Skill, 95 % intervals {attribution_tables.INTERVALS}", drawings.skill_figure(record)),
        ("Falsification rates of the pairs", drawings.rate_bars(record)),
    ]
    figures.save(drawn[0][1], out, "skill")
    figures.save(drawn[1][1], out, "rates")
    write_bytes(out / LATEX, attribution_tables.method_latex(record).encode("utf-8"))
    html = render(
        Path(__file__).with_name("attribution.html"),
        record=record,
        ordered=attribution_tables.ordered(record),
        unfit=sentence(record["network"]),
        doubts=other_doubts(record["doubts"]).lines(),
        reading=attribution_tables.READING,
        methods=attribution_tables.method_table(record),
        figures=[{"alt": alt, "uri": figures.data_uri(figure)} for alt, figure in drawn],
        pairs=gallery(out, cache, plan, judged, record),
        why=why_section(
            *(out, record["why"], question),
            lambda place: _shown(cache, plan, place),
            record["settings"]["seed"],
        ),
        facts=provenance(read_run(out), record["settings"]),
    )
    write_bytes(out / REPORT, html)
    return out / REPORT


def _shown(cache: FaceCache, plan: Plan, place: int) -> Shown:
    """A pair as the list of uniform maps has it."""
    rows = [int(plan.probe[place]), int(plan.reference[place])]
    pictures = [drawings.enlarged(image) for image in cache.read(rows, ["image"])["image"]]
    kind = "one identity" if plan.same[place] else "two identities"
    return Shown(f"{int(plan.number[place])}, {kind}", cache.texts("key", rows), pictures)


def choose_pairs(judged: dict[str, Judged], count: int) -> list[int]:
    """Places of pairs worth seeing: where most maps fail, and where most hold, half each."""
    passed = np.stack([found.passed for found in judged.values()]).sum(0)
    order = np.argsort(passed, kind="stable")
    half = (count + 1) // 2
    chosen = [*order[:half].tolist(), *order[::-1][: count - half].tolist()]
    return list(dict.fromkeys(chosen))


def gallery(
    out: Path, cache: FaceCache, plan: Plan, judged: dict[str, Judged], record: dict[str, Any]
) -> list[dict[str, Any]]:
    """Pairs with their two crops and, per method, overlay, verdict and the two mean responses."""
    competing = [
        name
        for name in attribution_tables.ordered(record)
        if not record["methods"][name]["control"]
    ]
    shown = [*competing, "oracle"]
    places = choose_pairs({name: judged[name] for name in competing or shown}, GALLERY)
    settings = record["settings"]
    moved = "angle" if record["protocol"] == "threshold" else "score"
    thumbs = {name: gather_blocks(out, plan, name, ["thumb"])["thumb"][places] for name in shown}
    made = []
    for number, place in enumerate(places):
        rows = [int(plan.probe[place]), int(plan.reference[place])]
        images = cache.read(rows, ["image"])["image"]
        masks = (
            cache.read(rows[:1], ["regions"])["regions"][0] if "regions" in cache.columns else None
        )
        maps = []
        for name in shown:
            outcome, cause = judged[name].outcomes[place], judged[name].causes[place]
            picture = drawings.overlay(
                images[0], thumbs[name][number].astype(np.float32), outcome.high, outcome.low, masks
            )
            text = outcome.verdict
            if outcome.verdict == UNDECIDED:
                text += ", counts as falsified" if outcome.falsified else ", counts as passed"
            maps.append(
                {
                    "name": "measured effect" if name == "oracle" else name,
                    "uri": figures.picture_uri(picture),
                    "verdict": outcome.verdict,
                    "text": text,
                    "why": _why(outcome, cause, settings["delta"], moved),
                    "rate": None if outcome.rate is None else f"{100 * outcome.rate:.0f} %",
                }
            )
        made.append(
            {
                "number": int(plan.number[place]),
                "same": bool(plan.same[place]),
                "names": cache.texts("key", rows),
                "faces": [figures.picture_uri(drawings.enlarged(image)) for image in images],
                "maps": maps,
            }
        )
    return made


def _why(outcome: Outcome, cause: str | None, delta: float, moved: str) -> str:
    """What was measured, in words: the reason of the verdict."""
    if outcome.mean_high is None or outcome.mean_low is None:
        return _CAUSES[cause or "tied"]
    text = f"important cells change the {moved} by {outcome.mean_high:.3f}, "
    text += f"unimportant by {outcome.mean_low:.3f}"
    if outcome.interval is not None:
        low, high = outcome.interval
        text += f"; difference {outcome.margin:+.3f} [{low:+.3f}, {high:+.3f}]"
    return text + (f", at least {delta:g} wanted" if delta else "")
