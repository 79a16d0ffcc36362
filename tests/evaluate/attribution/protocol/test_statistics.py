"""Tests between methods and strata, against numbers from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from faceguide.evaluate.attribution.protocol import conditions, statistics


def test_cochran_q_of_a_textbook_table() -> None:
    """Q = (k−1)(k ΣC² − T²) / (kT − ΣR²), by hand on Cochran's own form."""
    table = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]], bool)
    columns, rows = table.sum(0), table.sum(1)
    by_hand = 2 * (3 * (columns**2).sum() - columns.sum() ** 2) / (3 * rows.sum() - (rows**2).sum())
    found = statistics.cochran_q(table)
    assert found["q"] == pytest.approx(by_hand)
    assert found["degrees"] == 2
    assert found["p"] == pytest.approx(np.exp(-by_hand / 2))  # χ² with two degrees


def test_cochran_q_of_two_methods_is_mcnemar() -> None:
    rng = np.random.default_rng(0)
    table = rng.random((80, 2)) < [0.7, 0.5]
    b, c = (table[:, 0] & ~table[:, 1]).sum(), (table[:, 1] & ~table[:, 0]).sum()
    assert statistics.cochran_q(table)["q"] == pytest.approx((b - c) ** 2 / (b + c))
    assert statistics.cochran_q(np.ones((5, 2), bool))["p"] == 1
    assert statistics.cochran_q(np.ones((5, 1), bool)) is None


def test_chi_square_says_that_it_is_unpaired() -> None:
    table = np.random.default_rng(1).random((60, 3)) < 0.4
    found = statistics.chi_square(table)
    expected = chi2_contingency(np.stack([table.sum(0), (~table).sum(0)]), correction=False)
    assert found["chi2"] == pytest.approx(expected.statistic)
    assert "unpaired" in found["label"]
    assert statistics.chi_square(np.ones((5, 2), bool)) is None


def test_compare_keeps_every_pair() -> None:
    rng = np.random.default_rng(2)
    passed = {"a": rng.random(100) < 0.9, "b": rng.random(100) < 0.5, "c": rng.random(100) < 0.5}
    rates = {name: np.where(hit, 0.2, 0.8) for name, hit in passed.items()}
    rates["c"][:50] = np.nan
    people = rng.integers(0, 30, (100, 2))
    found = statistics.compare(passed, rates, people, 200, 0)
    assert found["cochran_q"]["n"] == 100
    first = found["pairwise"][0]
    assert (first["first"], first["second"]) == ("a", "b")
    assert first["difference"] == pytest.approx(passed["a"].mean() - passed["b"].mean())
    assert first["interval"][0] < first["difference"] < first["interval"][1]
    assert first["interval"][0] > 0
    assert first["p_holm"] >= first["p"]
    assert found["pairwise"][1]["wilcoxon_n"] == 50


def test_wilcoxon_of_equal_rates() -> None:
    same = np.array([0.1, 0.2, np.nan])
    assert statistics.wilcoxon(same, same) == {"p": 1.0, "n": 2}


def test_small_strata_have_no_figure() -> None:
    bins = {"label": np.r_[np.zeros(19, int), np.ones(21, int)]}
    passed = {"m": np.arange(40) % 2 == 0}
    records = conditions.strata_table(
        bins, passed, {"m": np.zeros(40, bool)}, {"m": np.full(40, 0.25)}
    )
    assert [(r["bin"], r["n"]) for r in records] == [("two identities", 19), ("one identity", 21)]
    assert records[0]["pass_rate"] is None
    assert records[1]["pass_rate"] == pytest.approx(10 / 21)
    assert records[1]["mean_fr"] == 0.25
