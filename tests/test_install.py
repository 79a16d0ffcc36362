"""What a wheel holds that is built from a checkout without symbolic links."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.conftest import REPOSITORY

FOLDERS = ("core", "cache", "preprocess", "train", "evaluate")


def test_a_clone_without_symbolic_links_installs_whole(tmp_path: Path) -> None:
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a clone")
    clone = tmp_path / "clone"
    quietly = {"check": True, "capture_output": True}
    words = ["git", "clone", "--quiet", "--config", "core.symlinks=false", REPOSITORY, clone]
    subprocess.run(words, **quietly)
    assert (clone / "src" / "faceguide" / "core").is_file()  # a text file in place of the link
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, clone], **quietly)
    with zipfile.ZipFile(next(tmp_path.glob("faceguide-*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    tracked = subprocess.run(["git", "ls-files"], cwd=clone, text=True, **quietly).stdout.split()
    source = [name for name in tracked if name.split("/")[0] in FOLDERS]
    own = [name for name in tracked if name.startswith("src/") and not name.endswith(FOLDERS)]
    wanted = {f"faceguide/{name}" for name in source} | {name[len("src/") :] for name in own}
    assert packed == wanted
