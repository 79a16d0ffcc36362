"""The page of `make demo`, made of small runs, and the lists of its set."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner
from PIL import Image
from tests.conftest import REPOSITORY
from tests.evaluate.builder import pairs_csv, small_cache, training_run, usable_pairs

from faceguide.evaluate.cli import main

BENCH = REPOSITORY / "bench"
SECTIONS = ("cache", "training", "attention", "visibility", "matchers", "attribution")


def evaluate(*words: object) -> None:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 0, result.output


def script(name: str, *words: object) -> None:
    subprocess.run([sys.executable, str(BENCH / name), *map(str, words)], check=True)


def test_the_page_has_its_sections(tmp_path: Path) -> None:
    demo = tmp_path / "a demo"
    demo.mkdir()
    small_cache(demo / "cache")
    weights = training_run(demo / "oaml", cache=str(demo / "cache"))
    (demo / "cal").mkdir()
    (demo / "cal" / "identities.txt").write_text("person_00\nperson_01\n")
    for run in (demo / "cal", weights):
        lines = [{"kind": "train", "step": step, "loss": 3.0 - step} for step in (1, 2)]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for picture in ("preview.png", "cal/step-0000002.png", "cal/energy.png"):
        Image.new("RGB", (16, 16)).save(demo / picture)
    pairs = pairs_csv(demo / "pairs.csv", usable_pairs(20))
    common = (demo / "cache", "--pairs", pairs, "--weights", weights, "--bootstrap", 0)
    run = ("--matcher", "qaconv+occlusion", "--out", demo / "one", "--embeddings", demo / "one")
    evaluate("verification", *common, *run)
    for name in ("unoccluded", "veiled"):
        for matcher in ("cosine", "visible-embedding", "qaconv+occlusion"):
            shutil.copytree(demo / "one", demo / f"{name}-{matcher}")
    run = (
        "--methods",
        "saliency",
        "--anyway",
        "--infills",
        "blur",
        "--limit",
        2,
        "--out",
        demo / "attribution",
    )
    evaluate("attribution", *common, *run)
    script("demo_report.py", demo)
    page = (demo / "report.html").read_text(encoding="utf-8")
    assert [page.index(f'<section id="{name}">') for name in SECTIONS] == sorted(
        page.index(f'<section id="{name}">') for name in SECTIONS
    )
    assert "No accuracy is claimed here" in page
    assert page.count("qaconv+occlusion</td>") == 1
    assert page.count('<div class="pair">') == 2
    assert "measured effect" in page
    assert 'src="http' not in page


def test_lists_keep_test_identities_apart(tmp_path: Path) -> None:
    for person in range(6):
        for image in range(6):
            for folder, name in (("photos", f"{image}.jpg"), ("masks", f"{image}_mask.png")):
                if folder == "photos" or image % 3 == 2:
                    path = tmp_path / folder / f"p{person}" / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
    script("demo_lists.py", tmp_path)

    def table(name: str) -> list[dict[str, str]]:
        with (tmp_path / f"{name}.csv").open() as file:
            return list(csv.DictReader(file))

    photos = {line["path"]: line for line in table("photos")}
    masked = {line["image"] for line in table("masks")}
    assert len(photos) == 36
    assert len(masked) == 12
    assert {line["identity"] for line in photos.values() if line["split"] == "test"} == {"p4", "p5"}
    for name, veiled in (("unoccluded", False), ("veiled", True)):
        pairs = table(name)
        assert {line["same"] for line in pairs} == {"0", "1"}
        for line in pairs:
            assert photos[line["a"]]["split"] == photos[line["b"]]["split"] == "test"
            assert (line["a"] in masked) == veiled
            assert line["b"] not in masked
            same = photos[line["a"]]["identity"] == photos[line["b"]]["identity"]
            assert line["same"] == str(int(same))
