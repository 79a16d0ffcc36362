"""Output that goes to a full disk, a reader that has gone, a log that cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from bench.demo.photos import write_demo_photos
from tests.cache.builder import build
from tests.campaigns.counts import UnavailableError
from tests.campaigns.full_disk import resize, small_disk
from tests.evaluate.builder import pairs_csv, small_cache, usable_pairs, weights_file

from faceguide.__main__ import main

FULL = "Error: standard output: the disk is full; free some space and rerun the same command\n"
# Each command in a process that ends as the interpreter does, without importing all over again.
PROGRAM = """
import json, os, sys
from faceguide.__main__ import main
for name in main.list_commands(None):
    main.get_command(None, name)  # imported once
for number, words in enumerate(json.loads(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        os.dup2(os.open(f"{sys.argv[2]}/{number}", os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = ["faceguide", *words]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def environment() -> dict[str, str]:
    """Output is buffered, as it is by default."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def refused(commands: list[list[str]], folder: Path) -> dict[str, tuple[int, str]]:
    """Command → exit code and stderr, with a full standard output."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment(),
    )
    codes = map(int, done.stdout.split())
    return {
        " ".join(words): (code, (folder / str(number)).read_text())
        for number, (words, code) in enumerate(zip(commands, codes, strict=True))
    }


def run(*words: object, **streams: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "faceguide", *map(str, words)],
        text=True,
        env=environment(),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams},
    )


def test_help_and_version_of_groups_and_a_command(tmp_path: Path) -> None:
    groups = [[], *([name] for name in main.list_commands(click.Context(main)))]
    assert len(groups) == 5
    every = [[*words, "--help"] for words in (*groups, ["cache", "info"])]
    every += [[*words, "--version"] for words in groups]
    assert refused(every, tmp_path) == {" ".join(words): (1, FULL) for words in every}


def test_commands_that_print_what_they_found(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    build(cache, rows=100)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    write_demo_photos(tmp_path / "set", identities=2, images=4)
    every = [
        *(["cache", name, str(cache)] for name in ("info", "failures", "verify", "seal")),
        *(["cache", name, str(cache), "--json"] for name in ("info", "verify")),
        ["cache", "preview", str(cache), "--out", str(tmp_path / "preview.png")],
        ["cache", "export", "landmarks", str(cache), "--out", str(tmp_path / "landmarks.txt")],
        ["prep", "landmarks", str(tmp_path / "set/photos"), "--out", str(pictures), "--dry-run"],
        ["prep", "submit", "guidance", "--cache", str(cache), "--parts", "2", "--print"],
        ["evaluate", "methods"],
    ]
    found = refused(every, tmp_path)
    assert {words: code for words, (code, _) in found.items()} == dict.fromkeys(found, 1)
    for words, (_, said) in found.items():
        assert said.endswith(FULL), (words, said)
        assert "Traceback" not in said
        assert said.count("Error") == 1
    assert (tmp_path / "preview.png").stat().st_size > 1000


def test_what_was_computed_is_there(tmp_path: Path) -> None:
    small_cache(tmp_path / "cache")
    pairs = pairs_csv(tmp_path / "pairs.csv", usable_pairs(20))
    weights = weights_file(tmp_path / "weights.pt")
    words = ["evaluate", "verification", str(tmp_path / "cache"), "--pairs", str(pairs)]
    words += ["--backbone", "mobilefacenet", "--weights", str(weights), "--bootstrap", "0"]
    plain, as_json = tmp_path / "plain", tmp_path / "json"
    found = refused(
        [[*words, "--out", str(plain)], [*words, "--out", str(as_json), "--json"]], tmp_path
    )
    for code, said in found.values():
        assert code == 1
        assert said.endswith(FULL)
    results = [json.loads((out / "verification.json").read_text()) for out in (plain, as_json)]
    assert results[0]["pairs"] == results[1]["pairs"] == 20


@pytest.mark.parametrize("command", ["failures", "info"])
def test_a_reader_that_goes_away_is_no_error_to_speak_of(tmp_path: Path, command: str) -> None:
    build(tmp_path, rows=100)
    reading, writing = os.pipe()
    os.close(reading)
    done = run("cache", command, tmp_path, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_news_that_nobody_can_write_down_changes_nothing(tmp_path: Path) -> None:
    build(tmp_path / "cache", rows=100)
    (tmp_path / "cache" / ".left.tmp").touch()
    with Path("/dev/full").open("w") as full:
        sealed = run("cache", "seal", tmp_path / "cache", "--clean", stderr=full)
        failed = run("cache", "info", tmp_path, stderr=full)
        misused = run("cache", "info", tmp_path / "nothing", stderr=full)
    assert (sealed.returncode, sealed.stdout.count("rows in")) == (0, 3)
    assert not (tmp_path / "cache" / ".left.tmp").exists()
    assert (failed.returncode, misused.returncode) == (1, 2)


def test_an_encoding_without_our_characters(tmp_path: Path) -> None:
    """A batch system may set LC_ALL=C, or the log be Latin-1."""
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "faceguide", "evaluate", "methods"],
        env=environment() | settings,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "a layer of at least 7\\xd77" in done.stdout


def test_a_closed_stderr_is_no_file_of_the_cache(tmp_path: Path) -> None:
    """Under `2>&-` the next file that is opened would get the number 2, and what libraries say."""
    program = (
        "import os\n"
        "from faceguide.core.commands.standard_streams import watched_streams\n"
        "with watched_streams():\n"
        "    print(os.open('/dev/zero', os.O_RDONLY) > 2)\n"
    )
    done = subprocess.run(
        f'"{sys.executable}" -c "{program}" 2>&-',
        shell=True, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "True\n"


def test_a_picture_on_a_full_disk_is_whole_or_not_there(tmp_path: Path) -> None:
    build(tmp_path / "cache", rows=100)
    disk = tmp_path / "disk"
    try:
        with small_disk(disk):
            resize(disk, 16 << 10)
            done = run("cache", "preview", tmp_path / "cache", "--out", disk / "preview.png")
            left = list(disk.iterdir())
    except UnavailableError as error:
        pytest.skip(str(error))
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {disk}/preview.png: cannot write: the disk is full; ")
    assert done.stderr.count("\n") == 1
    assert left == []
