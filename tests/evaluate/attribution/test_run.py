"""`evaluate attribution` from a cache to its results: parts, resume, merge, diff, report."""

from __future__ import annotations

import csv
import itertools
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from tests.cache.builder import build
from tests.evaluate.attribution.networks import Smooth

from faceguide.cache.reader import FaceCache
from faceguide.core.commands.settings import fixed
from faceguide.evaluate.attribution.attribution_options import Options
from faceguide.evaluate.cli import main
from faceguide.evaluate.score import block_files

CONTROLS = (
    *("random", "centre", "edges", "pixels", "constant", "angle", "oracle", "oracle_reversed"),
)
METHODS = "saliency,grad-cam,geodesic-arc"
PAIRS = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cache of 28×28 crops, a list of pairs and a weights file."""
    folder = tmp_path_factory.mktemp("attribution")
    build(folder / "cache", rows=60, size=28)
    cache = FaceCache.open(folder / "cache")
    keys = cache.texts("key", cache.select())
    rng = np.random.default_rng(0)
    with (folder / "pairs.csv").open("w") as file:
        file.write("a,b,same\n")
        for _ in range(PAIRS):
            a, b = rng.choice(len(keys), 2, replace=False)
            same = keys[a].split("/")[0] == keys[b].split("/")[0]
            file.write(f"{keys[a]},{keys[b]},{int(same)}\n")
    torch.save({}, folder / "none.pt")
    return folder


@pytest.fixture(autouse=True)
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_networks")
    module.smooth = lambda weights: Smooth()  # type: ignore[attr-defined]
    module.broken = broken  # type: ignore[attr-defined]
    module.slip = lambda score, probe, reference: probe.nothing  # type: ignore[attr-defined]
    module.blind = lambda weights: Blind()  # type: ignore[attr-defined]
    module.fresh = lambda weights: Fresh()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_networks", module)


def broken(score: Any, probe: torch.Tensor, reference: Any) -> torch.Tensor:
    """A user's method that fails for some pictures."""
    if probe[:, 0, 0, 0].sum() > 0:
        raise RuntimeError("no map for this one")
    return probe


class Fresh(Smooth):
    """A network whose BatchNorm has seen nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3).eval().requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(self.norm(images))


class Blind(Smooth):
    """A network that does not look."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.zeros_like(images)) + 0 * images.sum((1, 2, 3))[:, None]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def attribution(place: Path, out: Path, *more: object, methods: str = METHODS) -> Result:
    pairs = () if "--pairs" in more else ("--pairs", place / "pairs.csv")
    arguments = [*pairs, "--weights", place / "none.pt", "--out", out]
    backbone = () if "--backbone" in more else ("--backbone", "my_networks:smooth")
    fixed = ["--methods", methods, "--bootstrap", 50, "--steps", 4, "--block", 5]
    return invoke("attribution", place / "cache", "--anyway", *arguments, *backbone, *fixed, *more)


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    """A finished run; `networks` is not there yet for a module fixture."""
    module = types.ModuleType("my_networks")
    module.smooth = lambda weights: Smooth()  # type: ignore[attr-defined]
    sys.modules["my_networks"] = module
    out = place / "run"
    metrics = "deletion,insertion,srg,sensitivity,infidelity,randomisation,swap"
    result = attribution(place, out, "--metrics", metrics)
    assert result.exit_code == 0, result.output
    return out


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


def test_results_keep_the_contract(finished: Path) -> None:
    record = results(finished)
    assert set(record["methods"]) == {*METHODS.split(","), *CONTROLS}
    for name, found in record["methods"].items():
        assert found["n"] == PAIRS
        assert sum(found["verdicts"].values()) == PAIRS
        histogram = found["rate_histogram"]
        assert sum(histogram.values()) == found["n_tested"]
        low, high = found["bounds"]
        assert low <= (found["verdict_fr"] or 0) <= high or found["n_tested"] == 0
        assert 0 <= found["pass_rate"] <= 1, name
    assert record["pairs"]["n"] == PAIRS


def test_controls_behave_as_they_must(finished: Path) -> None:
    methods = results(finished)["methods"]
    assert methods["constant"]["uniform_share"] == 1
    assert methods["constant"]["mean_fr"] is None
    assert methods["constant"]["pass_rate"] == 0
    assert methods["oracle"]["mean_fr"] < 0.25
    assert methods["oracle"]["verdict_fr"] == 0
    assert methods["oracle_reversed"]["mean_fr"] > 0.75
    assert 0.3 < methods["random"]["mean_fr"] < 0.7
    ceiling = results(finished)["ceiling"]
    for kind in ("genuine", "impostor"):
        assert methods["centre"][f"skill_{kind}"] == 0
        assert methods["constant"][f"skill_{kind}"] == 0
        assert methods["saliency"][f"unsigned_skill_{kind}"] is not None
        assert -1 <= ceiling[f"signed_{kind}"] <= 1
        assert methods["angle"][f"skill_{kind}"] is None
    assert methods["saliency"]["told_apart"] is None


def test_every_pair_has_a_line_for_every_method(finished: Path) -> None:
    with (finished / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == PAIRS * (3 + len(CONTROLS))
    assert {int(row["number"]) for row in rows} == set(range(PAIRS))
    for row in rows:
        assert (row["fr"] == "") == (row["verdict"] in ("uniform", "error"))


def test_further_measures_have_their_n(finished: Path) -> None:
    record = results(finished)
    found = record["methods"]["saliency"]["measures"]
    assert set(found) == set(record["settings"]["measures"])
    assert all(found[name]["n"] > 0 for name in ("sensitivity", "infidelity", "swap"))
    assert record["methods"]["geodesic-arc"]["completeness_error"]["n"] == PAIRS
    assert record["methods"]["saliency"]["completeness_error"] is None
    regions = record["methods"]["saliency"]["regions"]
    assert set(regions) == {"eyes", "nose", "mouth", "rest"}
    accuracy = record["methods"]["oracle"]["verification_deletion"]["accuracy"]
    assert len(accuracy) == 8


def test_report_is_one_harmless_file(finished: Path) -> None:
    html = (finished / "report.html").read_text()
    assert "important cells change the score by" in html  # why a map passes or not
    assert "<script" not in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    assert html.count("data:image/jpeg") > 20
    for name in ("methods.tex", "skill.pdf", "skill.png", "rates.pdf"):
        assert (finished / name).stat().st_size > 500


def test_again_computes_nothing_and_merge_writes_the_same_bytes(
    place: Path, finished: Path
) -> None:
    before = {path: path.read_bytes() for path in sorted(finished.rglob("*.*")) if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in finished.glob("blocks/*")}
    result = invoke("merge", finished)
    assert result.exit_code == 0, result.output
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    for path, data in before.items():
        assert path.read_bytes() == data, path


def test_parts_resume_and_agree_with_one_run(place: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "parts"
    metrics = ("--metrics", "deletion,insertion,srg,sensitivity,infidelity,randomisation,swap")
    first = attribution(place, out, *metrics, "--part", "1/2")
    assert first.exit_code == 0, first.output
    early = invoke("merge", out)
    assert early.exit_code == 1
    assert "2 of 4 blocks of responses and maps are missing" in early.output
    named = invoke("merge", out, "--parts", 2)
    assert "1 of 2 parts are not finished" in named.output
    assert "--parts 2 --indices 0" in named.output
    assert attribution(place, out, *metrics, "--part", "0/2").exit_code == 0
    # A lost file is made again, and nothing else.
    lost = sorted((out / "blocks").glob("maps-grad-cam-*"))[0]
    lost.unlink()
    kept = {path: path.stat().st_mtime_ns for path in (out / "blocks").iterdir()}
    assert attribution(place, out, *metrics, "--part", "0/2").exit_code == 0
    assert lost.exists()
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert invoke("merge", out).exit_code == 0
    assert (out / "pairs.csv").read_text() == (finished / "pairs.csv").read_text()
    agreed = invoke("diff", finished, out)
    assert agreed.exit_code == 0, agreed.output
    assert "the runs agree" in agreed.output


def test_diff_names_what_differs(place: Path, finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    result = attribution(place, other, "--seed", 1, "--limit", 10, methods="saliency")
    assert result.exit_code == 0, result.output
    assert results(other)["pairs"]["n"] == 10
    found = invoke("diff", finished, other, "--json")
    assert found.exit_code == 1
    record = json.loads(found.output)
    assert set(record["only_first"]) == {"grad-cam", "geodesic-arc"}
    assert record["settings"]["seed"] == [0, 1]
    assert record["only_first_pairs"] > 0


def test_failed_maps_stay_as_errors(place: Path, tmp_path: Path) -> None:
    result = attribution(place, tmp_path / "b", methods="my_networks:broken")
    assert result.exit_code == 3
    assert "maps failed" in result.output
    found = results(tmp_path / "b")["methods"]["my_networks:broken"]
    assert found["n"] == PAIRS
    assert found["verdicts"]["error"] > 0
    assert found["verdicts"]["error"] == found["causes"]["error"]["count"]


def test_doubts_about_weights_are_in_the_results(place: Path, tmp_path: Path) -> None:
    more = ("--backbone", "my_networks:fresh", "--limit", 4)
    dry = attribution(place, tmp_path / "a", *more, "--dry-run", "--json", methods="saliency")
    assert json.loads(dry.stdout)["doubts"]["untrained"] == 1
    found = attribution(place, tmp_path / "a", *more, "--json", methods="saliency")
    assert json.loads(found.stdout)["doubts"]["untrained"] == 1
    assert found.stderr.count("BatchNorm statistics") == 1
    assert results(tmp_path / "a")["doubts"]["untrained"] == 1
    assert "BatchNorm statistics" in (tmp_path / "a" / "report.html").read_text()
    before = (tmp_path / "a" / "results.json").read_bytes()
    merged = invoke("merge", tmp_path / "a")
    assert "BatchNorm statistics" in merged.stderr
    assert (tmp_path / "a" / "results.json").read_bytes() == before


def test_a_score_that_does_not_look_is_refused(place: Path, tmp_path: Path) -> None:
    result = attribution(place, tmp_path / "c", "--backbone", "my_networks:blind")
    assert result.exit_code == 1
    assert "does not depend on the probe" in result.output


def test_methods_that_do_not_suit_are_refused_or_left_out_by_name(
    place: Path, tmp_path: Path
) -> None:
    named = attribution(place, tmp_path / "d", methods="rollout")
    assert named.exit_code == 1
    assert "rollout needs a vision transformer" in named.output
    everything = attribution(place, tmp_path / "e", "--limit", 2, methods="standard")
    assert everything.exit_code == 0, everything.output
    assert "rollout left out" in everything.output
    found = results(tmp_path / "e")["methods"]
    assert "integrated-gradients" in found
    assert "geodesic-weighted" not in found
    dry = [
        json.loads(attribution(place, tmp_path / "f", "--dry-run", "--json", methods=names).stdout)
        for names in ("all", "standard")
    ]
    # geodesic-arc and geodesic-weighted, xSSAB, FGGB, minplus, CorrRISE twice, FV-RISE,
    # SmoothGrad and occlusion by blur.
    costly = (32 + 3 * 4) + 151 + 5 + 3 * 512 + 100 + 301 + 600 + 301 + 3 * 16 + 50
    assert dry[0]["forwards"] - dry[1]["forwards"] == PAIRS * costly


def test_threshold_protocol_reports_areas(place: Path, tmp_path: Path) -> None:
    result = attribution(
        place, tmp_path / "t", "--protocol", "threshold", "--limit", 4, methods="saliency"
    )
    assert result.exit_code == 0, result.output
    found = results(tmp_path / "t")["methods"]
    assert found["constant"]["threshold"]["dropped_by_the_earlier_rule"] == 4
    assert found["saliency"]["n"] == 4
    area = found["saliency"]["threshold"]
    assert area["median_area_high"] < area["median_area_low"]
    assert "measures area" in area["warning"]


def test_dry_run_counts_and_estimates_without_a_run(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "dry"
    result = attribution(place, out, "--dry-run", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    # Saliency and Grad-CAM cost a pass of 3 forwards each; arc: 4 steps and 32 coarse nodes.
    each = 3 + 3 + (3 * 4 + 32)
    assert found["pairs"] == PAIRS
    assert found["forwards"] == found["probes"] * (49 * 2 + 1) + PAIRS * each
    assert found["seconds"] > 0
    assert not out.exists()
    beyond = attribution(place, out, "--dry-run", "--part", "98/99")
    assert "nothing is left to compute" in beyond.output
    part = attribution(place, out, "--dry-run", "--part", "0/2")
    assert "s per pair)" in part.output
    assert "about" in part.output


def test_the_estimate_counts_the_images_that_go_forward(place: Path, tmp_path: Path) -> None:
    counted = {"forward": 0, "backward": 0}

    class Counted(Smooth):
        cam_layers = ("conv1", "conv2")

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            counted["backward" if images.requires_grad else "forward"] += len(images)
            return super().forward(images)

    sys.modules["my_networks"].counted = lambda weights: Counted()  # type: ignore[attr-defined]
    names = "saliency,layer-cam,smoothgrad,integrated-gradients,geodesic-arc,geodesic-weighted"
    more = ("--backbone", "my_networks:counted", "--limit", 6)
    dry = attribution(place, tmp_path / "x", *more, "--dry-run", "--json", methods=names)
    expected = json.loads(dry.stdout)["forwards"]
    counted.update(forward=0, backward=0)
    assert attribution(place, tmp_path / "x", *more, methods=names).exit_code == 0
    paid = counted["forward"] + 3 * counted["backward"]
    summed = results(tmp_path / "x")["methods"]["integrated-gradients"]
    # Four steps are too few to close every gap with half of each weight; no error may grow.
    assert 0 < summed["completeness_error"]["within_1_percent"] <= 1
    assert summed["completeness_error"]["median"] < summed["quadrature_error"]["median"]
    assert summed["quadrature_error"]["n"] == summed["completeness_error"]["n"] == 6
    assert summed["quadrature_error"]["largest"] > summed["completeness_error"]["largest"]
    # Besides: the checks at the start, the sample of scores, the estimate's own batches, and the
    # references.
    sample = 2 * PAIRS + 2 * 8
    timed = 2 + 3 * 16 + 3 * (2 + 3 * 8)
    assert expected < paid < expected + 6 + (1 + 3 * 2 + 1) * 4 + sample + timed + 20


def test_wrong_names_are_refused_before_work(place: Path, tmp_path: Path) -> None:
    for more, text in (
        (("--infills", "grey"), "choose from blur, mean, face, other"),
        (("--metrics", "iou"), "choose from deletion"),
    ):
        result = attribution(place, tmp_path / "f", *more)
        assert result.exit_code == 1
        assert text in result.output
    assert attribution(place, tmp_path / "f", "--part", "2/2").exit_code == 2
    assert not (tmp_path / "f").exists()


def test_a_killed_writer_leaves_no_half_block(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **more: object) -> None:
        raise OSError(28, os.strerror(28))

    path = tmp_path / "blocks" / "table-00000.safetensors"
    monkeypatch.setattr("faceguide.core.formats.container.sealed", full)
    with pytest.raises(Exception, match="disk is full"):
        block_files.write_block(path, "key", {"a": np.zeros(3)})
    assert list(path.parent.iterdir()) == []


def test_methods_lists_costs_and_sources() -> None:
    result = invoke("methods")
    assert result.exit_code == 0
    assert "integrated-gradients" in result.output
    assert "Sundararajan" in result.output
    rows = json.loads(invoke("methods", "--json").output)
    assert {row["method"] for row in rows} > {"lrp", "oracle"}


def test_a_cache_of_another_size_is_refused(place: Path, tmp_path: Path) -> None:
    build(tmp_path / "cache", rows=60, size=16)
    result = invoke(
        *("attribution", tmp_path / "cache", "--pairs", place / "pairs.csv", "--weights"),
        *(place / "none.pt", "--backbone", "my_networks:smooth", "--out", tmp_path / "out"),
    )
    assert result.exit_code == 1
    assert "prep landmarks --size 28" in result.output


def test_options_survive_run_json() -> None:
    assert fixed(Options())["infills"] == ["blur", "other"]


def test_a_list_of_one_identity_is_explained_with_faces_of_others(
    place: Path, tmp_path: Path
) -> None:
    cache = FaceCache.open(place / "cache")
    keys = cache.texts("key", cache.select())
    names = [key for key in keys if key.startswith("person_03/")][:4]
    lines = [f"{a},{b},1" for a, b in itertools.pairwise(names)]
    (tmp_path / "one.csv").write_text("a,b,same\n" + "\n".join(lines) + "\n")
    result = attribution(place, tmp_path / "a", "--pairs", tmp_path / "one.csv", methods="saliency")
    assert result.exit_code == 0, result.output
    assert "the list has 1 identity of two images" in result.stderr
    record = results(tmp_path / "a")
    assert record["pairs"]["genuine"] == record["pairs"]["n"] == len(lines)
    found = record["methods"]["saliency"]
    assert found["mean_fr"] is not None
    # Without other identities, nothing can be taken from what pairs have in common.
    assert found["skill_genuine"] is found["skill_impostor"] is None
    assert all(one["reason"] for one in record["why"])
    refused = attribution(
        *(place, tmp_path / "b", "--pairs", tmp_path / "one.csv", "--protocol", "chimera"),
        methods="saliency",
    )
    assert refused.exit_code == 1
    assert refused.stderr.strip().count("\n") == 0
    assert "choose --protocol matched" in refused.stderr


def test_pairs_come_with_what_is_known_of_them(place: Path, finished: Path) -> None:
    with (finished / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    cache = FaceCache.open(place / "cache")
    keys = cache.texts("key", cache.select())
    for row in rows[:: 1 + len(rows) // 5]:
        places = [int(cache.select()[keys.index(row[side])]) for side in ("probe", "reference")]
        found = cache.read(places, ["pose", "image"])
        yaw = found["pose"][:, 0].astype(float)
        for side, degrees, image in zip(("probe", "reference"), yaw, found["image"], strict=True):
            assert float(row[f"{side}_yaw"]) == pytest.approx(degrees, rel=1e-4)
            light = (image.astype(float) @ [0.299, 0.587, 0.114]).mean()
            assert float(row[f"{side}_light"]) == pytest.approx(light, rel=1e-3)
        assert float(row["yaw_difference"]) == pytest.approx(abs(yaw[0] - yaw[1]), rel=1e-4)
    methods = results(finished)["methods"]
    skills = [float(r["skill"]) for r in rows if r["method"] == "saliency" and r["same"] == "0"]
    assert np.mean(skills) == pytest.approx(methods["saliency"]["skill_impostor"], rel=1e-4)
    tested = {(one["method"], one["outcome"]) for one in results(finished)["why"]}
    assert tested == {(name, kind) for name in METHODS.split(",") for kind in ("uniform", "skill")}
    html = (finished / "report.html").read_text()
    assert "Which pairs, and why" in html
    assert (finished / "why_skill.pdf").stat().st_size > 500


def test_a_users_method_may_fail_in_any_way(place: Path, tmp_path: Path) -> None:
    result = attribution(place, tmp_path / "a", "--limit", 3, methods="my_networks:slip,saliency")
    assert result.exit_code == 3
    assert "3 maps failed" in result.stderr
    found = results(tmp_path / "a")["methods"]
    assert found["my_networks:slip"]["verdicts"]["error"] == 3
    assert found["saliency"]["n_tested"] == 3
