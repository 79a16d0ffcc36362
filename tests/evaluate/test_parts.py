"""`--part` and `evaluate merge`: parts of every command add up to the bytes of one process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.contents import contents
from tests.evaluate.builder import pairs_csv, small_cache, training_run, usable_pairs
from tests.evaluate.ijb.test_ijb import build_ijb

from faceguide.evaluate import identification
from faceguide.evaluate.cli import main
from faceguide.evaluate.ijb import ijb_protocol
from faceguide.evaluate.score import embed, face_reader, fusion
from faceguide.train.models.loading.network import Network

PARTS = 3
FUSED = ("--matcher", "fused", "--fuse", "visible-embedding=1", "--fuse", "cosine=2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """cache/, run/ (a training run), pairs.csv with one pair that cannot be scored, IJBC/."""
    folder = tmp_path_factory.mktemp("parts")
    small_cache(folder / "cache")
    training_run(folder / "run")
    pairs_csv(folder / "pairs.csv", [*usable_pairs(), (0, "nobody.jpg", "none.jpg", 0)])
    uses = build_ijb(folder / "IJBC")
    (folder / "IJBC" / "loose_crop" / uses[9].image).write_bytes(b"not a picture")
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that every part has some."""
    monkeypatch.setattr(embed, "block_rows", lambda rows: 8)
    monkeypatch.setattr(face_reader, "PAIR_BLOCK", 16)
    monkeypatch.setattr(fusion, "RANDOM_PAIRS", 40)
    monkeypatch.setattr(ijb_protocol, "_LOCAL_PAIR_BLOCK", 32)
    for module in (identification, ijb_protocol):
        monkeypatch.setattr(module, "probe_block", lambda people, most=512: 5)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def command(place: Path, name: str, out: Path, *more: object) -> list[object]:
    """A command line of `evaluate`."""
    subject = place / ("IJBC" if name == "ijb" else "cache")
    given: list[object] = [name, subject, "--weights", place / "run", "--out", out]
    if name == "verification":
        given += ["--pairs", place / "pairs.csv"]
    if name != "embed":
        given += ["--bootstrap", 10]
    return [*given, *more]


def content(out: Path) -> dict[str, str]:
    """All files but run.json, whose argv tells one command line from another."""
    about = json.loads((out / "run.json").read_text())
    assert not any("--part" in word for word in about["argv"])
    return {name: digest for name, digest in contents(out).items() if name != "run.json"}


def alone(place: Path, tmp_path: Path, name: str, *more: object) -> tuple[Path, dict[str, str]]:
    """The directory of a run, empty again, and what one process made there."""
    out = tmp_path / "out"
    result = invoke(*command(place, name, out, *more))
    assert result.exit_code in (0, 3), result.output
    found = content(out)
    shutil.rmtree(out)
    return out, found


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("embed", ("--maps",)),
        ("verification", ()),
        ("verification", FUSED),
        ("identification", ("--matcher", "qaconv+occlusion", "--unenrolled", 0.3)),
        ("ijb", ("--matcher", "visible-embedding")),
    ],
)
def test_parts_make_the_bytes_of_one_process(
    place: Path, tmp_path: Path, name: str, more: tuple[object, ...]
) -> None:
    out, expected = alone(place, tmp_path, name, *more)
    ours = command(place, name, out, *more)
    local = "--matcher" in more
    for part in (1, 2):
        result = invoke(*ours, "--part", f"{part}/{PARTS}")
        assert result.exit_code == 0, result.output
        assert ("rerun each for its scores" in result.stderr) == local
    early = invoke("merge", out, "--parts", PARTS)
    assert early.exit_code == 1
    assert "1 of 3 parts are not finished (embeddings)" in early.stderr
    assert "--parts 3 --indices 0" in early.stderr
    assert not {"verification.json", "identification.json", "ijb.json"} & set(content(out))

    assert invoke(*ours, "--part", f"0/{PARTS}").exit_code == 0
    if local:  # the last part has scored already; the others come again, one of them twice
        early = invoke("merge", out, "--parts", PARTS)
        assert "2 of 3 parts are not finished" in early.stderr
        assert "--parts 3 --indices 1-2" in early.stderr
        for part in (1, 1, 2):
            assert invoke(*ours, "--part", f"{part}/{PARTS}").exit_code == 0
    # The images that are left out are named by the merge.
    code = 3 if name in ("verification", "ijb") else 0
    for more, expected_code in (((), code), (("--allow-failures",), 0)):
        merged = invoke("merge", out, *more)
        assert merged.exit_code == expected_code, merged.output
        assert content(out) == expected


def test_parts_share_one_record(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    times = []
    for part in ("0/2", "1/2"):
        assert invoke(*command(place, "verification", out, "--part", part)).exit_code == 0
        times.append((out / "run.json").stat().st_mtime_ns)
    assert times[0] == times[1]
    other = invoke(*command(place, "verification", out, "--no-flip", "--part", "0/2"))
    assert other.exit_code == 1
    assert "other settings (flip True → False)" in other.stderr


def test_another_number_of_parts_goes_on_and_computes_nothing_twice(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    seen: list[int] = []
    real = Network.describe

    def counted(self: Network, images: object, groups: frozenset[str]) -> object:
        seen.append(len(images))  # type: ignore[arg-type]
        return real(self, images, groups)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "describe", counted)
    for part in ("0/2", "3/4", "1/4", "0/1"):
        assert invoke(*command(place, "embed", out, "--part", part)).exit_code == 0
    assert sum(seen) == 54
    assert max(seen) == 8


def test_the_array_of_slurm_names_the_part(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ID": 5, "MIN": 4, "MAX": 6, "STEP": 1, "COUNT": 3}.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
    result = invoke(*command(place, "embed", tmp_path / "out", "--json"))
    assert "Part 1/3 of this Slurm array" in result.stderr
    assert json.loads(result.stdout) == {"part": [1, 3], "computed": 16, "waits": False}
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    refused = invoke(*command(place, "embed", tmp_path / "out"))
    assert refused.exit_code == 2
    assert "this Slurm array is sparse" in refused.stderr


@pytest.mark.parametrize("part", ["3/3", "1", "-1/3", "a/b"])
def test_no_part_is_refused(place: Path, tmp_path: Path, part: str) -> None:
    result = invoke(*command(place, "verification", tmp_path / "out", f"--part={part}"))
    assert result.exit_code == 2
    assert "expected i/N with i from 0" in result.stderr
    assert not (tmp_path / "out").exists()


def change_weights(folder: Path) -> None:
    weights = folder / "run" / "backbone.pt"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)


def change_cache(folder: Path) -> None:
    shutil.rmtree(folder / "cache")
    small_cache(folder / "cache", rows=50)


@pytest.mark.parametrize("change", [change_weights, change_cache])
def test_what_was_changed_since_is_not_merged(
    place: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    for name in ("cache", "run"):
        shutil.copytree(place / name, tmp_path / name)
    out = tmp_path / "out"
    assert invoke(*command(tmp_path, "embed", out, "--part", "0/2")).exit_code == 0
    change(tmp_path)
    result = invoke("merge", out)
    assert result.exit_code == 1
    assert "was changed since the parts ran" in result.stderr


def test_only_runs_of_parts_can_be_merged(place: Path) -> None:
    result = invoke("merge", place / "run")
    assert result.exit_code == 1
    assert "not a run of embed, verification" in result.stderr
