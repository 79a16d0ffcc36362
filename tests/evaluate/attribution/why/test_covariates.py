"""What is known of the faces of a pair, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.cache.builder import build

from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import ORIGIN_CODE
from faceguide.core.faces import LUMA
from faceguide.evaluate.attribution.why.covariates import face_facts, pair_covariates


@pytest.mark.parametrize("occlusion", [True, False])
def test_facts_are_the_caches_and_nan_where_it_does_not_know(
    tmp_path: Path, occlusion: bool
) -> None:
    build(tmp_path / "cache", rows=20, occlusion=occlusion)
    cache = FaceCache.open(tmp_path / "cache")
    rows = cache.select()[[5, 0, 3, 5]]
    facts = face_facts(cache, rows)
    stored = cache.read(rows, ["pose", "quality", "image"])
    assert facts["yaw"] == pytest.approx(stored["pose"][:, 0])
    assert facts["pitch"] == pytest.approx(stored["pose"][:, 1])
    assert facts["quality"] == pytest.approx(stored["quality"])
    assert facts["light"] == pytest.approx(stored["image"].mean((1, 2)) @ np.array(LUMA))
    if not occlusion:
        assert np.isnan(facts["occlusion"]).all()
        return
    seen = cache.read(rows, ["visibility", "known"])
    hidden = 1 - seen["visibility"].astype(float).mean((1, 2))
    assert np.array_equal(np.isnan(facts["occlusion"]), ~seen["known"])
    assert facts["occlusion"][seen["known"]] == pytest.approx(hidden[seen["known"]])


def test_what_is_tested_knows_no_left_and_right(tmp_path: Path) -> None:
    build(tmp_path / "cache", rows=20)
    cache = FaceCache.open(tmp_path / "cache")
    probe, reference = cache.select()[:4], cache.select()[4:8]
    found = pair_covariates(cache, probe, reference, np.array([1, 0, 1, 0], bool), np.zeros(4))
    yaw = [cache.read(rows, ["pose"])["pose"][:, 0].astype(float) for rows in (probe, reference)]
    assert (found.columns["probe_yaw"] < 0).any()
    assert found.columns["probe_yaw"] == pytest.approx(yaw[0])
    assert found.tested["probe_yaw"] == pytest.approx(np.abs(yaw[0]))
    assert found.tested["yaw_difference"] == pytest.approx(np.abs(yaw[0] - yaw[1]))
    assert found.kind is not None
    assert found.kind.tolist() == [1, 0, 1, 0]


def test_the_pose_of_the_template_is_not_a_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "cache", rows=20)
    cache = FaceCache.open(tmp_path / "cache")
    rows = cache.select()[:3]
    origin = int(cache.read(rows, ["origin"])["origin"][0])
    monkeypatch.setitem(ORIGIN_CODE, "template", origin)  # the builder's faces are all detected
    facts = face_facts(cache, rows)
    assert np.isnan(facts["yaw"]).all()
    assert np.isnan(facts["pitch"]).all()
    assert np.isfinite(facts["light"]).all()
