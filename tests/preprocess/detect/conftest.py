"""MediaPipe's networks, which are dear to load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from faceguide.preprocess.detect.face_mesh import BoxDetector, FaceMesh


@pytest.fixture(scope="module")
def mesh() -> Iterator[FaceMesh]:
    mesh = FaceMesh()
    yield mesh
    mesh.close()


@pytest.fixture(scope="module")
def boxes() -> BoxDetector:
    return BoxDetector()
