"""Fusions by name: fitted on training pairs, on nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.cache.builder import key
from tests.evaluate.builder import pairs_csv, small_cache, training_run, weights_file

from faceguide.core.errors import EvaluationError
from faceguide.evaluate.cli import main
from faceguide.evaluate.metrics.roc import measure, rank
from faceguide.evaluate.score import fusion_fit, matcher_options
from faceguide.evaluate.verification import load_scores


def scores(count: int = 400, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two matchers with errors of their own on scales far apart."""
    rng = np.random.default_rng(seed)
    same = np.arange(count) % 2 == 0
    return {
        "one": 100.0 + 30.0 * (same + rng.normal(0, 0.8, count)),
        "two": 0.01 * (same + rng.normal(0, 0.8, count)),
    }, same


def test_the_fit_is_better_than_either_part_and_its_scales_are_those_of_the_pairs() -> None:
    values, same = scores()
    found = fusion_fit.fit(values, same)
    assert found.auc > max(found.alone.values())
    assert found.alone["one"] == pytest.approx(measure(rank(values["one"], same)).auc)
    assert found.alone["two"] == pytest.approx(measure(rank(values["two"], same)).auc)
    assert found.scales["one"] == {
        "mean": pytest.approx(values["one"].mean()), "std": pytest.approx(values["one"].std())
    }  # fmt: skip
    assert sum(found.weights.values()) == pytest.approx(1.0)
    fused = found.score(values)
    assert measure(rank(fused, same)).auc == pytest.approx(found.auc)
    assert fused.mean() == pytest.approx(0.0, abs=1e-9)


def test_a_useless_matcher_gets_no_share_and_a_plateau_its_middle() -> None:
    same = np.arange(100) % 2 == 0
    noise = np.random.default_rng(1).normal(size=100)
    good = same + 0.01 * noise
    assert fusion_fit.fit({"good": good, "bad": -good}, same).weights["bad"] < 0.5
    # Both tell all pairs apart, so every share does.
    assert fusion_fit.fit({"good": good, "same": good * 2}, same).weights["good"] == 0.5


def test_faulty_training_pairs() -> None:
    values, same = scores(10)
    with pytest.raises(EvaluationError, match=r"of one identity and .*of two"):
        fusion_fit.fit(values, same | True)
    with pytest.raises(EvaluationError, match="two gives all"):
        fusion_fit.fit({**values, "two": np.ones(10)}, same)


def pairs_of(persons: set[int], count: int = 40) -> list[tuple[int, str, str, int]]:
    """Half of one identity, half of two, all of these identities of a `small_cache`."""
    numbers = [n for n in range(60) if n % 10 and n % 7 in persons]
    every = [(a, b) for a in numbers for b in numbers if a < b]
    kinds = [[p for p in every if (p[0] % 7 == p[1] % 7) == same] for same in (True, False)]
    step = [max(len(kind) // (count // 2), 1) for kind in kinds]
    return [
        (place % 2, key(kind[place * width][0]), key(kind[place * width][1]), 1 - which)
        for which, (kind, width) in enumerate(zip(kinds, step, strict=True))
        for place in range(min(count // 2, len(kind)))
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fusion")
    small_cache(folder / "cache")
    training_run(folder / "run")
    weights_file(folder / "weights.pt")
    pairs_csv(folder / "test.csv", pairs_of({3, 4, 5, 6}))
    pairs_csv(folder / "fit.csv", pairs_of({0, 1, 2}))
    pairs_csv(folder / "leak.csv", pairs_of({2, 3, 4}))
    return folder


def run(place: Path, out: str, matcher: str, *more: str, pairs: str = "test.csv") -> Result:
    weights = () if "--weights" in more else ("--weights", str(place / "run"))
    return CliRunner().invoke(
        main,
        ["verification", str(place / "cache"), "--pairs", str(place / pairs), "--matcher", matcher,
         "--out", str(place / out), "--bootstrap", "0", "--json", *weights, *more,
         "--embeddings", str(place / "faces")],
    )  # fmt: skip


@pytest.mark.parametrize("matcher", matcher_options.FUSIONS)
def test_a_fusion_by_name(place: Path, matcher: str) -> None:
    result = run(place, matcher, matcher, "--fit-pairs", str(place / "fit.csv"))
    assert result.exit_code == 0, result.output
    assert "Warning" not in result.stderr
    record = json.loads(result.stdout)
    found = record["fusion"]
    parts = matcher_options.FUSIONS[matcher]
    assert found["weights"].keys() == found["scales"].keys() == set(parts)
    assert (found["pairs"], found["genuine"], found["left_out"]) == (40, 20, 0)
    assert found["shared_identities"] == {"count": 0, "names": []}
    # The scores are the weighted sum of those that each part alone gives.
    alone = {}
    for name in parts:
        part = run(place, f"part-{matcher}-{name}", name)
        assert part.exit_code == 0, part.output
        alone[name] = load_scores(place / f"part-{matcher}-{name}")["score"]
    expected = sum(
        found["weights"][name]
        * (alone[name] - found["scales"][name]["mean"])
        / found["scales"][name]["std"]
        for name in parts
    )
    np.testing.assert_allclose(load_scores(place / matcher)["score"], expected, atol=1e-4)
    # The fit is that of the training pairs, and is used again as it is.
    again = run(place, f"{matcher}-again", matcher, "--fusion-scales",
                str(place / matcher / "fusion.json"))  # fmt: skip
    assert again.exit_code == 0, again.output
    repeated = json.loads(again.stdout)
    assert repeated["auc"] == record["auc"]
    assert repeated["fusion"]["weights"] == found["weights"]
    assert repeated["fusion"]["shared_identities"]["count"] == 0


def test_merge_knows_the_options_of_the_fit(place: Path, tmp_path: Path) -> None:
    """The same bytes again, also when the pairs of the fit lie in another cache."""
    small_cache(tmp_path / "other", rows=50)
    for number, more in enumerate(((), ("--fit-cache", str(tmp_path / "other")))):
        out = f"merged-{number}"
        fit = ("--fit-pairs", str(place / "fit.csv"), *more)
        assert run(place, out, "qaconv+cosine", *fit).exit_code in (0, 3)
        before = (place / out / "verification.json").read_bytes()
        result = CliRunner().invoke(main, ["merge", str(place / out), "--allow-failures"])
        assert result.exit_code == 0, result.output
        assert (place / out / "verification.json").read_bytes() == before


def test_labels_of_the_tested_pairs_have_no_part_in_the_fit(place: Path) -> None:
    turned = [(fold, a, b, 1 - same) for fold, a, b, same in pairs_of({3, 4, 5, 6})]
    pairs_csv(place / "turned.csv", turned)
    fits = []
    for out, pairs in (("straight", "test.csv"), ("turned", "turned.csv")):
        result = run(place, out, "qaconv+cosine", "--fit-pairs", str(place / "fit.csv"),
                     pairs=pairs)  # fmt: skip
        fits.append(json.loads(result.stdout)["fusion"])
    assert fits[0] == fits[1]


def test_a_doubtful_list_to_fit_on_is_said(place: Path) -> None:
    turned = [(fold, a, b, 1 - same) for fold, a, b, same in pairs_of({1, 2})]
    pairs_csv(place / "turned-fit.csv", turned)
    result = run(place, "turned-fit", "qaconv+cosine", "--fit-pairs", str(place / "turned-fit.csv"))
    found = json.loads(result.stdout)
    assert found["fusion"]["doubts"]["contradict_labels"] == 40
    assert found["doubts"] == {}
    assert "fitted on, 40 pairs" in result.stderr


def test_persons_of_fit_and_test_are_named(place: Path) -> None:
    result = run(place, "leak", "qaconv+cosine", "--fit-pairs", str(place / "leak.csv"))
    assert result.exit_code == 0, result.output
    assert "fitted on 2 identities" in result.stderr
    names = json.loads(result.stdout)["fusion"]["shared_identities"]["names"]
    assert names == ["person_03", "person_04"]
    assert "persons" not in json.loads(result.stdout)["fusion"]


def test_pairs_of_another_cache_and_weights_without_visibility(place: Path, tmp_path: Path) -> None:
    small_cache(tmp_path / "other", rows=50, occlusion=False)
    small_cache(tmp_path / "plain", occlusion=False)
    weights = ("--weights", str(place / "weights.pt"), "--backbone", "mobilefacenet")
    result = CliRunner().invoke(
        main,
        ["verification", str(tmp_path / "plain"), "--pairs", str(place / "test.csv"),
         "--matcher", "qaconv+cosine", "--fit-pairs", str(place / "fit.csv"), "--fit-cache",
         str(tmp_path / "other"), "--out", str(tmp_path / "out"), "--bootstrap", "0", "--json",
         *weights],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["fusion"]
    assert found["weights"].keys() == {"qaconv", "cosine"}, "no visibility data"
    assert found["left_out"] > 0
    assert found["fit_cache"] == str((tmp_path / "other").resolve())


@pytest.mark.parametrize(
    ("matcher", "more", "message"),
    [
        ("qaconv+cosine", (), "give --fit-pairs FILE, or --fusion-scales"),
        ("cosine", ("--fit-pairs", "fit.csv"), "--fit-pairs is for --matcher qaconv+cosine or"),
        ("cosine", ("--fit-cache", "cache"), "belong to --fit-pairs"),
        ("cosine", ("--fusion-scales", "fit.csv"), "--fusion-scales is for a fusion"),
    ],
)  # fmt: skip
def test_options_that_do_not_belong_together(
    place: Path, matcher: str, more: tuple[str, ...], message: str
) -> None:
    given = (more[0], str(place / more[1])) if more else ()
    result = run(place, "wrong", matcher, *given)
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_file_of_scales_alone_is_no_fit(place: Path) -> None:
    fuse = ("--fuse", "qaconv+occlusion=0.5", "--fuse", "cosine=0.5")
    assert run(place, "scales", "fused", *fuse).exit_code == 0
    result = run(place, "from-scales", "qaconv+cosine", "--fusion-scales",
                 str(place / "scales" / "fusion.json"))  # fmt: skip
    assert result.exit_code == 1
    assert "holds no fit of qaconv+occlusion and cosine" in result.stderr
