"""What a map knows of its own pair, on responses made for the purpose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from faceguide.evaluate.attribution.protocol import skill

N, CELLS = 24, 49
PEOPLE = np.arange(2 * N).reshape(N, 2)
SAME = np.arange(N) % 2 == 0
OTHERS = skill.unrelated(PEOPLE, SAME)


def made(seed: int = 0) -> NDArray[np.float64]:
    """Responses with a part that all pairs have and a part of each pair."""
    rng = np.random.default_rng(seed)
    return 3 * rng.normal(size=CELLS) + rng.normal(size=(N, CELLS))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_map_that_is_the_same_for_all_pairs_has_no_skill(seed: int) -> None:
    place = np.tile(np.random.default_rng(seed).normal(size=CELLS), (N, 1))
    assert (skill.pair_skill(place, made(seed), OTHERS) == 0).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100))
def test_the_responses_themselves_have_skill_one_in_any_unit(seed: int, unit: float) -> None:
    responses = made(seed)
    assert skill.pair_skill(unit * responses, responses, OTHERS) == pytest.approx(1)
    assert skill.pair_skill(-unit * responses, responses, OTHERS) == pytest.approx(-1)


def test_what_all_pairs_share_gives_no_skill_and_what_is_their_own_does() -> None:
    rng = np.random.default_rng(3)
    common, own = 3 * rng.normal(size=CELLS), rng.normal(size=(N, CELLS))
    by_place = common + rng.normal(size=(N, CELLS))
    assert abs(skill.pair_skill(by_place, common + own, OTHERS).mean()) < 0.1
    assert skill.pair_skill(own, common + own, OTHERS).mean() > 0.5


def test_broken_and_constant_maps_have_no_skill_and_stay() -> None:
    cells = made()
    cells[0], cells[1, 3] = 1.0, np.nan
    found = skill.pair_skill(cells, made(), OTHERS)
    assert np.isfinite(found).all()
    # What is left of a constant map is what the others have.
    assert found[2:].mean() > 0.9


def test_pairs_of_one_identity_are_not_each_others_mean() -> None:
    people = np.array([[0, 1], [1, 2], [3, 4], [5, 6]])
    same = np.zeros(4, bool)
    found = skill.unrelated(people, same)
    assert not found.diagonal().any()
    assert not found[0, 1]
    assert found[0, 2]
    assert found[2, 3]
    same[3] = True
    assert not skill.unrelated(people, same)[2, 3]
    lonely = skill.pair_skill(made()[:1], made()[:1], np.zeros((1, 1), bool))
    assert np.isnan(lonely).all()


def test_a_map_blind_to_the_reference_has_no_contrast() -> None:
    probe = np.repeat(np.arange(N // 2), 2)
    people = np.stack([probe, np.where(SAME, probe, 100 + probe)], 1)
    pairs = skill.contrasts(probe, SAME)
    assert len(pairs[0]) == N // 2
    responses, picture = made(), np.repeat(made(1)[: N // 2], 2, axis=0)
    assert (skill.contrast_skill(picture, responses, people, pairs) == 0).all()
    assert skill.contrast_skill(responses, responses, people, pairs) == pytest.approx(1)


def test_the_ceiling_is_the_agreement_of_halves_of_the_infills() -> None:
    effect = np.repeat(made()[:, :, None], 2, 2)
    found = skill.ceiling(effect, OTHERS)
    assert found["signed"] == pytest.approx(1)
    assert np.isnan(skill.ceiling(effect[:, :, :1], OTHERS)["signed"]).all()
