"""The Python of README and docs runs as it is written."""

from __future__ import annotations

import doctest
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.conftest import REPOSITORY
from tests.evaluate.builder import small_cache, training_run, weights_file


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: photo.jpg, other.jpg, cache/, runs/oaml and runs/cal."""
    pytest.importorskip("mediapipe.python", reason="needs the models of mediapipe 0.10.21")
    portrait = pytest.importorskip("skimage.data").astronaut()
    folder = tmp_path_factory.mktemp("pages")
    Image.fromarray(portrait).save(folder / "photo.jpg", quality=95)
    Image.fromarray(np.ascontiguousarray(portrait[:, ::-1])).save(folder / "other.jpg")
    small_cache(folder / "cache")
    (folder / "runs").mkdir()
    training_run(folder / "runs" / "oaml")
    cal = folder / "runs" / "cal"
    cal.mkdir()
    arguments = {"num_classes": 5, "heads": 4}
    weights_file(cal / "backbone.pt", "cal_mobilefacenet", **arguments)
    model = {"name": "cal_mobilefacenet", "arguments": arguments, "weights": "backbone.pt"}
    (cal / "run.json").write_text(json.dumps({"models": {"backbone": model}}))
    return folder


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (REPOSITORY / page).read_text(), re.M | re.S)


def test_every_line_of_the_page_gives_what_it_says(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    page = "docs/python.md"
    code = "\n".join(blocks(page, "pycon"))
    examples = doctest.DocTestParser().get_doctest(code, {}, page, page, 0)
    assert len(examples.examples) > 30
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(examples)
    assert runner.summarize(verbose=False).failed == 0, capsys.readouterr().out


def test_the_python_of_the_readme_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    found = blocks("README.md", "python")
    assert len(found) >= 2
    for code in found:
        exec(compile(code, "README.md", "exec"), {})
