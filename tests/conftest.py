"""What several test modules share."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every CI run: a new find belongs to whoever looks for it, not to the change
# that happens to meet it.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")

REPOSITORY = Path(__file__).resolve().parents[1]


def kept_folder() -> Path:
    """A folder for what is made once and copied by many tests, gone with this process."""
    folder = Path(tempfile.mkdtemp(prefix="faceguide-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference numbers next to the repository, which clones lack."""
    folder = REPOSITORY.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("no folder ../shared with real data and reference numbers")
    return folder
