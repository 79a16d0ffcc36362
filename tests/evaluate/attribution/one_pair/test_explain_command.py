"""`evaluate explain` and `fg.explain_pair`: one explanation by two doors."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from tests.cache.builder import build
from tests.evaluate.attribution.networks import Smooth
from tests.evaluate.builder import pairs_csv, usable_pairs

import faceguide as fg
from faceguide.evaluate.cli import main


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """cache/, none.pt, pairs.csv, and run/, a verification."""
    folder = tmp_path_factory.mktemp("explain")
    module = types.ModuleType("my_networks")
    module.smooth = lambda weights: Smooth()  # type: ignore[attr-defined]
    build(folder / "cache", rows=60, size=28)
    torch.save({}, folder / "none.pt")
    pairs_csv(folder / "pairs.csv", usable_pairs())
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "my_networks", module)
        found = evaluate(
            *("verification", folder / "cache", "--pairs", folder / "pairs.csv", *network(folder)),
            *("--bootstrap", 0, "--out", folder / "run"),
        )
        assert found.exit_code == 0, found.output
        yield folder


def network(place: Path) -> tuple[object, ...]:
    return ("--backbone", "my_networks:smooth", "--weights", place / "none.pt", "--device", "cpu")


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def explain(place: Path, first: object, second: object, *more: object) -> Result:
    return evaluate(
        "explain", first, second, *network(place), "--methods", "grad-cam,saliency", *more
    )


@pytest.fixture(scope="module")
def keys(place: Path) -> tuple[str, str]:
    cache = fg.open(place / "cache")
    first, second = cache.texts("key", cache.select()[[1, 4]])
    return first, second


def test_the_command_says_what_python_says(place: Path, keys: tuple[str, str]) -> None:
    found = explain(
        *(place, *keys, "--cache", place / "cache", "--threshold", place / "run", "--json"),
        *("--out", place / "pictures" / "pair.png"),
    )
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout)
    picture = Image.open(place / "pictures" / "pair.png")
    assert min(picture.size) > 600
    assert "shows both faces" in found.stderr

    cache = fg.open(place / "cache")
    rows = cache.find(keys)
    net = fg.load(place / "none.pt", "my_networks:smooth", device="cpu")
    faces = [cache[rows[key]] for key in keys]
    same = fg.explain_pair(net, *faces, ["grad-cam", "saliency"], threshold=place / "run")
    assert record == json.loads(json.dumps(same.record()))
    assert record["score"] == pytest.approx(net.score(*faces), abs=1e-6)
    (at,) = (
        one["threshold"]
        for one in json.loads((place / "run" / "verification.json").read_text())["thresholds"]
        if one["at"] == "equal error rate"
    )
    assert record["threshold"]["value"] == at
    assert record["same"] == (record["score"] >= at)
    assert "equal error rate" in record["threshold"]["origin"]
    # Both ways round.
    for side, order in enumerate((1, -1)):
        expected = fg.explain(net, *faces[::order], "saliency")
        np.testing.assert_array_equal(same.maps["saliency"][side], expected)
    for side in ("A", "B"):
        face = record["faces"][side]
        assert sum(face["areas"].values()) == pytest.approx(1)
        assert not face["regions_assumed"]
        assert len(face["cells"]["cells"]) <= 49
        assert len(face["changes"]) == 12


def test_crops_have_the_regions_of_the_mean_face_and_no_threshold_no_decision(
    place: Path, keys: tuple[str, str]
) -> None:
    cache = fg.open(place / "cache")
    for name, key in zip("ab", keys, strict=True):
        Image.fromarray(cache[cache.find([key])[key]]["image"]).save(place / f"{name}.png")
    found = explain(place, place / "a.png", place / "b.png", "--crops")
    assert found.exit_code == 0, found.output
    assert "No decision: --threshold takes a number or a run" in found.stdout
    assert "Regions of A and B are those of the mean face" in found.stdout
    assert "would change the decision" not in found.stdout
    assert "outside" in found.stdout


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--threshold", "high"), "expected a number, or a run of `evaluate verification`"),
        (("--threshold", "nan"), "expected a finite number"),
        (("--methods", "no-such"), "no method 'no-such'"),
        (("--methods", ","), "at least one method is needed"),
        (("--out", "pair.doc"), "expected a name that ends in .png, .pdf, .svg"),
        (("--threshold", "{place}/run", "--matcher", "qaconv"), "its threshold is of matcher"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    place: Path, keys: tuple[str, str], more: tuple[str, ...], words: str
) -> None:
    given = [one.format(place=place) for one in more]
    found = explain(place, *keys, "--cache", place / "cache", *given)
    assert found.exit_code == 1, found.output
    assert found.stderr.count("Error:") == 1
    assert words in found.stderr.strip().splitlines()[-1]


def test_other_faces_come_from_a_cache(place: Path, keys: tuple[str, str]) -> None:
    names = "expected-gradients,occlusion-faces,region-shap"
    more = ("--methods", names, "--json", "--steps", 3)
    found = explain(place, *keys, "--cache", place / "cache", *more)
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout)
    assert set(record["methods"]) == set(names.split(","))
    cache = fg.open(place / "cache")
    net = fg.load(place / "none.pt", "my_networks:smooth", device="cpu")
    faces = [cache[row] for row in cache.find(keys).values()]
    own = [face["label"] for face in faces]
    rows = [row for row in cache.select().tolist() if cache[row]["label"] not in own]
    same = fg.explain_pair(net, *faces, names.split(","), others=cache[rows], steps=3)
    assert record["methods"] == json.loads(json.dumps(same.record()))["methods"]
    # Files have none, unless a cache is named.
    for name, face in zip("ab", faces, strict=True):
        Image.fromarray(face["image"]).save(place / f"other-{name}.png")
    files = (place / "other-a.png", place / "other-b.png", "--crops", *more)
    found = explain(place, *files)
    assert found.exit_code == 1
    assert "give a cache of them (`explain --others`)" in found.stderr
    found = explain(place, *files, "--others", place / "cache")
    assert found.exit_code == 0, found.output


def test_faces_that_cannot_be_compared_are_named(place: Path, keys: tuple[str, str]) -> None:
    cached = ("--cache", place / "cache")
    found = explain(place, keys[0], keys[0], *cached)
    assert "are one picture" in found.stderr
    found = explain(place, keys[0], "nobody.jpg", *cached)
    assert "no key 'nobody.jpg'" in found.stderr
    found = explain(place, "missing.png", place / "none.pt", "--crops")
    assert "missing.png: cannot read" in found.stderr
    assert explain(place, *keys, *cached, "--crops").exit_code == 2
    other = place / "other.pt"
    torch.save({"a": torch.zeros(1)}, other)
    found = evaluate(
        *("explain", *keys, *cached, "--backbone", "my_networks:smooth", "--weights", other),
        *("--methods", "saliency", "--threshold", place / "run", "--device", "cpu"),
    )
    assert "its threshold is of other weights" in found.stderr
