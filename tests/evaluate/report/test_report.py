from __future__ import annotations

import base64
import csv
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file
from tests.cache import builder as cache_builder
from tests.evaluate.builder import (
    key,
    pairs_csv,
    small_cache,
    training_run,
    usable_pairs,
    weights_file,
)

from faceguide.core.errors import EvaluationError
from faceguide.evaluate.cli import main
from faceguide.evaluate.report import figures, tables
from faceguide.evaluate.report.compare import compare_runs, run_names
from faceguide.evaluate.report.report_runs import overlay

HOSTILE = "<script>alert(1)</script>\"'&\x1b]0;x\x07\u202e"


def evaluate(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """a/ and b/: verification with two matchers; c/: identification."""
    folder = tmp_path_factory.mktemp("report")
    small_cache(folder / "cache")
    weights = training_run(folder / "run", cache=str((folder / "cache").resolve()))
    pairs_csv(folder / "pairs.csv", usable_pairs())
    common = ("--weights", str(weights), "--bootstrap", "20", "--embeddings", str(folder / "a"))
    pairs = ("--pairs", str(folder / "pairs.csv"))
    cache = str(folder / "cache")
    evaluate("verification", cache, *pairs, *common, "--out", str(folder / "a"))
    local = ("--matcher", "qaconv+occlusion")
    evaluate("verification", cache, *pairs, *common, *local, "--out", str(folder / "b"))
    evaluate("identification", cache, *common, "--out", str(folder / "c"))
    return folder


def report(folder: Path, *names: str, title: str = "Report", out: str = "report.html") -> str:
    paths = [str(folder / name) for name in names]
    evaluate("report", *paths, "--out", str(folder / out), "--title", title, "--hardest", "4")
    return (folder / out).read_text(encoding="utf-8")


class Reader(html.parser.HTMLParser):
    """Tags, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.urls: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.urls += [value for name, value in attrs if name in ("src", "href", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.words.append(data)


def test_the_report_is_one_file_with_everything_in_it(runs: Path) -> None:
    text = report(runs, "a", "b", "c")
    page = Reader(text)
    assert page.tags.count("script") == 1
    assert all(url.startswith("data:image/") for url in page.urls)
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    words = " ".join(page.words)
    for run in ("a", "b", "c"):
        record = json.loads(
            (runs / run / f"{'identification' if run == 'c' else 'verification'}.json").read_text()
        )
        if run == "c":
            assert f"{100 * record['rank']['1']:.2f}" in words
        else:
            assert f"{100 * record['accuracy']['mean']:.2f}" in words
            assert f"{100 * record['auc']:.3f}" in words
    assert "McNemar" in words
    # Two runs × hardest genuine and impostor pairs × 4 × two crops and two overlays; ROC, CMC.
    assert page.tags.count("img") == 2 * 2 * 4 * 4 + 2
    assert "in the training set" in words
    found = re.findall(r"<td>(rank \d+|TPIR@FPIR 1e-\d)</td>", text)
    assert found == [
        *(f"rank {k}" for k in (1, 5, 10, 20)),
        *(f"TPIR@FPIR 1e-{e}" for e in (3, 2, 1)),
    ]
    assert re.findall(r"TAR@(1e-\d)", text)[:6] == [f"1e-{e}" for e in (6, 5, 4, 3, 2, 1)]


def test_compare_and_report_give_the_same_intervals(runs: Path) -> None:
    page = " ".join(Reader(report(runs, "a", "b")).words)
    evaluate("compare", str(runs / "a"), str(runs / "b"), "--out", str(runs / "both"))
    rows = list(csv.DictReader((runs / "both" / "tests.csv").open(encoding="utf-8")))
    for column in ("Δ accuracy", "Δ AUC", "p (Holm)"):
        assert rows[0][column].lstrip("'") in page


def test_refused_rates_have_no_column_and_are_named(runs: Path, tmp_path: Path) -> None:
    """30 impostors show no rate, 150 show 1e-1."""
    numbers = [n for n in range(60) if n % 10]
    impostors = [(a, b) for a in numbers for b in numbers if a < b and a % 7 != b % 7][:150]
    lines = [line for line in usable_pairs() if line[3]]
    lines += [(n % 2, key(a), key(b), 0) for n, (a, b) in enumerate(impostors)]
    pairs_csv(tmp_path / "many.csv", lines)
    for name, matcher in (("many", "cosine"), ("local", "qaconv+occlusion")):
        evaluate(
            *("verification", str(runs / "cache"), "--pairs", str(tmp_path / "many.csv")),
            *("--weights", str(runs / "run"), "--bootstrap", "0", "--matcher", matcher),
            *("--embeddings", str(runs / "a"), "--out", str(tmp_path / name)),
        )
    for folder, names, shown in ((runs, ("a", "b"), []), (tmp_path, ("many", "local"), ["1e-1"])):
        text = report(folder, *names)
        assert re.findall(r">TAR@(1e-\d)</th>", text) == shown
        assert "refused</th>" not in text
        assert "TAR@1e-4" in text.split("too few impostor pairs")[0]
        assert "Refused: 1e-6 needs 10,000,000 impostor pairs" in text
        both = [str(folder / name) for name in names]
        compared = evaluate("compare", *both, "--out", str(tmp_path / "compared"))
        assert ("TAR@1e-1" in compared.splitlines()[0]) == bool(shown)
        assert "too few impostor pairs" in compared


def test_hardest_pairs_are_the_hardest(runs: Path) -> None:
    page = Reader(report(runs, "a"))
    scores = load_file(runs / "a" / "scores.safetensors")
    genuine = np.sort(scores["score"][scores["same"]])[:4]
    impostor = np.sort(scores["score"][~scores["same"]])[::-1][:4]
    shown = [word for word in page.words if re.fullmatch(r"-?\d\.\d{4}", word)]
    expected = [f"{score:.4f}" for score in (*genuine, *impostor)]
    assert [word for word in shown if word in expected][-8:] == expected


def test_crops_in_the_report_are_those_of_the_pair(runs: Path) -> None:
    text = report(runs, "a")
    found = re.findall(r'alt="(person_\d\d/\d{5}\.jpg)" src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(found) == 16
    for name, data in found:
        raw = np.frombuffer(base64.b64decode(data), np.uint8)
        crop = cv2.imdecode(raw, cv2.IMREAD_COLOR)[:, :, ::-1]
        expected = cache_builder.image_of(name, 112).astype(int)
        assert np.abs(crop - expected).mean() < 4


def test_hostile_names_are_text(tmp_path: Path) -> None:
    """Identity, key, title and directory all try to be markup."""
    from faceguide.cache import manifest
    from faceguide.cache.planning.new_plan import make_plan
    from faceguide.cache.planning.spooled_listing import Row

    keys = [f"{HOSTILE.replace('/', '')}/{n:05d}.jpg" for n in range(1, 10)]
    plan = make_plan(
        tmp_path / "cache",
        lambda: [Row(key, f"{HOSTILE}{n // 2}", meta=("s",)) for n, key in enumerate(keys, 1)],
        recipe={**cache_builder.RECIPE, "size": 112},
        meta=("split",),
        seed=0,
        shard_rows=16,
    )
    cache_builder.write_faces(tmp_path / "cache", plan, 0)
    manifest.seal(tmp_path / "cache", "faces")
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "same"])
        writer.writerows([(keys[n], keys[n + 1], n % 2) for n in range(8)])
    run = tmp_path / "<b>run&amp;"
    weights = training_run(tmp_path / "w", cache=str((tmp_path / "cache").resolve()))
    evaluate(
        *("verification", str(tmp_path / "cache"), "--pairs", str(tmp_path / "pairs.csv")),
        *("--weights", str(weights), "--bootstrap", "0", "--out", str(run)),
    )
    text = report(tmp_path, run.name, title=HOSTILE)
    page = Reader(text)
    assert page.tags.count("script") == 1
    assert "b" not in page.tags[page.tags.index("section") :][:3]
    assert not set("\x1b\x07\u202e") & set(text)
    words = "".join(page.words)
    assert "<script>alert(1)</script>" in words
    assert r"\x1b]0;x\x07\u202e" in words
    assert "<b>run&amp;" in words


def test_only_the_own_script_may_run(runs: Path) -> None:
    import hashlib

    text = report(runs, "a")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    script = re.search(r"<script>(.*)</script>", text, re.S)
    assert policy
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]


def chromium() -> str:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium")
    return program


def browse(path: Path, folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        [
            *(chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *("--disable-background-networking", f"--user-data-dir={folder / 'profile'}"),
            *("--virtual-time-budget=3000", *arguments, path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout


def test_a_browser_shows_it(runs: Path, tmp_path: Path) -> None:
    report(runs, "a", "b", "c")
    page, picture = runs / "report.html", tmp_path / "page.png"
    size = (1200, 2400)
    browse(page, tmp_path, f"--screenshot={picture}", f"--window-size={size[0]},{size[1]}")
    shown = cv2.imread(str(picture))
    assert shown.shape[:2] == size[::-1]
    # The white cards on their ground, dark text, and the blue of the first curve are there.
    for colour, least in (((255, 255, 255), 0.3), ((248, 246, 244), 0.02)):
        assert (shown == colour).all(2).mean() > least
    assert (shown.max(2) < 80).mean() > 0.002
    blue = np.array([0xB2, 0x72, 0x00])
    assert (np.abs(shown.astype(int) - blue).max(2) < 12).sum() > 300


def test_a_click_sorts_a_table(runs: Path, tmp_path: Path) -> None:
    """With JavaScript the heads sort; the page's own policy is taken out to let the test click."""
    text = report(runs, "a", "b")
    (tmp_path / "plain.html").write_text(text)
    click = "<script>document.querySelectorAll('table.sortable')[0].tHead.rows[0].cells[{}].click()"
    without = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", text)

    def rows(dom: str) -> list[list[str]]:
        body = re.search(r"<tbody>(.*?)</tbody>", dom, re.S)
        assert body
        return [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", body[1])]

    plain = rows(browse(tmp_path / "plain.html", tmp_path, "--dump-dom"))
    assert [row[0] for row in plain] == ["a", "b"]
    column = 5  # AUC
    clicked = without.replace("</body>", f"{click.format(column)}</script></body>")
    (tmp_path / "click.html").write_text(clicked)
    up = rows(browse(tmp_path / "click.html", tmp_path, "--dump-dom"))
    assert [float(row[column]) for row in up] == sorted(float(row[column]) for row in plain)
    twice = clicked.replace("</body>", f"{click.format(column)}</script></body>")
    (tmp_path / "twice.html").write_text(twice)
    down = rows(browse(tmp_path / "twice.html", tmp_path, "--dump-dom"))
    assert down == up[::-1]


def test_an_unfinished_or_foreign_directory_is_refused(runs: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["report", str(runs / "run"), "--out", str(tmp_path / "r.html")]
    )
    assert result.exit_code == 1
    assert "expected a run of `evaluate verification`" in result.stderr
    assert not (tmp_path / "r.html").exists()


def test_the_overlay_is_red_where_hidden_and_the_crop_where_visible() -> None:
    crop = np.full((14, 14, 3), 100, np.uint8)
    visibility = np.ones((7, 7))
    visibility[2, 5] = 0.0
    visibility[0, 0] = 0.5
    shown = overlay(crop, visibility)
    np.testing.assert_array_equal(shown[4:6, 10:12], np.full((2, 2, 3), [168, 63, 64]))
    np.testing.assert_array_equal(shown[0, 0], [134, 82, 82])
    untouched = np.ones((14, 14), bool)
    untouched[4:6, 10:12] = untouched[0:2, 0:2] = False
    assert (shown[untouched] == 100).all()


def test_compare_writes_tables_and_figures(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "comparison"
    arguments = ["compare", str(runs / "a"), str(runs / "b"), "--bootstrap", "30"]
    printed = json.loads(evaluate(*arguments, "--out", str(out), "--json"))
    saved = json.loads((out / "comparison.json").read_text())
    saved.pop("self")
    assert saved == printed
    (test,) = printed["tests"]
    scores = [load_file(runs / name / "scores.safetensors") for name in "ab"]
    right = [table["correct"] for table in scores]
    assert test["only_first_right"] == int((right[0] & ~right[1]).sum())
    assert test["only_second_right"] == int((right[1] & ~right[0]).sum())
    records = [json.loads((runs / name / "verification.json").read_text()) for name in "ab"]
    difference = test["figures"]["auc"]["difference"]
    assert difference == pytest.approx(records[0]["auc"] - records[1]["auc"])
    low, high = test["figures"]["auc"]["interval"]
    assert low <= difference <= high
    rows = list(csv.DictReader(io.StringIO((out / "runs.csv").read_text())))
    assert [row["run"] for row in rows] == ["a", "b"]
    assert float(rows[0]["AUC"]) == pytest.approx(100 * records[0]["auc"], abs=6e-4)
    tex = (out / "runs.tex").read_text()
    assert tex.count(r"\\") == 3
    assert f"{100 * records[1]['accuracy']['mean']:.2f}" in tex
    assert (out / "roc.pdf").read_bytes().startswith(b"%PDF")
    picture = cv2.imread(str(out / "roc.png"))
    assert picture.shape[:2] == (720, 960)
    before = (out / "roc.pdf").read_bytes()
    evaluate(*arguments, "--out", str(out))
    assert (out / "roc.pdf").read_bytes() == before


def test_runs_over_other_pairs_are_not_compared(runs: Path, tmp_path: Path) -> None:
    pairs_csv(tmp_path / "pairs.csv", usable_pairs(40))
    evaluate(
        *("verification", str(runs / "cache"), "--pairs", str(tmp_path / "pairs.csv")),
        *("--weights", str(runs / "run"), "--embeddings", str(runs / "a")),
        *("--bootstrap", "0", "--out", str(tmp_path / "other")),
    )
    with pytest.raises(EvaluationError, match="not over the same list of pairs"):
        compare_runs([runs / "a", tmp_path / "other"], 10, 0)
    with pytest.raises(EvaluationError, match="a run is given more than once"):
        run_names([runs / "a", runs / "a"])
    assert run_names([Path("/x/a/lfw"), Path("/x/b/lfw")]) == ["a/lfw", "b/lfw"]


def test_tables_escape_what_latex_and_spreadsheets_would_run() -> None:
    table = (["run", "x"], [["a_b & 50% {x}\\y", "–"], ["=HYPERLINK(1)", "-1.5"]])
    tex = tables.to_latex(table, "50 % of it")
    assert r"a\_b \& 50\% \{x\}\textbackslash{}y & --" in tex
    assert r"\caption{50 \% of it}" in tex
    rows = list(csv.reader(io.StringIO(tables.to_csv(table))))
    assert rows[1] == ["a_b & 50% {x}\\y", "–"]
    assert rows[2] == ["'=HYPERLINK(1)", "-1.5"]


def test_names_in_a_figure_are_not_mathematics() -> None:
    curve = (np.array([0, 0.1, 1.0]), np.array([0, 0.9, 1.0]))
    drawn = figures.svg(figures.roc_figure({"$x_{$": curve, "_hidden": curve}, 0.01))
    assert drawn.startswith("<svg")
    assert "<script" not in drawn


def test_a_cmc_without_enrolled_probes_is_left_out(runs: Path, tmp_path: Path) -> None:
    for name, numbers in (("g.csv", [1]), ("p.csv", [2, 3])):
        (tmp_path / name).write_text("key\n" + "\n".join(map(key, numbers)) + "\n")
    weights_file(tmp_path / "weights.pt")
    evaluate(
        *("identification", str(runs / "cache"), "--gallery", str(tmp_path / "g.csv")),
        *("--probes", str(tmp_path / "p.csv"), "--weights", str(runs / "run")),
        *("--embeddings", str(runs / "a"), "--bootstrap", "10", "--out", str(tmp_path / "s")),
        "--allow-failures",
    )
    text = report(tmp_path, "s")
    assert "no probe is of an enrolled identity" in text
