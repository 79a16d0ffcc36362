"""A seeded sample of the campaign; all of it: `make faults`."""

from __future__ import annotations

from pathlib import Path

from tests.campaigns.bitrot import CAMPAIGNS, campaign, kinds


def test_every_damage_is_found(tmp_path: Path) -> None:
    counts = campaign(18, 0, tmp_path)
    assert counts.failures == ()
    assert counts.passed
    assert counts.found == 18
    assert len(counts.details) == 18, "each kind has its turn"


def test_what_is_intact_is_not_reported(tmp_path: Path) -> None:
    for kind in kinds(tmp_path):
        assert kind.files
        for path in kind.files:
            assert not kind.check(path), f"{kind.name}: {path.name}"


def test_the_whole_campaign_is_a_thousand() -> None:
    assert {name: one.full for name, one in CAMPAIGNS.items()} == {"bit rot": 1000}
