"""Does an outcome depend on what pairs are like? Effects that are put in are found, others not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr

from faceguide.evaluate.attribution.why.covariates import Covariates
from faceguide.evaluate.attribution.why.dependence import Outcome, Question, dependences
from faceguide.evaluate.attribution.why.findings import (
    dependence_table,
    findings,
    sentences,
    untested_table,
)

PAIRS = 80


def question(
    outcomes: dict[str, NDArray[np.float64]],
    tested: dict[str, NDArray[np.float64]],
    same: NDArray[np.bool_] | None = None,
) -> Question:
    kind = None if same is None else same.astype(np.int64)
    listed = [Outcome("m", name, values) for name, values in outcomes.items()]
    return Question(listed, Covariates({}, tested, kind))


def people_of(rng: np.random.Generator, same: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Pairs of 60 identities, each in several pairs."""
    first = rng.integers(0, 60, len(same))
    second = np.where(same, first, (first + rng.integers(1, 60, len(same))) % 60)
    return np.stack([first, second], 1)


def test_eighty_pairs_show_why_maps_are_uniform() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(PAIRS) % 2 == 0
    yaw, light = rng.gamma(2, 8, PAIRS), rng.normal(120, 30, PAIRS)
    uniform = rng.random(PAIRS) < 1 / (1 + np.exp(-(yaw - 20) / 5))
    skill = -0.02 * yaw + 0.3 * same + rng.normal(0, 0.2, PAIRS)
    asked = question(
        {"uniform": uniform.astype(float), "skill": skill},
        {"label": same.astype(float), "yaw_difference": yaw, "probe_light": light},
        same,
    )
    records = dependences(asked, people_of(rng, same), 500, 0)
    assert len(records) == 6
    held = {(one["outcome"], one["covariate"]): one for one in findings(records)}
    assert set(held) == {
        ("uniform", "yaw_difference"),
        ("skill", "yaw_difference"),
        ("skill", "label"),
    }
    found = held["uniform", "yaw_difference"]
    low, high = found["interval"]
    assert 0 < low < found["effect"] < high < 1
    assert found["p"] <= found["p_bh"] < 0.05
    no, yes = found["medians"]
    assert no < 16 < yes
    assert held["skill", "yaw_difference"]["effect"] < 0
    text = " ".join(sentences(records))
    assert "m: more maps are uniform where yaw difference is larger" in text
    assert "skill is higher in genuine pairs" in text
    assert [row[2] for row in dependence_table(records)[1]].count("yaw difference") == 2


def test_the_kind_of_a_pair_is_not_taken_for_what_goes_with_it() -> None:
    """Impostor pairs are uniform more often and darker; darkness does nothing."""
    rng = np.random.default_rng(1)
    same = rng.random(400) < 0.5
    light = rng.normal(np.where(same, 160, 80), 20)
    uniform = rng.random(400) < np.where(same, 0.1, 0.7)
    assert spearmanr(uniform, light).pvalue < 1e-6
    people = np.repeat(np.arange(400)[:, None], 2, 1)
    asked = question({"uniform": uniform.astype(float)}, {"probe_light": light}, same)
    (found,) = dependences(asked, people, 300, 0)
    assert found["p"] > 0.05
    assert abs(found["effect"]) < 0.15


def test_without_kinds_the_effect_is_spearmans() -> None:
    rng = np.random.default_rng(2)
    values, other = rng.normal(size=(2, 50))
    other = np.round(other + values)  # with ties
    people = np.repeat(np.arange(50)[:, None], 2, 1)
    (found,) = dependences(question({"skill": values}, {"score": other}), people, 400, 0)
    expected = spearmanr(values, other)
    assert found["effect"] == pytest.approx(expected.statistic)
    # Each pair has identities of its own: the textbook's test holds, too.
    assert 1e-3 < found["p"] / expected.pvalue < 1e3
    assert found["interval"][0] > 0


def test_identities_with_many_alike_pairs_are_no_evidence() -> None:
    """Six identities of twenty equal pairs each; a test of pairs would be certain."""
    each = np.repeat(np.arange(6), 20)
    x, y = (np.array(values, float)[each] for values in ((1, 2, 3, 4, 5, 6), (1, 4, 2, 3, 6, 5)))
    assert spearmanr(x, y).pvalue < 1e-6
    asked = question({"skill": y}, {"score": x})
    (found,) = dependences(asked, np.stack([each, each], 1), 500, 0)
    assert found["p"] > 0.01
    assert found["interval"][1] - found["interval"][0] > 0.4


def test_nothing_is_left_out_without_a_reason() -> None:
    rng = np.random.default_rng(3)
    few, none = np.zeros(PAIRS), np.zeros(PAIRS)
    few[:3] = 1
    gaps = np.where(np.arange(PAIRS) < 10, rng.random(PAIRS), np.nan)
    outcomes = {"uniform": none, "told": few, "skill": rng.random(PAIRS)}
    tested = {
        "quality": np.full(PAIRS, np.nan),
        "score": gaps,
        "light": np.ones(PAIRS),
        "yaw": rng.random(PAIRS),
    }
    people = np.repeat(np.arange(PAIRS)[:, None], 2, 1)
    records = dependences(question(outcomes, tested), people, 50, 0)
    assert len(records) == 12
    reasons = {(one["outcome"], one["covariate"]): one["reason"] for one in records}
    assert reasons["uniform", "yaw"] == "0 of 80 are: 5 of either kind are needed"
    assert reasons["told", "yaw"] == "3 of 80 are: 5 of either kind are needed"
    assert reasons["skill", "quality"] == "the cache does not know it"
    assert reasons["skill", "score"] == "10 pairs have both values, 20 are needed"
    assert reasons["skill", "light"] == "all pairs of a kind are alike"
    assert reasons["skill", "yaw"] is None
    assert all((one["p"] is None) == (one["reason"] is not None) for one in records)
    assert "quality" in " ".join(row[3] for row in untested_table(records)[1])
    bare = dependences(question(outcomes, tested), people, 0, 0)
    assert bare[-1]["effect"] == records[-1]["effect"]
    assert bare[-1]["reason"] == "no test without --bootstrap"
    assert "nothing could be tested" in sentences(bare)[0]


@given(st.integers(0, 10_000), st.floats(0.1, 50), st.booleans())
@settings(max_examples=30, deadline=None)
def test_ranks_ignore_the_scale_and_follow_the_sign(seed: int, scale: float, binary: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 60))
    y = (y + x > 0).astype(float) if binary else y + x
    same = rng.random(60) < 0.5
    people = people_of(rng, same)

    def effect(values: NDArray[np.float64]) -> float:
        (found,) = dependences(question({"skill": y}, {"score": values}, same), people, 0, 0)
        return float(found["effect"])

    plain = effect(x)
    assert -1 <= plain <= 1
    assert effect(np.exp(x / 4) * scale) == pytest.approx(plain)
    assert effect(-scale * x) == pytest.approx(-plain)


def test_where_nothing_depends_p_is_rarely_small() -> None:
    """Lists of 80 pairs of 60 identities, whose maps and covariates are both the identity's."""
    small, lists = 0, 100
    for seed in range(lists):
        rng = np.random.default_rng(seed)
        same = rng.random(PAIRS) < 0.5
        people = people_of(rng, same)
        own = rng.normal(size=(2, 60))[:, people[:, 0]] + 0.7 * rng.normal(size=(2, PAIRS))
        uniform = own[0] + 0.8 * same > 0.9
        asked = question({"uniform": uniform.astype(float)}, {"score": own[1]}, same)
        (found,) = dependences(asked, people, 200, 0)
        small += found["p"] is not None and found["p"] < 0.05
    assert small <= 0.1 * lists
