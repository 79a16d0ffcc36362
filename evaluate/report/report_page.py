"""One HTML file that shows runs to a reader: no network, no server, readable without JavaScript."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faceguide.core.commands.run_directory import read_run
from faceguide.core.errors import EvaluationError
from faceguide.core.files import write_bytes
from faceguide.evaluate.metrics.bootstrap import REPLICATES
from faceguide.evaluate.report import figures, report_runs, tables
from faceguide.evaluate.report.compare import SEED, compare_runs, roc_curves, run_names
from faceguide.evaluate.report.html_page import render
from faceguide.evaluate.report.report_runs import load_cmc
from faceguide.evaluate.verification import load_scores

_WIDE = 9.0  # inches of a figure that fills the page
_PAGES = Path(__file__).parent


def write_report(runs: Sequence[Path], path: Path, title: str, hardest: int = 12) -> None:
    """Write the report of some runs.

    Args:
        runs: directories of `evaluate verification`, `identification` or `ijb`.
        hardest: pairs shown of each kind per verification run.

    Raises:
        EvaluationError: when a directory holds no finished run.
    """
    from markupsafe import Markup

    runs = list(runs)
    if not runs:
        raise EvaluationError("a report needs at least one run")
    names = run_names(runs)
    shown = [report_runs.present(run, name, hardest) for run, name in zip(runs, names, strict=True)]
    pairs_of = [run for run in runs if read_run(run).get("command") == report_runs.VERIFICATION]
    overview, refused, tests = _comparison(pairs_of)
    script = (_PAGES / "sort.js").read_text(encoding="utf-8")
    script_sha256 = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    html = render(
        _PAGES / "report.html",
        title=title,
        runs=shown,
        overview=overview,
        refused=refused,
        tests=tests,
        figures=_figures(runs, names),
        # Only this one script may run, whatever a name tries.
        script=Markup(script),
        script_hash=Markup(f"sha256-{script_sha256}"),
    )
    write_bytes(path, html)


def _comparison(runs: list[Path]) -> tuple[Any, str, Any]:
    """The table of all verification runs, what it leaves out, and the paired tests.

    Nothing when the runs do not share their pairs.
    """
    if len(runs) < 2:
        return None, "", None
    if len({str(load_scores(run)["listed"]) for run in runs}) > 1:
        return None, "", None
    comparison = compare_runs(runs, REPLICATES, SEED)
    overview = tables.verification_table(comparison)
    return overview, tables.refused_note(comparison), tables.test_table(comparison)


def _figures(runs: list[Path], names: list[str]) -> list[dict[str, str]]:
    of_command: dict[str, dict[str, Path]] = defaultdict(dict)
    for run, name in zip(runs, names, strict=True):
        of_command[str(read_run(run).get("command"))][name] = run
    curves, least = roc_curves(of_command[report_runs.VERIFICATION])
    searches = of_command[report_runs.IDENTIFICATION].items()
    ranks = {name: found for name, run in searches if (found := load_cmc(run)) is not None}
    drawn = []
    if curves:
        drawn.append(("ROC", figures.roc_figure(curves, least, _WIDE)))
    if ranks:
        drawn.append(("CMC", figures.cmc_figure(ranks, _WIDE)))
    return [{"alt": alt, "uri": figures.data_uri(figure)} for alt, figure in drawn]
