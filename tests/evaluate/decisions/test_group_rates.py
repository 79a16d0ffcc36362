"""Errors by group: equal to what is counted by hand, and intervals that resample identities."""

from __future__ import annotations

import numpy as np
import pytest

from faceguide.evaluate.decisions.group_rates import group_rates
from faceguide.evaluate.decisions.pair_groups import BETWEEN, UNKNOWN, PairGroups


def listed(code: np.ndarray, wrong_at: dict[tuple[int, bool], int], seed: int = 0):
    """Scores of 0.9 and 0.1 around a threshold of 0.5, the first so many of each kind wrong."""
    same = np.arange(len(code)) % 2 == 0
    accepted = same.copy()
    for (group, kind), count in wrong_at.items():
        places = np.flatnonzero((code == group) & (same == kind))[:count]
        accepted[places] = ~accepted[places]
    rng = np.random.default_rng(seed)
    one = rng.integers(0, 200, len(code))
    other = np.where(same, one, (one + rng.integers(1, 200, len(code))) % 200)
    return np.where(accepted, 0.9, 0.1), same, np.stack([one, other], 1)


def test_rates_are_those_counted_by_hand() -> None:
    code = np.repeat([0, 1, BETWEEN, UNKNOWN], [200, 100, 50, 30])
    score, same, people = listed(
        code, {(0, True): 10, (0, False): 3, (1, True): 20, (BETWEEN, False): 1}
    )
    groups = PairGroups(("a", "b", "empty"), code)
    found = group_rates(score, same, people, groups, 0.5, 200, 0)
    first, second = found["groups"]
    assert (first["group"], second["group"]) == ("a", "b")
    assert (first["fnmr"]["n"], first["fnmr"]["errors"], first["fnmr"]["rate"]) == (100, 10, 0.1)
    assert (first["fmr"]["n"], first["fmr"]["errors"], first["fmr"]["rate"]) == (100, 3, 0.03)
    assert (second["fnmr"]["rate"], second["fmr"]["rate"]) == (0.4, 0.0)
    between, unknown = found["rest"]
    assert (between["group"], between["fmr"]["rate"]) == ("between groups", 1 / 25)
    assert (unknown["group"], unknown["fmr"]["n"], unknown["fmr"]["rate"]) == ("unknown", 15, None)
    assert found["all"]["fnmr"]["errors"] == 30
    assert found["all"]["fmr"]["errors"] == 4
    for group in (first, second):
        for kind in ("fmr", "fnmr"):
            low, high = group[kind]["interval"]
            assert low <= group[kind]["rate"] <= high
            assert low < high
    # No false match among b: the exact bound of as many trials as identities.
    n = second["fmr"]["identities"]
    assert second["fmr"]["interval"] == [0.0, pytest.approx(1 - 0.025 ** (1 / n))]
    assert found["ratios"]["fmr"] == {
        "highest": "a", "lowest": "b", "ratio": None, "interval": None
    }  # fmt: skip
    ratio = found["ratios"]["fnmr"]
    assert (ratio["highest"], ratio["lowest"], ratio["ratio"]) == ("b", "a", pytest.approx(4))
    assert ratio["interval"][0] < 4 < ratio["interval"][1]
    tests = {test["kind"]: test for test in found["tests"]}
    assert tests["fnmr"]["difference"] == pytest.approx(-0.3)
    assert tests["fnmr"]["p"] == tests["fnmr"]["p_holm"] < 1e-3
    assert tests["fmr"]["p"] is None  # three errors tell nothing


def test_equal_groups_are_seldom_told_apart_and_holm_counts_the_tests() -> None:
    rng = np.random.default_rng(1)
    code = rng.integers(0, 3, 3000)
    same = rng.random(3000) < 0.5
    score = np.where(rng.random(3000) < 0.1, ~same, same).astype(float)
    one = rng.integers(0, 300, 3000)
    people = np.stack([one, np.where(same, one, (one + 1) % 300)], 1)
    groups = PairGroups(("a", "b", "c"), code)
    tests = group_rates(score, same, people, groups, 0.5, 300, 0)["tests"]
    assert len(tests) == 6
    assert min(test["p_holm"] for test in tests) > 0.05
    smallest = min(tests, key=lambda test: test["p"])
    assert smallest["p_holm"] == pytest.approx(min(1, 6 * smallest["p"]))
