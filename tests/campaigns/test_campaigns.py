"""That the fault campaigns run and judge rightly; `make faults` runs all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.campaigns import downloads, failing_calls, full_disk, kills, soak, two_runs
from tests.campaigns.counts import Campaign, Counts, UnavailableError, table
from tests.campaigns.refused import Tally
from tests.campaigns.stages import Undisturbed

CAMPAIGNS = kills.CAMPAIGNS | failing_calls.CAMPAIGNS | full_disk.CAMPAIGNS | two_runs.CAMPAIGNS


@pytest.mark.parametrize(
    "kind", ["kill", "refused writes", "refused reads", "full disk", "two runs"]
)
def test_each_kind_runs_and_is_survived(kind: str, tmp_path: Path) -> None:
    campaign: Campaign = CAMPAIGNS[f"{kind}: prep guidance"]
    try:
        counts = campaign.run(1, 1, tmp_path)
    except UnavailableError as error:
        pytest.skip(str(error))
    assert counts.passed, counts


def test_a_store_that_answers_badly_is_survived(tmp_path: Path) -> None:
    try:
        counts = downloads.CAMPAIGNS["bad downloads: cache copy"].run(3, 2, tmp_path)
    except UnavailableError as error:
        pytest.skip(str(error))
    assert counts.passed, counts


def test_a_refused_read_is_harmless_only_where_the_result_is_whole() -> None:
    one = Undisturbed.measure("prep guidance")
    tally = Tally(one)

    def judge(reading: bool, damage: bool) -> None:
        one.begin()
        assert one.start().finish() == 0
        if damage:
            next(one.world.work.rglob("guidance-*.h5")).write_bytes(b"half")
        tally.judge("a call", 0, "", where="", reading=reading)

    judge(reading=True, damage=False)
    assert (tally.injected, tally.survived) == (1, 1)
    judge(reading=True, damage=True)
    judge(reading=False, damage=False)
    assert (tally.injected, tally.survived) == (3, 1)


def test_the_table_adds_up_and_one_lost_row_fails() -> None:
    good = Counts(3, 3, seconds=1.6)
    bad = Counts(2, 2, found=1, rows_lost=1)
    assert good.passed
    assert not bad.passed
    assert not Counts(2, 2, rows_lost=1).passed
    assert not Counts(2, 1).passed
    assert not Counts(0, 0).passed
    lines = table({"one": good, "another": bad}).splitlines()
    assert lines[-1].split() == ["all", "5", "5", "1", "1", "0", "0", "2"]
    assert len({len(line) for line in lines}) == 1


def test_a_leak_of_one_per_cent_and_a_lost_handle_are_seen() -> None:
    flat = [
        {
            **{"seconds": i, "resident": 1e9 + i % 3 * 1e6, "held": 2e9},
            **{"files": 9, "batches": i, "steps": i},
        }
        for i in range(40)
    ]
    assert soak.judge(flat).passed
    rising = [{**sample, "resident": 1e9 + sample["seconds"] * 4e5} for sample in flat]
    assert 0.01 < soak.drift(rising) < 0.013
    assert not soak.judge(rising).passed
    assert not soak.judge([*flat[:-1], {**flat[-1], "files": 10}]).passed
    assert not soak.judge(flat[:6]).passed
