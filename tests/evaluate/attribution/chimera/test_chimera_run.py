"""`evaluate attribution --protocol chimera` on faces whose identities a small network sees."""

from __future__ import annotations

import csv
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from faceguide.evaluate.attribution.chimera.composition import ALL_PARTS, PARTS, part_cells
from faceguide.evaluate.attribution.chimera.exchange import judge_exchange
from faceguide.evaluate.cli import main
from faceguide.train.models.input_spec import InputSpec

IDENTITIES = 88
METHODS = "hirescam,gradient-input,occlusion"
CONTROLS = ("random", "centre", "edges", "pixels", "constant")
FIGURES = (
    *("n", "told_apart", "told_apart_interval", "single", "told_share", "blind_share", "signed"),
    *("uniform_share", "excess", "excess_interval", "skill_genuine", "skill_impostor"),
)


class Patches(nn.Module):
    """The cosine of the colours of two faces cell by cell: what each cell says is known."""

    input_spec = InputSpec(28, "RGB", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    cam_layers = ("features",)

    def __init__(self, keep: bool = True) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 8, 2, stride=2, bias=False)
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(8, 3, 2, 2, generator=generator)
        self.features.weight = nn.Parameter(weight - weight.mean((1, 2, 3), keepdim=True))
        self.noise = None if keep else torch.randn(49 * 8, 3, 28, 28, generator=generator)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        if self.noise is not None:  # looks at what no two photographs share
            return torch.sin(40 * torch.einsum("nchw,echw->ne", images, self.noise))
        return nn.functional.avg_pool2d(self.features(images), 2).flatten(1)


class Broken(Patches):
    """A network that gives no number where the edge of the eyes is soft: of some chimeras."""

    def forward(self, images: Tensor) -> Tensor:
        edge = images[:, 1, 8:12, 8:12].std(1).amax(1)
        return torch.where(edge[:, None] > 1e-3, torch.nan, super().forward(images))


def blind(score: Any, probe: Tensor, reference: Any) -> Tensor:
    """A map that cannot know: the same for every reference."""
    return probe.mean(1)


def oblong(score: Any, probe: Tensor, reference: Any) -> Tensor:
    return probe[:, 0, :5]


def size(score: Any, probe: Tensor, reference: Any) -> Tensor:
    return probe.abs().mean(1)


size.signed = False  # type: ignore[attr-defined]


def picture(key: str, side: int = 16) -> np.ndarray:
    """Colours are the identity's, brightness, alike in a cell, is the photograph's."""
    person, number = (int(digits) for digits in re.findall(r"\d+", key))
    hue = np.random.default_rng(person).integers(-60, 60, (side, side))
    light = np.random.default_rng([person, number]).integers(70, 186, (7, 7))
    light = np.kron(light, np.ones((side // 7, side // 7), int))
    return np.stack([light + hue, light, light - hue], 2).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def networks() -> Any:
    module: Any = types.ModuleType("chimera_nets")
    module.patches = lambda weights: Patches()
    module.noise = lambda weights: Patches(keep=False)
    module.broken = lambda weights: Broken()
    module.blind, module.oblong, module.size = blind, oblong, size
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "chimera_nets", module)
        yield


def list_pairs(path: Path, names: list[str]) -> Path:
    """Both photographs of each identity, and each with the next."""
    lines = ["a,b,same"]
    for place in range(0, len(names), 2):
        lines.append(f"{names[place]},{names[place + 1]},1")
        lines.append(f"{names[place]},{names[(place + 2) % len(names)]},0")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of 28×28 faces, two of each identity, and lists of pairs."""
    from tests.cache import builder

    folder = tmp_path_factory.mktemp("chimera")
    keys = [f"p{person:03d}/{number}.jpg" for person in range(IDENTITIES) for number in (1, 2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builder, "image_of", picture)  # pictures of identities
        builder.build_keys(folder / "cache", keys, size=28, regions=True)
    names = sorted(keys)
    list_pairs(folder / "pairs.csv", names)
    list_pairs(folder / "few.csv", names[:40])
    torch.save({}, folder / "none.pt")
    return folder


def attribution(place: Path, out: Path, *more: object, methods: str = METHODS) -> Result:
    network = () if "--backbone" in more else ("--backbone", "chimera_nets:patches")
    pairs = () if "--pairs" in more else ("--pairs", place / "pairs.csv")
    fixed = ("--weights", place / "none.pt", "--out", out, "--bootstrap", 200, "--block", 9)
    words = ("attribution", place / "cache", *pairs, *network, *fixed, "--methods", methods, *more)
    return CliRunner().invoke(main, [str(word) for word in words])


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def finished(place: Path) -> Path:
    out = place / "run"
    names = f"{METHODS},chimera_nets:blind,chimera_nets:size"
    result = attribution(place, out, methods=names)
    assert result.exit_code == 0, result.output
    assert "Trust most: " in result.stdout
    return out


def test_the_list_decides_the_protocol_and_results_keep_the_contract(finished: Path) -> None:
    record = results(finished)
    assert record["schema"] == 2
    assert record["protocol"] == record["settings"]["protocol"] == "chimera"
    assert record["chimeras"]["n"] == IDENTITIES // 2
    names = {*METHODS.split(","), "chimera_nets:blind", "chimera_nets:size", *CONTROLS}
    assert set(record["methods"]) == names
    for found in record["methods"].values():
        assert set(FIGURES) <= set(found)
        assert found["n"] == IDENTITIES // 2
    network = record["network"]
    assert network["separates"] is True
    assert network["auc_interval"][0] >= 0.9
    assert network["exchange_interval"][0] >= 1


def test_maps_that_are_right_are_ranked_and_those_that_cannot_be_are_not(finished: Path) -> None:
    record = results(finished)
    methods = record["methods"]
    # Black cells shorten the embedding too.
    for name, least in (("hirescam", 0.95), ("occlusion", 0.75)):
        found = methods[name]
        assert found["told_apart"] > least
        assert found["single"] > least - 0.1
        low, high = found["told_apart_interval"]
        assert low <= found["told_apart"] <= high
    for name in ("centre", "edges", "constant", "chimera_nets:blind"):
        assert methods[name]["told_apart"] == methods[name]["single"] == 0.5
        assert methods[name]["told_share"] == 0
        assert methods[name]["rank"] is None
    assert methods["constant"]["uniform_share"] == 1
    assert methods["centre"]["blind_share"] == methods["chimera_nets:blind"]["blind_share"] == 1
    assert methods["pixels"]["excess"] == 0
    assert 0.4 < methods["random"]["told_apart"] < 0.6
    size = methods["chimera_nets:size"]
    assert size["signed"] is False
    assert size["told_apart"] is size["excess"] is size["told_share"] is None
    for place, name in enumerate(record["ranking"], 1):
        assert methods[name]["rank"] == place
        assert methods[name]["excess_interval"][0] > 0


def test_what_a_map_says_is_kept_with_its_sign(finished: Path) -> None:
    from safetensors.numpy import load_file

    maps = load_file(finished / "blocks" / "maps-hirescam-00000.safetensors")
    assert maps["thumb"].min() < -0.5
    assert maps["thumb"].max() > 0.5
    part, rest = part_cells(next(iter(PARTS)))
    by_bearer, by_donor = maps["signed"][:2]
    assert by_bearer[rest].mean() > by_bearer[part].mean()
    assert by_donor[part].mean() > by_donor[rest].mean()
    table = load_file(finished / "blocks" / "table-00000.safetensors")
    assert table["image"].shape == (9, 28, 28, 3)
    assert table["scores"].shape == (9, 6)


def test_every_chimera_has_a_line_for_every_method(finished: Path) -> None:
    with (finished / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (IDENTITIES // 2) * (len(METHODS.split(",")) + 1 + len(CONTROLS))
    mean = np.mean([float(row["told_apart"]) for row in rows if row["method"] == "hirescam"])
    assert mean == pytest.approx(results(finished)["methods"]["hirescam"]["told_apart"])
    assert {row["part"] for row in rows} == set(PARTS)
    assert all(row["probe"].split("/")[0] == row["reference"].split("/")[0] for row in rows)


def test_report_names_what_to_trust_first_and_is_harmless(finished: Path) -> None:
    html = (finished / "report.html").read_text()
    body = html.split("<main>")[1]
    assert body.index("Trust most") < body.index("<h2>")
    assert "<script" not in html
    assert "https://" not in html
    assert html.count("data:image/jpeg") > 6 * (5 + 2 * 4)
    for name in ("methods.tex", "told_apart.pdf", "told_apart.png"):
        assert (finished / name).stat().st_size > 500


def test_merge_writes_the_same_bytes_and_parts_agree(
    place: Path, finished: Path, tmp_path: Path
) -> None:
    before = (finished / "results.json").read_bytes()
    merged = CliRunner().invoke(main, ["merge", str(finished)])
    assert merged.exit_code == 0, merged.output
    assert (finished / "results.json").read_bytes() == before
    out, names = tmp_path / "parts", f"{METHODS},chimera_nets:blind,chimera_nets:size"
    for part in ("1/2", "0/2"):
        assert attribution(place, out, "--part", part, methods=names).exit_code == 0
    assert CliRunner().invoke(main, ["merge", str(out)]).exit_code == 0
    assert (out / "pairs.csv").read_text() == (finished / "pairs.csv").read_text()
    agreed = CliRunner().invoke(main, ["diff", str(finished), str(out)])
    assert agreed.exit_code == 0, agreed.output


def test_limit_counts_chimeras_and_few_are_not_ranked(place: Path, tmp_path: Path) -> None:
    found = attribution(place, tmp_path / "a", "--limit", 7, methods="gradcam")
    assert found.exit_code == 0, found.output
    record = results(tmp_path / "a")
    assert record["chimeras"]["n"] == record["methods"]["grad-cam"]["n"] == 7
    assert record["ranking"] == []
    assert "No ranking: 7 chimeras are too few, 40 are needed" in found.stdout
    other = CliRunner().invoke(main, ["diff", str(tmp_path / "a"), str(place / "run"), "--json"])
    assert json.loads(other.stdout)["settings"]["limit"] == [7, None]


def test_a_network_of_noise_is_refused(place: Path, tmp_path: Path) -> None:
    more = ("--backbone", "chimera_nets:noise")
    found = attribution(place, tmp_path / "a", *more, methods="saliency")
    assert found.exit_code == 1
    assert "does not separate these identities" in found.stderr
    assert "--anyway" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    anyway = attribution(place, tmp_path / "a", *more, "--anyway", methods="saliency")
    assert anyway.exit_code == 0, anyway.output
    assert anyway.stdout.startswith("This network does not separate these identities")
    record = results(tmp_path / "a")
    assert record["ranking"] == []
    assert record["network"]["separates"] is False


def test_a_short_list_is_explained_pair_by_pair(place: Path, tmp_path: Path) -> None:
    found = attribution(place, tmp_path / "a", "--pairs", place / "few.csv", methods="saliency")
    assert found.exit_code == 0, found.output
    assert "--protocol matched: the list has 20 identities of two images" in found.stderr
    assert results(tmp_path / "a")["protocol"] == "matched"
    asked = attribution(
        *(place, tmp_path / "b", "--pairs", place / "few.csv", "--protocol", "chimera"),
        methods="saliency",
    )
    assert asked.exit_code == 0, asked.output
    assert results(tmp_path / "b")["chimeras"]["n"] == 10


def test_maps_of_another_size_fail_and_the_others_are_ranked(place: Path, tmp_path: Path) -> None:
    names = "hirescam,chimera_nets:oblong"
    found = attribution(place, tmp_path / "a", "--limit", 6, methods=names)
    assert found.exit_code == 3
    assert "6 maps failed" in found.stderr
    methods = results(tmp_path / "a")["methods"]
    assert methods["chimera_nets:oblong"]["error_share"] == 1
    assert methods["chimera_nets:oblong"]["told_apart"] == 0.5
    assert methods["hirescam"]["told_apart"] > 0.9


def test_faces_without_a_score_are_counted(place: Path, tmp_path: Path) -> None:
    more = ("--backbone", "chimera_nets:broken")
    found = attribution(place, tmp_path / "a", *more, methods="hirescam")
    assert found.exit_code == 3, found.output
    assert "Warning: 7 chimeras have no finite score" in found.stderr
    record = results(tmp_path / "a")
    assert record["doubts"]["unscored_chimeras"] == record["network"]["unscored"] == 7
    assert record["methods"]["hirescam"]["verdicts"]["error"] == 7
    assert record["methods"]["hirescam"]["n"] == IDENTITIES // 2
    assert record["ranking"] == ["hirescam"]


def test_games_are_columns_and_count_no_chimera(place: Path, tmp_path: Path) -> None:
    out, names = tmp_path / "a", "hirescam,chimera_nets:blind,chimera_nets:size"
    more = ("--games", "small,regions,deletion", "--limit", 12)
    found = attribution(place, out, *more, methods=names)
    assert found.exit_code == 0, found.output
    assert "Games with the same faces" in found.stdout
    record = results(out)
    assert record["chimeras"]["n"] == 12
    assert record["network"]["genuine"] == 24
    for one in record["methods"].values():
        assert one["n"] == 12
        if not one["signed"]:
            assert one["games"] is None
            continue
        assert set(one["games"]) == {"small", "regions", "deletion"}
        for game in one["games"].values():
            assert game["n"] == 12
            low, high = game["interval"]
            assert low <= game["score"] <= high
    for name in ("centre", "edges", "constant", "chimera_nets:blind"):
        games = record["methods"][name]["games"]
        assert [game["score"] for game in games.values()] == [0.5] * 3
    games = record["methods"]["hirescam"]["games"]
    assert min(game["score"] for game in games.values()) > 0.9
    assert len(games["small"]["by_part"]) == 8
    assert len(games["regions"]["by_part"]) == 3
    page = (out / "report.html").read_text()
    assert "Further games" in page
    assert page.count("<h3>Chimera ") == 6 + 2 + 3
    with (out / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["part"] for row in rows} == set(ALL_PARTS)
    told = [float(row["told_apart"]) for row in rows if row["method"] == "hirescam"]
    assert len(told) == 3 * 12
    assert np.mean(told[12:24]) == pytest.approx(games["small"]["score"])
    kept = (out / "results.json").read_bytes()
    assert CliRunner().invoke(main, ["merge", str(out)]).exit_code == 0
    assert (out / "results.json").read_bytes() == kept


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--games", "chess"), "no game 'chess'; choose from small, regions, deletion"),
        (("--games", "small", "--protocol", "matched"), "--games are of --protocol chimera"),
    ],
)
def test_games_that_cannot_be_played_are_refused(
    place: Path, tmp_path: Path, more: tuple[str, ...], words: str
) -> None:
    found = attribution(place, tmp_path / "a", *more)
    assert found.exit_code == 1
    assert words in found.stderr


def test_metrics_of_responses_are_refused(place: Path, tmp_path: Path) -> None:
    found = attribution(place, tmp_path / "a", "--protocol", "chimera", "--metrics", "swap")
    assert found.exit_code == 1
    assert "--metrics are for --protocol matched" in found.stderr


def test_the_dry_run_counts_chimeras(place: Path, tmp_path: Path) -> None:
    found = attribution(place, tmp_path / "a", "--dry-run", "--json")
    cost = json.loads(found.stdout)
    # Of a chimera two maps of 3 forwards by two methods, and 50 covered faces for both references.
    assert cost["forwards"] == IDENTITIES // 2 * (2 * 3 * 2 + 50)
    assert cost["chimeras"] == IDENTITIES // 2
    text = attribution(place, tmp_path / "a", "--dry-run").stdout
    assert re.match(r"44 chimeras: .* per chimera\)", text)


def test_scores_are_judged_by_auc_and_exchange() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, (60, 6))
    assert judge_exchange(noise, 1e-7, 0)["separates"] is False
    # Genuine pairs score high; composed faces in between.
    known = noise + np.array([0.35, 0.35, 0.7, 0.7, 0.0, 0.0])
    assert judge_exchange(known, 1e-7, 0)["separates"] is True
    # It knows the identities, and does not see the part.
    unseen = noise + np.array([0.7, 0.0, 0.7, 0.7, 0.0, 0.0])
    found = judge_exchange(unseen, 1e-7, 0)
    assert found["auc_interval"][0] > 0.9
    assert found["separates"] is False
    known[:5] = np.nan
    found = judge_exchange(known, 1e-7, 0)
    assert found["unscored"] == 5
    assert found["separates"] is True


def test_chimeras_come_with_what_is_known_of_their_faces(finished: Path) -> None:
    with (finished / "pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    sides = ("probe", "reference", "donor", "donor_reference")
    for row in rows[::50]:
        assert all(0 < float(row[f"{side}_light"]) < 255 for side in sides)
        for name, first, second in (
            ("composed_light_difference", "probe", "donor"),
            ("composed_yaw_difference", "probe", "donor"),
        ):
            kind = name.split("_")[1]
            apart = abs(float(row[f"{first}_{kind}"]) - float(row[f"{second}_{kind}"]))
            assert float(row[name]) == pytest.approx(apart, abs=1e-3)
    record = results(finished)["why"]
    asked = {(one["method"], one["outcome"]) for one in record}
    names = {*METHODS.split(","), "chimera_nets:blind"}
    assert asked == {(name, kind) for name in names for kind in ("uniform", "told_apart", "told")}
    assert all((one["p"] is None) == (one["reason"] is not None) for one in record)
    assert "Which pairs, and why" in (finished / "report.html").read_text()
    assert (finished / "why_told_apart.pdf").stat().st_size > 500
