"""Commands that learn from several caches and measure on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.cache.builder import build_keys

from faceguide.cache.cli import main as cache
from faceguide.evaluate.cli import main as evaluate
from faceguide.train.cli import main


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Identities a … d of six images each; b and c are in both caches."""
    folder = tmp_path_factory.mktemp("caches")
    for name, letters in (("old", "abc"), ("new", "bcd")):
        keys = [f"{letter}/{name}{i}.jpg" for letter in letters for i in range(1, 7)]
        build_keys(folder / name, keys, size=40)
    return [folder / "old", folder / "new"]


@pytest.fixture(scope="module")
def run(caches: list[Path]) -> Path:
    """A run of `train cal` on both, with pairs that name images of either."""
    out = caches[0].parent / "run"
    pairs = caches[0].parent / "pairs.csv"
    lines = [
        f"{x}/old{i}.jpg,{y}/new{i}.jpg,{int(x == y)}" for x in "abc" for y in "bcd" for i in (1, 2)
    ]
    pairs.write_text("a,b,same\n" + "\n".join(lines) + "\n")
    result = call(
        "cal", ",".join(map(str, caches)), "--out", out, "--model", "cal_mobilefacenet",
        "--heads", 8, "--crop", 32, "--batch-size", 6, "--steps", 3, "--log-every", 1,
        "--picture-every", 0, "--mix", "old=1", "--mix", "new=3", "--pairs", pairs,
        "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


def test_a_union_is_learnt_and_repeated(run: Path, caches: list[Path], tmp_path: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    assert record["cache"] == ",".join(str(path.resolve()) for path in caches)
    assert record["settings"]["mix"] == [["old", 1.0], ["new", 3.0]]
    assert (run / "identities.txt").read_text().split() == ["a", "b", "c", "d"]
    result = call("cal", "--from", run / "run.json", "--out", tmp_path / "again")
    assert result.exit_code == 0, result.output
    weights = [path / "backbone.safetensors" for path in (run, tmp_path / "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    # The same caches in another order are other rows.
    other = ",".join(map(str, reversed(caches)))
    result = call("cal", other, "--from", run / "run.json", "--out", tmp_path / "other")
    assert result.exit_code == 1
    assert "is not what that run was made of" in result.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--mix", "old=1"), "weights are for several caches, one each: old, new; found old"),
        (("--mix", "old=1", "--mix", "new=-1"), "-1.0 is not in the range"),
        (("--mix", "old=1", "--mix", "old=2"), "old is given more than once"),
    ],
)
def test_weights_that_cannot_be_are_one_line(
    words: tuple[str, ...], says: str, caches: list[Path], tmp_path: Path
) -> None:
    given = ",".join(map(str, caches))
    result = call("cal", given, "--out", tmp_path / "run", "--model", "cal_mobilefacenet",
                  "--heads", 8, "--crop", 32, "--device", "cpu", *words)  # fmt: skip
    assert result.exit_code in (1, 2)
    assert says in result.stderr
    assert not (tmp_path / "run").exists()


def test_oaml_mixes_only_shuffled_rows(caches: list[Path], tmp_path: Path) -> None:
    given = ",".join(map(str, caches))
    result = call("oaml", given, "--out", tmp_path / "run", "--mix", "old=1", "--mix", "new=1",
                  "--backbone", "mobilefacenet", "--device", "cpu")  # fmt: skip
    assert result.exit_code == 1
    assert "--mix needs --sampler shuffle" in result.stderr


def test_a_union_is_measured_in_parts(run: Path, caches: list[Path], tmp_path: Path) -> None:
    volumes = tmp_path / "volumes.json"
    CliRunner().invoke(cache, ["volumes", *map(str, caches), "--out", str(volumes)])
    pairs = caches[0].parent / "pairs.csv"

    def verification(out: str, *more: str) -> Result:
        words = ["verification", str(volumes), "--pairs", str(pairs), "--weights", str(run)]
        words += ["--out", str(tmp_path / out), "--device", "cpu", *more]
        return CliRunner().invoke(evaluate, words)

    result = verification("whole", "--json")
    assert result.exit_code == 0, result.output
    about = json.loads(result.stdout)
    assert about["pairs"] == 18
    for part in ("0/2", "1/2"):
        assert verification("parts", "--part", part).exit_code in (0, 3)
    merged = CliRunner().invoke(evaluate, ["merge", str(tmp_path / "parts"), "--json"])
    assert merged.exit_code == 0, merged.output
    assert json.loads(merged.stdout)["auc"] == about["auc"]
