"""What is known of the network and the pairs before maps are made, and said first."""

from __future__ import annotations

import csv
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tests.cache.builder import build, build_keys
from tests.evaluate.attribution.networks import Smooth, pixels, settled

from faceguide.cache.pairs.pair_lists import read_pairs
from faceguide.cache.pairs.pair_rows import resolve
from faceguide.cache.reader import FaceCache
from faceguide.core.commands.console import Interrupted
from faceguide.evaluate.attribution import run as runs
from faceguide.evaluate.attribution.attribution_options import Options, Settings
from faceguide.evaluate.attribution.methods.cam import (
    attention_cam,
    cam_layers,
    grad_cam,
    layer_cam,
)
from faceguide.evaluate.attribution.methods.maps import Batch
from faceguide.evaluate.attribution.methods.method_table import choose
from faceguide.evaluate.attribution.methods.target import PairScore
from faceguide.evaluate.attribution.protocol import separation
from faceguide.evaluate.attribution.protocol.estimate import Estimate, probes_of_a_minute
from faceguide.evaluate.attribution.protocol.preparation import Prepared, prepare
from faceguide.evaluate.cli import main
from faceguide.evaluate.evaluation_options import PairOptions
from faceguide.train.models import create
from faceguide.train.models.loading.network import Network, load_network


class Changed(Smooth):
    """The small network with something done to its embeddings."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.change(super().forward(images))


NETWORKS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sound": lambda found: found,
    "alike": lambda found: found + 300.0,  # scores of .9999 for everybody
    "detached": lambda found: found.detach(),
    "copied": lambda found: torch.from_numpy(found.detach().numpy()),
    "rounded": lambda found: (20 * found).round(),
    "signs": torch.sign,
    "constant": torch.ones_like,
}


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("nets")
    for name, change in NETWORKS.items():
        setattr(module, name, lambda weights, change=change: Changed(change))
    monkeypatch.setitem(sys.modules, "nets", module)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 28×28 crops and 40 pairs, half of one identity."""
    folder = tmp_path_factory.mktemp("separation")
    build(folder / "cache", rows=60, size=28)
    keys = FaceCache.open(folder / "cache")
    names = sorted(keys.texts("key", keys.select()))
    every = [(a, b) for a in names for b in names if a < b]
    same = [pair for pair in every if pair[0].split("/")[0] == pair[1].split("/")[0]]
    others = [pair for pair in every if pair not in same][::7]
    listed = [(*pair, 1) for pair in same[:20]] + [(*pair, 0) for pair in others[:20]]
    write(folder / "pairs.csv", listed)
    torch.save({}, folder / "none.pt")
    return folder


def write(path: Path, pairs: list[tuple[str, str, int]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "same"), *pairs])
    return path


def attribution(place: Path, out: Path, network: str, *more: object) -> Result:
    fixed = ("--weights", place / "none.pt", "--backbone", f"nets:{network}", "--out", out)
    fixed = (*fixed, "--protocol", "matched", "--anyway")
    words = ("attribution", place / "cache", *fixed, "--bootstrap", 20, "--block", 3)
    pairs = () if "--pairs" in more else ("--pairs", place / "pairs.csv")
    methods = () if "--methods" in more else ("--methods", "saliency")
    return CliRunner().invoke(main, [str(word) for word in (*words, *pairs, *methods, *more)])


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_a_network_that_scores_all_alike_is_named_first(place: Path, tmp_path: Path) -> None:
    found = attribution(place, tmp_path / "a", "alike", "--limit", 6)
    assert found.exit_code == 0, found.output
    text = "This network does not separate these identities"
    assert found.stdout.startswith(text)
    assert f"Warning: {text}" in found.stderr
    record = results(tmp_path / "a")
    assert record["network"]["separates"] is False
    assert record["network"]["spread"] < 1e-3
    assert record["doubts"]["network_does_not_separate"] == 40
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.split("<main>")[1].strip().startswith(f'<p class="warn">{text}')
    merged = CliRunner().invoke(main, ["merge", str(tmp_path / "a"), "--json"])
    assert json.loads(merged.stdout)["doubts"] == record["doubts"]
    assert text in merged.stderr


@pytest.mark.parametrize("name", ["mobilefacenet", "inception_resnet_v1"])
def test_random_weights_do_not_separate(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    score = PairScore(create(name).eval())
    keys = [f"{person}/{number}.jpg" for person in "abcdef" for number in (1, 2, 3)]
    size = score.input_spec.size
    cache = build_keys(tmp_path / "cache", [k.replace("/", f"/{k[0]}") for k in keys], size=size)
    names = cache.texts("key", cache.select())
    pairs = [(a, b, int(a[0] == b[0])) for a in names for b in names if a < b]
    rows = resolve(cache, read_pairs(write(tmp_path / "pairs.csv", pairs), None))
    found = separation.look(score, cache, rows, 0)
    assert found["separates"] is False
    assert re.search(r"scores from (0\.9|1\.0)", separation.sentence(found) or "")


def test_scores_are_judged_by_spread_and_auc() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(60) % 2 == 0
    good = 0.5 * same + rng.normal(0, 0.1, 60)
    assert separation.judge(good, same, 1e-7)["separates"] is True
    assert separation.judge(rng.normal(0, 0.1, 60), same, 1e-7)["separates"] is False
    # Close together, yet in order: an offset of the embeddings does no harm.
    assert separation.judge(1 + 1e-5 * good, same, 1e-7)["separates"] is True
    assert separation.judge(1 + 1e-5 * good[same], same[same], 1e-7)["separates"] is False
    assert separation.judge(good[same], same[same], 1e-7)["separates"] is True
    assert separation.judge(good[:3], same[:3], 1e-7)["separates"] is None
    assert not separation.doubts_of(separation.judge(good, same, 1e-7))


def test_effects_within_the_noise_are_counted_and_pass_nothing(place: Path, tmp_path: Path) -> None:
    record = separation.judge(np.linspace(0, 1, 8), np.arange(8) > 3, 1e-3)
    clean, masked = np.zeros(3), np.zeros((3, 49, 2))
    masked[0, 0], masked[1, 5] = 0.5, 0.005
    found = separation.with_effects(record, clean, masked)
    assert found["effects_within_noise"] == 2
    assert separation.doubts_of(found).counts() == {"effects_within_noise": 2}


def test_a_sound_network_is_not_doubted(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = FaceCache.open(place / "cache")
    names = sorted(cache.texts("key", cache.select()))
    # Pairs whose kind is what this network sees: it separates them.
    score = PairScore(Smooth())
    rows = cache.find(names)
    images = cache.read([rows[name] for name in names], ["image"])["image"]
    with torch.no_grad():
        described = score.describe(score.input_spec.prepare(torch.from_numpy(images)))[0]
    every = (described @ described.T).numpy()
    order = sorted((every[a, b], a, b) for a in range(54) for b in range(a))
    kinds = [(1, order[-20:]), (0, order[:20])]
    pairs = [(names[a], names[b], same) for same, part in kinds for _, a, b in part]
    path = write(tmp_path / "pairs.csv", pairs)
    network = load_network("nets:sound", place / "none.pt")
    ready = prepare(cache, network, PairOptions(pairs=path), ["saliency"], Options(limit=4))
    assert ready.separation["separates"] is True
    assert ready.separation["auc"] == 1
    assert "does not separate" not in capsys.readouterr().err


def test_pairs_of_an_image_with_itself_are_left_out_and_the_others_go_on(
    place: Path, tmp_path: Path
) -> None:
    with (place / "pairs.csv").open() as file:
        rows = [tuple(row) for row in csv.reader(file)][1:]
    own = rows[0][0]
    listed = write(tmp_path / "own.csv", [(own, own, 1), *rows[:3], (own, own, 0), *rows[-3:]])
    found = attribution(place, tmp_path / "a", "sound", "--pairs", listed)
    assert found.exit_code == 3, found.output
    assert "Warning: 2 pairs" in found.stderr
    assert "2 pairs are left out" in found.stderr
    with (tmp_path / "a" / "left_out.csv").open() as file:
        left = list(csv.DictReader(file))
    assert [row["number"] for row in left] == ["0", "4"]
    assert f"pair 0 compares {own} with itself" in left[0]["reason"]
    record = results(tmp_path / "a")
    assert (record["pairs"]["n"], record["pairs"]["left_out"]) == (6, 2)
    assert record["doubts"]["self_pairs"] == 2
    only = write(tmp_path / "only.csv", [(own, own, 1)])
    refused = attribution(place, tmp_path / "b", "sound", "--pairs", only)
    assert refused.exit_code == 1
    assert f"pair 0 compares {own} with itself" in refused.stderr


def test_pairs_of_equal_pixels_are_left_out_too(tmp_path: Path) -> None:
    build_keys(tmp_path / "cache", [f"{p}/{p}{n}.jpg" for p in "ab" for n in (1, 2, 3)], size=28)
    torch.save({}, tmp_path / "none.pt")
    pairs = [("a/a1.jpg", "b/b1.jpg", 0), ("a/a1.jpg", "a/a2.jpg", 1), ("a/a3.jpg", "b/b2.jpg", 0)]
    listed = write(tmp_path / "pairs.csv", pairs)
    found = attribution(tmp_path, tmp_path / "a", "sound", "--pairs", listed)
    assert found.exit_code == 3, found.output
    assert "compares a/a1.jpg with " in (tmp_path / "a" / "left_out.csv").read_text()
    assert results(tmp_path / "a")["pairs"]["n"] == 2


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ("detached", "nets:detached gives no gradient: its output is cut off from its input"),
        ("copied", "nets:copied gives no gradient: its output is cut off from its input"),
        ("rounded", "nets:rounded gives no gradient: it is zero everywhere"),
        ("signs", "nets:signs gives no gradient: it is zero everywhere"),
        ("constant", "different faces the same embedding, so a score does not depend on the probe"),
    ],
)
def test_a_network_without_a_gradient_is_named(
    place: Path, tmp_path: Path, network: str, text: str
) -> None:
    found = attribution(place, tmp_path / "a", network)
    assert found.exit_code == 1
    assert text in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("network", ["copied", "rounded"])
def test_methods_that_ask_for_scores_need_no_gradient(
    place: Path, tmp_path: Path, network: str
) -> None:
    more = ("--methods", "occlusion,minplus,corrrise", "--limit", 6)
    found = attribution(place, tmp_path / "a", network, *more)
    assert found.exit_code == 0, found.output
    methods = results(tmp_path / "a")["methods"]
    assert all(methods[name]["n_tested"] for name in ("occlusion", "minplus", "corrrise"))
    refused = attribution(place, tmp_path / "b", "constant", *more)
    assert refused.exit_code == 1
    assert "same embedding" in refused.stderr


@pytest.mark.parametrize("name", ["cal_mobilefacenet", "cal_resnet18"])
def test_grad_cam_of_cal_looks_at_the_features_that_attention_weighs(name: str) -> None:
    score = PairScore(settled(name, num_classes=4, heads=4))
    probe, other = pixels(2, 0), pixels(2, 7)
    assert all(layer.split(".")[0] == "features" for layer in cam_layers(score, probe))
    batch = Batch(probe, score.reference(other), (0, 1))
    by_attention = attention_cam(score, batch, Settings()).values.flatten(1)
    for method in (grad_cam, layer_cam):
        maps = method(score, batch, Settings()).values
        small = torch.nn.functional.adaptive_avg_pool2d(maps[:, None], 7).flatten(1)
        wanted = by_attention.unflatten(1, (int(by_attention.shape[1] ** 0.5),) * 2)
        large = torch.nn.functional.adaptive_avg_pool2d(wanted[:, None], 7).flatten(1)
        for one, two in zip(small, large, strict=True):
            assert abs(float(torch.corrcoef(torch.stack([one, two]))[0, 1])) < 0.999


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("inputxgradient", "gradient-input"),
        ("input-x-gradient", "gradient-input"),
        ("ig", "integrated-gradients"),
        ("integrated_gradient", "integrated-gradients"),
    ],
)
def test_a_name_from_elsewhere_gets_a_suggestion(given: str, meant: str) -> None:
    with pytest.raises(Exception, match=rf"did you mean {meant}\?"):
        choose([given])


@pytest.mark.parametrize("given", ["gradcam", "grad_cam", "Grad-CAM", "GRAD CAM"])
def test_a_method_may_be_spelt_in_other_ways(given: str) -> None:
    assert choose([given])[0].name == "grad-cam"


def test_no_suggestion_for_what_resembles_nothing() -> None:
    with pytest.raises(Exception, match="no method 'xyz'; choose from"):
        choose(["xyz"])


def test_seconds_are_written_as_people_read_them() -> None:
    for seconds, text in ((1100.0, "(110 s per pair)"), (15.0, "(1.5 s per pair)")):
        line = Estimate(10, 10, 100.0, seconds, 0.0, ()).text()
        assert text in line
        assert "e+" not in line


def ready_run(place: Path, **more: Any) -> tuple[Prepared, Network]:
    cache = FaceCache.open(place / "cache")
    network = load_network("nets:sound", place / "none.pt")
    options = Options(replicates=0, protocol="matched", **more)
    pairs = place / "pairs.csv"
    names = ["saliency", "smoothgrad"]
    return prepare(cache, network, PairOptions(pairs=pairs), names, options, anyway=True), network


def test_progress_counts_pairs_and_what_is_stopped_is_kept(place: Path, tmp_path: Path) -> None:
    ready, network = ready_run(place, block=8)
    ticks: list[int] = []

    def stopped(count: int) -> None:
        ticks.append(count)
        if len(ticks) == 3:
            raise Interrupted

    arguments = (ready, network, PairOptions(pairs=place / "pairs.csv"), tmp_path / "run")
    with pytest.raises(Interrupted):
        runs.run(*arguments, progress=lambda what, total: stopped)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "blocks").iterdir()}
    assert len(kept) == 3, "the responses and the maps of two methods of the first block"
    titles: list[tuple[str, int]] = []
    ticks.clear()

    def progress(what: str, total: int) -> Callable[[int], object]:
        titles.append((what, total))
        return ticks.append

    assert runs.run(*arguments, progress=progress) is not None
    assert titles == [("pairs", 40)]
    assert sum(ticks) == 40
    assert max(ticks) < 40 / ready.job.plan.blocks
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


def test_blocks_take_about_a_minute(place: Path) -> None:
    small = PairScore(Smooth())
    assert probes_of_a_minute(small, 28, 1.0) == 16
    assert probes_of_a_minute(PairScore(create("ir_18").eval()), 112, 1.0) == 1
    some = PairScore(create("mobilefacenet").eval())
    assert 16 >= probes_of_a_minute(some, 112, 1.0) > probes_of_a_minute(some, 112, 8.0) >= 1
    ready, _ = ready_run(place)
    assert ready.job.plan.per_block == 16
    cost = ready.estimate(place / "nothing", 100)
    assert cost is not None
    assert cost.seconds > cost.fixed > 0
