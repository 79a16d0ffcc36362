"""`import faceguide as fg`: cheap, and with every name of the front door in sight."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cache.builder import build

import faceguide as fg
from faceguide.cache import FaceCache

HEAVY = ("torch", "mediapipe", "cv2", "numpy", "h5py")


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_importing_costs_next_to_nothing() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import faceguide; dir(faceguide); "
        "took = time.perf_counter() - start; "
        f"print(took, *(name for name in {HEAVY} if name in sys.modules))"
    )
    # The quickest of a few: other work on the machine is not the import's.
    runs = [python(code).split() for _ in range(5)]
    assert min(float(took) for took, *_ in runs) < 0.1
    assert all(not loaded for _, *loaded in runs)


def test_a_cache_is_opened_without_torch(tmp_path: Path) -> None:
    build(tmp_path / "cache")
    code = (
        f"import sys, faceguide as fg; print(len(fg.open({str(tmp_path / 'cache')!r})), "
        "'torch' in sys.modules)"
    )
    assert python(code) == "100 False"
    assert isinstance(fg.open(tmp_path / "cache"), FaceCache)


def test_every_name_is_there_and_listed() -> None:
    assert set(fg.__all__) == set(dir(fg)) - {"__version__"}
    for name in fg.__all__:
        assert getattr(fg, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = fg.nonsense


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(fg.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = set()
    for node in block.body:
        if isinstance(node, ast.ImportFrom):
            seen |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            seen |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    assert seen == set(fg.__all__)
