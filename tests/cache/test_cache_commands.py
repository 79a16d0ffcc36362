"""The `cache` commands, as a user types them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tests.cache.builder import build

from faceguide.cache.cli import main


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("commands") / "cache"
    build(path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_info_counts_without_opening_a_shard(directory: Path, tmp_path: Path) -> None:
    result = run("info", directory)
    assert result.exit_code == 0
    assert "100 rows of 7 identities in 4 shards of 32" in result.stdout
    assert "90 ok, 10 no_face" in result.stdout
    found = json.loads(run("info", directory, "--json").stdout)
    assert found["groups"]["faces"]["status"] == {"ok": 90, "no_face": 10}
    assert found["meta"] == ["split"]


def test_verify_exits_0_and_1(directory: Path, tmp_path: Path) -> None:
    result = run("verify", directory)
    assert (result.exit_code, result.stdout) == (0, "0 problems in 100 rows and 4 shards\n")
    build(tmp_path / "cache")
    (tmp_path / "cache" / "faces-00003.json").unlink()
    result = run("verify", tmp_path / "cache")
    assert result.exit_code == 1
    assert "faces-00003.json" in result.stdout
    found = json.loads(run("verify", tmp_path / "cache", "--json").stdout)
    assert len(found["problems"]) == 1


def test_failures_is_csv(directory: Path) -> None:
    result = run("failures", directory)
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len(rows) == 10
    assert {row["status"] for row in rows} == {"no_face"}
    assert all(int(Path(row["key"]).stem) % 10 == 0 for row in rows)


def test_seal_gathers_the_same_bytes_and_cleans_on_request(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    build(directory)
    before = (directory / "manifest-faces.json").read_bytes()
    (directory / "manifest-faces.json").unlink()
    stray = directory / ".faces-00000.h5.x.tmp"
    stray.write_bytes(b"")
    assert run("seal", directory).exit_code == 0
    assert (directory / "manifest-faces.json").read_bytes() == before
    assert stray.exists()
    assert run("seal", "--clean", directory).exit_code == 0
    assert not stray.exists()


def test_seal_names_missing_shards(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    build(directory)
    (directory / "faces-00002.json").unlink()
    result = run("seal", directory)
    assert result.exit_code == 1
    assert "1 of 4 faces shards are not there (2)" in result.stderr


def test_preview_is_a_picture(directory: Path, tmp_path: Path) -> None:
    out = tmp_path / "preview.png"
    result = run("preview", directory, "--out", out, "--faces", 5)
    assert result.exit_code == 0
    with Image.open(out) as picture:
        assert picture.width > 1000
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 1000
        legend = np.asarray(picture)[-24:]
    # What green, red and grey are in a map of visibility, and the three regions.
    for colour in ((40, 200, 80), (220, 30, 40), (64, 160, 255), (255, 176, 0), (255, 64, 96)):
        assert (legend == colour).all(-1).sum() == 11 * 11
    result = run("preview", directory, "--out", out, "--origin", "template")
    assert result.exit_code == 1
    assert "no rows pass these filters" in result.stderr


@pytest.mark.parametrize("command", ["info", "verify", "seal", "failures"])
def test_a_folder_that_is_no_cache_is_one_line(command: str, tmp_path: Path) -> None:
    result = run(command, tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path}: no cache here")
    assert result.stderr.count("\n") == 1


def test_a_folder_that_is_missing_is_a_usage_error(tmp_path: Path) -> None:
    assert run("info", tmp_path / "none").exit_code == 2


def test_names_cannot_steer_the_terminal(tmp_path: Path) -> None:
    from faceguide.core.commands.console import printable

    assert printable("a\x1b[31mred\nb\u202e\udcff") == "a\\x1b[31mred\\nb\\u202e\\udcff"
    assert printable("Zoë 李") == "Zoë 李"
