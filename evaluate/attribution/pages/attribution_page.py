"""One HTML file of a run: table, intervals, strata, and pairs with their maps and verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import printable
from faceguide.core.commands.doubts import Doubts
from faceguide.core.commands.run_directory import read_run
from faceguide.core.files import read_json, write_bytes
from faceguide.evaluate.attribution.pages import attribution_tables, drawings
from faceguide.evaluate.attribution.protocol.blocks import Plan, gather
from faceguide.evaluate.attribution.protocol.matched import UNDECIDED, Outcome
from faceguide.evaluate.attribution.protocol.separation import sentence
from faceguide.evaluate.attribution.results import RESULTS
from faceguide.evaluate.attribution.summary import Judged
from faceguide.evaluate.report import figures

REPORT, LATEX = "report.html", "methods.tex"
GALLERY = 8
_PAGES = Path(__file__).parent
# Why a map claims nothing, for a reader who sees one map.
_CAUSES = {
    "error": "the method failed",
    "nonfinite": "it holds NaN or infinity",
    "dead": "it is rounding noise",
    "relu_dead": "all its evidence is negative, and this method keeps only the positive",
    "flat": "its cells hardly differ",
    "tied": "the highest and the lowest cells have the same value",
}


def write_report(out: Path, cache: FaceCache, plan: Plan, judged: dict[str, Judged]) -> Path:
    """Write report.html, methods.tex, pass_rates.pdf and .png, rates.pdf and .png into a run.

    Returns:
        The HTML file. It needs no network and runs no script; names are escaped.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    record = read_json(out / RESULTS)
    drawn = [
        (f"Pass rates, 95 % intervals {attribution_tables.INTERVALS}", drawings.forest(record)),
        ("Falsification rates of the pairs", drawings.rate_bars(record)),
    ]
    figures.save(drawn[0][1], out, "pass_rates")
    figures.save(drawn[1][1], out, "rates")
    heatmap = drawings.strata_heatmap(record)
    if heatmap is not None:
        drawn.append(("Pass rate by stratum, per cent (strata of 20 pairs or more)", heatmap))
    write_bytes(out / LATEX, attribution_tables.method_latex(record).encode("utf-8"))
    environment = Environment(
        loader=FileSystemLoader(_PAGES), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["printable"] = printable
    html = environment.get_template("attribution.html").render(
        record=record,
        unfit=sentence(record["network"]),
        doubts=_doubts(record["doubts"]),
        scores=_scores(record["network"]),
        reading=attribution_tables.READING,
        methods=attribution_tables.method_table(record),
        details=_details(record),
        figures=[{"alt": alt, "uri": figures.data_uri(figure)} for alt, figure in drawn],
        pairs=gallery(out, cache, plan, judged, record),
        facts=_facts(out, record),
    )
    write_bytes(out / REPORT, html.encode("utf-8"))
    return out / REPORT


def _doubts(counts: dict[str, int]) -> list[str]:
    """A line a kind, but for the network, which has the first line of the page."""
    doubts = Doubts()
    for kind, count in counts.items():
        if kind != "network_does_not_separate":
            doubts.add(kind, count=count)
    return doubts.lines()


def _scores(network: dict[str, Any]) -> str:
    """What the network makes of the pairs, in words."""
    means = [
        f"{network[kind]} pairs of {name} score {network[mean]:.4f} on average"
        for kind, mean, name in (
            ("genuine", "mean_genuine", "one identity"),
            ("impostors", "mean_impostor", "two"),
        )
        if network[kind]
    ]
    auc = "" if network["auc"] is None else f", AUC {network['auc']:.3f}"
    return (
        f"The network: {', '.join(means)}{auc}. Replacing the cell that matters most changes the "
        f"score by {network['median_effect']:.2g} (median); the noise of a score is "
        f"{network['noise']:.1g}."
    )


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
        name for name in drawings.ordered(record) if not record["methods"][name]["control"]
    ]
    shown = [*competing, "oracle"]
    places = choose_pairs({name: judged[name] for name in competing or shown}, GALLERY)
    settings = record["settings"]
    moved = "angle" if record["protocol"] == "threshold" else "score"
    thumbs = {name: gather(out, plan, name, plan.key)["thumb"][places] for name in shown}
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


def _share(found: dict[str, Any]) -> str:
    return "–" if found["mean"] is None else f"{found['mean']:.3f}"


def _errors(found: dict[str, Any] | None) -> tuple[str, str]:
    return ("–", "–") if found is None else (f"{found['median']:.1e}", f"{found['largest']:.1e}")


def _details(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Further tables: causes, measures, regions, tests, uniform maps by stratum."""
    methods = {name: record["methods"][name] for name in drawings.ordered(record)}
    causes = list(next(iter(methods.values()))["causes"])
    made = [
        {
            "title": "Why maps claim nothing: number of maps ↓",
            "header": ["method", "n", *causes, "half limits", "double limits"],
            "rows": [
                [
                    name,
                    str(found["n"]),
                    *(str(found["causes"][cause]["count"]) for cause in causes),
                    *(f"{100 * share:.1f} %" for share in found["uniform_share_at"].values()),
                ]
                for name, found in methods.items()
            ],
        }
    ]
    promised = {name: found for name, found in methods.items() if found["completeness_error"]}
    if promised:
        made.append(
            {
                "title": "Do maps add up to the change of the score? Median and largest error ↓, "
                "share of pairs within 1 %; “open”: Integrated Gradients before its weights close",
                "header": ["method", "n", "median", "largest", "≤ 1 %", "open", "open, largest"],
                "rows": [
                    [
                        name,
                        str(found["completeness_error"]["n"]),
                        *_errors(found["completeness_error"]),
                        f"{100 * found['completeness_error']['within_1_percent']:.0f} %",
                        *_errors(found["quadrature_error"]),
                    ]
                    for name, found in promised.items()
                ],
            }
        )
    measures = record["settings"]["measures"]
    if measures:
        made.append(
            {
                "title": "Further measures: mean (n)",
                "header": ["method", *(f"{m}, {record['directions'][m]}" for m in measures)],
                "rows": [
                    [
                        name,
                        *(
                            f"{_share(found['measures'][m])} ({found['measures'][m]['n']})"
                            for m in measures
                        ),
                    ]
                    for name, found in methods.items()
                ],
            }
        )
    regions = next(iter(methods.values()))["regions"]
    if regions:
        made.append(
            {
                "title": "Where maps look: energy lift (1 = no preference) / pointing, by region",
                "header": ["method", *regions],
                "rows": [
                    [
                        name,
                        *(
                            f"{_share(r['lift'])} / {_share(r['pointing'])}"
                            for r in found["regions"].values()
                        ),
                    ]
                    for name, found in methods.items()
                ],
            }
        )
    pairwise = record["tests"]["pairwise"]
    if pairwise:
        made.append(
            {
                "title": "Paired tests of the pass rate: McNemar exact with Holm's correction",
                "header": ["first", "second", "only first", "only second", "p (Holm)", "Δ, %"],
                "rows": [
                    [
                        t["first"],
                        t["second"],
                        str(t["only_first_passes"]),
                        str(t["only_second_passes"]),
                        f"{t['p_holm']:.3g}",
                        f"{100 * t['difference']:.1f}",
                    ]
                    for t in pairwise
                ],
            }
        )
    if record["uniform_by_stratum"]:
        made.append(
            {
                "title": "Does the uniform share depend on the stratum? (identities exchanged)",
                "header": ["method", "stratum", "n", "p", "p (Benjamini–Hochberg)"],
                "rows": [
                    [t["method"], t["stratum"], str(t["n"]), f"{t['p']:.3g}", f"{t['p_bh']:.3g}"]
                    for t in record["uniform_by_stratum"]
                ],
            }
        )
    made.append(
        {
            "title": "Sources",
            "header": ["method", "citation"],
            "rows": [[name, found["citation"]] for name, found in methods.items()],
        }
    )
    return made


def _facts(out: Path, record: dict[str, Any]) -> list[tuple[str, str]]:
    about = read_run(out)
    names = ("cache", "cache_manifest", "backbone", "weights_sha256")
    facts = [(name.replace("_", " "), str(about[name])) for name in names if about.get(name)]
    facts.append(("settings", ", ".join(f"{k} {v}" for k, v in record["settings"].items())))
    facts.append(("command line", " ".join(map(str, about.get("argv", [])))))
    facts.append(("versions", ", ".join(f"{k} {v}" for k, v in about["versions"].items())))
    return facts
