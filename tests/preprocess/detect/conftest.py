"""Finders, whose networks are dear to load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from faceguide.preprocess.detect.finders.finder import Finder
from faceguide.preprocess.detect.finders.mediapipe_package import bundled_models, fault
from faceguide.preprocess.detect.finders.open_finder import FinderName, open_finder

NAMES: tuple[FinderName, ...] = ("face-mesh", "landmarker", "opencv")


def _opened(name: FinderName, model: Path) -> Iterator[Finder]:
    if name == "face-mesh" and not bundled_models():
        pytest.skip("no mediapipe with bundled models: pip install mediapipe==0.10.21")
    if name == "landmarker" and fault():
        pytest.skip(fault())
    finder = open_finder(name, None if name == "face-mesh" else model)
    yield finder
    finder.close()


@pytest.fixture(scope="session")
def task(shared: Path) -> Path:
    """MediaPipe's face_landmarker.task."""
    return shared / "data" / "mediapipe" / "face_landmarker.task"


@pytest.fixture(scope="module")
def face_mesh(task: Path) -> Iterator[Finder]:
    yield from _opened("face-mesh", task)


@pytest.fixture(scope="module", params=NAMES)
def finder(request: pytest.FixtureRequest, task: Path) -> Iterator[Finder]:
    yield from _opened(request.param, task)
