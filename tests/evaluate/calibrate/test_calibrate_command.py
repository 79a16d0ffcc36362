"""`evaluate calibrate`, and its file in verification, identification and the front door."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tests.cache.builder import build_keys, estimate_unknown
from tests.evaluate.builder import all_pairs, pairs_csv, small_cache, training_run, weights_file

import faceguide as fg
from faceguide.cache.reader import FaceCache
from faceguide.evaluate.calibrate.calibration_file import read_calibration
from faceguide.evaluate.cli import main
from faceguide.evaluate.score.matcher_options import VISIBLE, TemplateOptions
from faceguide.evaluate.score.prepare import needs_of
from faceguide.evaluate.score.scores import Faces
from faceguide.evaluate.verification import load_scores
from faceguide.train.models.loading.network import load_network
from faceguide.train.models.matchers.calibration import FEATURES


def keys(identities: int) -> list[str]:
    """Two equal pictures of each identity; the numbers that the builder lets fail are left out."""
    numbers = [n for n in range(1, 2 * identities) if n % 10][:identities]
    return [f"{side}/{number:05d}.jpg" for number in numbers for side in "ab"]


def evaluate(*words: object, code: int = 0):
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A training cache of 30 identities, one to test on, a run, and a calibration of each kind."""
    place = tmp_path_factory.mktemp("calibrate")
    build_keys(place / "train", keys(30), lambda key: f"learnt {key[2:7]}", size=112)
    training_run(place / "run")
    for method in ("visibility", "platt"):
        result = evaluate(
            *("calibrate", place / "train", "--weights", place / "run", "--device", "cpu"),
            *("--method", method, "--out", place / f"{method}.safetensors", "--json"),
        )
        (place / f"{method}.json").write_text(result.stdout)
    cache = small_cache(place / "cache")
    labels = cache.read(np.arange(60), ["label"])["label"]
    rows = cache.select()
    pairs = [(a, b) for a in rows[:20] for b in rows[20:40]]
    lines = [(0, *cache.texts("key", [a, b]), int(labels[a] == labels[b])) for a, b in pairs]
    pairs_csv(place / "pairs.csv", lines[::3])
    return place


def verified(place: Path, out: str, *more: object) -> dict:
    result = evaluate(
        *("verification", place / "cache", "--pairs", place / "pairs.csv", "--bootstrap", 0),
        *("--weights", place / "run", "--device", "cpu", "--embeddings", place / "faces"),
        *("--out", place / out, "--json", *more),
    )
    return json.loads(result.stdout)


@pytest.mark.parametrize(("source", "counted"), [("cache", True), ("head", False)])
def test_estimates_that_it_is_fitted_on_are_counted(
    place: Path, tmp_path: Path, source: str, counted: bool
) -> None:
    shutil.copytree(place / "train", tmp_path / "train")
    estimate_unknown(tmp_path / "train")
    result = evaluate(
        *("calibrate", tmp_path / "train", "--weights", place / "run", "--device", "cpu"),
        *("--visibility", source, "--out", tmp_path / "found.safetensors", "--json"),
    )
    assert ("estimated_visibility" in json.loads(result.stdout)["doubts"]) == counted
    assert ("not one from a mask" in result.stderr) == counted


@pytest.mark.parametrize(
    ("method", "matcher"), [("visibility", "visible-embedding"), ("platt", "cosine")]
)
def test_scores_become_ratios_everywhere_alike(place: Path, method: str, matcher: str) -> None:
    file = place / f"{method}.safetensors"
    used = ("--matcher", matcher, "--calibration", file)
    record = verified(place, method, *used)
    assert record["calibration"]["method"] == method
    assert record["calibration"]["shared_identities"]["count"] == 0
    assert "calibrated_otherwise" not in record["doubts"]
    assert record["accuracy"].get("published_grid") is None
    table, plain = load_scores(place / method), verified(place, "plain", "--matcher", "cosine")
    assert plain["calibration"] is None
    few = slice(0, len(table["probe"]), 17)
    cache, net = fg.open(place / "cache"), fg.load(place / "run", device="cpu")
    found = net.score(
        cache[table["probe"][few]], cache[table["reference"][few]], matcher, calibration=file
    )
    expected = table["score"][few]
    np.testing.assert_allclose(found, expected, atol=1e-2 * np.ptp(expected))
    assert np.ptp(expected) > 1e-3
    search = json.loads(
        evaluate(
            *("identification", place / "cache", "--weights", place / "run", "--device", "cpu"),
            *("--out", place / f"id-{method}", "--embeddings", place / "faces", "--bootstrap", 0),
            *("--json", *used),
        ).stdout
    )
    assert search["calibration"]["identities"] == 30


def test_ratios_have_no_published_grid_among_twins_either(place: Path) -> None:
    cache = fg.open(place / "cache")
    rows = cache.select(labelled=True)
    images: dict[str, list[str]] = {name: [] for name in cache.identities[:4]}
    for key, label in zip(
        cache.texts("key", rows), cache.read(rows, ["label"])["label"], strict=True
    ):
        if label < 4:
            images[cache.identities[label]].append(key)
    a, b, c, d = images
    couples = {"train": [], "val": [], "test": [[a, b], [c, d]]}
    (place / "id_to_images.json").write_text(json.dumps(images))
    (place / "twin_pairs_infor.json").write_text(json.dumps(couples))
    twins = ("--pairs", place / "twin_pairs_infor.json", "--pairs-split", "test")
    record = verified(place, "twins", *twins, "--calibration", place / "platt.safetensors")
    for found in record["by_impostors"].values():
        assert found["accuracy"].get("published_grid") is None
    assert record["by_impostors"].keys() == {"twins", "others"}


def test_the_record_counts_and_measures(place: Path) -> None:
    record = json.loads((place / "platt.json").read_text())
    assert (record["identities"], record["faces"], record["genuine"]) == (30, 60, 30)
    assert 0 < record["after"]["cllr"] < 1
    about = read_calibration(place / "visibility.safetensors", "visible-embedding").about
    assert about["features"] == list(FEATURES)
    assert about["persons"][0] == "learnt 00001"
    assert about["versions"]["scipy"]


def test_another_network_is_a_doubt_and_another_matcher_an_error(place: Path) -> None:
    weights = weights_file(place / "other.pt", seed=5)
    net, cache = fg.load(weights, device="cpu"), fg.open(place / "cache")
    with pytest.warns(UserWarning, match="fitted for other weights"):
        net.score(cache[1], cache[2], calibration=place / "platt.safetensors")
    result = evaluate(
        *("verification", place / "cache", "--pairs", place / "pairs.csv", "--weights", weights),
        *("--calibration", place / "platt.safetensors", "--out", place / "doubted"),
        *("--bootstrap", 0, "--json", "--device", "cpu"),
    )
    assert json.loads(result.stdout)["doubts"]["calibrated_otherwise"] == 1
    assert "fitted for other weights" in result.stderr
    with pytest.raises(fg.FaceguideError, match="calibrates cosine, not qaconv; choose cosine"):
        net.score(cache[1], cache[2], "qaconv", calibration=place / "platt.safetensors")


def test_too_few_identities_and_files_of_others_are_refused(place: Path) -> None:
    result = evaluate(
        *("calibrate", place / "cache", "--weights", place / "run", "--out", place / "no"), code=1
    )
    assert "needs 30 identities with two faces or more, found 7" in result.output
    assert not (place / "no").exists()
    damaged = bytearray((place / "platt.safetensors").read_bytes())
    damaged[-1] ^= 1
    (place / "damaged.safetensors").write_bytes(damaged)
    net, cache = fg.load(place / "run", device="cpu"), fg.open(place / "cache")
    for name, reason in (
        ("damaged.safetensors", "changed since it was written"),
        ("run/run.json", "not readable as safetensors"),
    ):
        with pytest.raises(fg.FaceguideError, match=reason):
            net.score(cache[1], cache[2], calibration=place / name)


def test_templates_take_ratios_of_maps_and_no_curve_of_single_images(place: Path) -> None:
    network, words = load_network(None, place / "run"), {"images_per_template": 2}
    curve = TemplateOptions(calibration=place / "platt.safetensors", **words)
    with pytest.raises(fg.FaceguideError, match="those of templates are higher"):
        needs_of(network, curve, None)
    file = place / "visibility.safetensors"
    needs = needs_of(network, replace(curve, matcher=VISIBLE, calibration=file), None)
    (matcher,) = needs.parts.values()
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(4, 512, 7, 7, generator=generator)
    faces = Faces(feature_map=maps, visibility=torch.ones(4, 7, 7))
    matrix = matcher.matrix(faces, faces)
    assert bool((matrix.diagonal() > 0).all())  # a face and itself
    assert bool((matrix[~torch.eye(4, dtype=torch.bool)] < 0).all())
    blind = matcher.matrix(faces, replace(faces, visibility=torch.zeros(4, 7, 7)))
    assert bool((blind == 0).all())
    assert not needs.doubts


@pytest.mark.parametrize(
    ("method", "matcher"), [("visibility", "visible-embedding"), ("platt", "cosine")]
)
def test_covered_faces_are_scored_by_the_calibrated_matcher_too(
    place: Path, tmp_path: Path, method: str, matcher: str
) -> None:
    lines = all_pairs(FaceCache.open(place / "cache"))
    genuine = [line for line in lines if line[3]][:60]
    pairs_csv(tmp_path / "pairs.csv", genuine + [line for line in lines if not line[3]][::20])
    result = evaluate(
        *("occluded", place / "cache", "--pairs", tmp_path / "pairs.csv", "--weights"),
        *(place / "run", "--device", "cpu", "--bootstrap", 5, "--strength", 1, "--covers", "band"),
        *("--calibration", place / f"{method}.safetensors", "--out", tmp_path / "out", "--json"),
    )
    record = json.loads(result.stdout)
    name = f"{matcher}, calibrated"
    assert record["matchers"][-1] == name
    first = record["parts"][0]["matchers"]
    assert "calibrated_otherwise" not in record["doubts"]
    if method == "platt":  # monotone: the order of the pairs stays
        assert first[name]["auc"] == pytest.approx(first[matcher]["auc"])
    else:
        moved = [part["matchers"] for part in record["parts"] if "matchers" in part]
        assert any(one[name]["auc"] != one[matcher]["auc"] for one in moved)
