"""A `cv2` that does not load is one line with the remedy; one that loads is not questioned."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

CONTRIB, PLAIN = "opencv_contrib_python-5.1.0.95", "opencv_python-5.0.0.93"
# What the first `cv2` on the path does, who owns it, and what the line has to name.
FAULTS = {
    "two-owners": (
        "raise ImportError('undefined symbol: _ZN2cv3MatC1Ev')",
        (CONTRIB, PLAIN),
        ("undefined symbol", "opencv-contrib-python 5.1.0.95 and opencv-python 5.0.0.93",
         "pip uninstall --yes opencv-contrib-python opencv-python"),
    ),
    "gutted": ("", (CONTRIB,), ("pip install --force-reinstall",)),
    "no-libGL": (
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file')",
        (CONTRIB, PLAIN),
        ("libGL.so.1", "apt-get install libgl1 libglib2.0-0"),
    ),
}  # fmt: skip


def cache(folder: Path, owners: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """The script `cache --version` with `folder` first on the path, where `owners` have a `cv2`."""
    for owner in owners:
        name, _, version = owner.partition("-")
        about = folder / f"{owner}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Name: {name.replace('_', '-')}\nVersion: {version}\n")
        (about / "top_level.txt").write_text("cv2\n")
    script = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); "
        "from faceguide.__main__ import cache; cache(['--version'])"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_opencv_that_does_not_load_is_one_line(fault: str, tmp_path: Path) -> None:
    code, owners, named = FAULTS[fault]
    installed = importlib.metadata.packages_distributions()["cv2"]
    if fault == "gutted" and set(installed) != {"opencv-contrib-python"}:
        pytest.skip("this environment has another OpenCV, or two")
    (tmp_path / "cv2").mkdir()
    (tmp_path / "cv2" / "__init__.py").write_text(code)
    done = cache(tmp_path, owners)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert all(words in done.stderr for words in named), done.stderr


def test_two_owners_of_an_opencv_that_loads_are_not_named(tmp_path: Path) -> None:
    done = cache(tmp_path, (CONTRIB, PLAIN))
    assert done.returncode == 0
    assert done.stderr == ""


def test_other_faults_of_an_import_are_not_blamed_on_opencv(tmp_path: Path) -> None:
    (tmp_path / "h5py.py").write_text("raise ImportError('no HDF5')")
    done = cache(tmp_path, (CONTRIB, PLAIN))
    assert "ImportError: no HDF5" in done.stderr
    assert "OpenCV" not in done.stderr
