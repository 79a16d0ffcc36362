"""The fixed corpus and a seeded sample of the campaign; all of it: `make faults`."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.campaigns.fuzz import CAMPAIGNS, CORPUS, campaign, folder_name
from tests.campaigns.mutations import BYTES, JSON, TEXT, mutated
from tests.campaigns.parsers import PARSERS
from tests.conftest import REPOSITORY

from faceguide.core.files import json_bytes

# What opens a whole cache or a network for each input; the others cost a thousandth of a second.
SLOW = [
    name
    for name in PARSERS
    if "json" in name or name.startswith(("shard", "identities", "gallery"))
]
FAST = [name for name in PARSERS if name not in SLOW]


@pytest.mark.parametrize(("names", "count"), [(FAST, 20), (SLOW, 1)], ids=["fast", "slow"])
def test_nothing_but_results_and_refusals(names: list[str], count: int, tmp_path: Path) -> None:
    counts = campaign(count, 1, tmp_path, names)
    assert counts.failures == ()
    assert counts.passed
    assert counts.injected > count * len(names), "the corpus and the valid inputs come on top"
    assert set(counts.details) == set(names)


def test_the_whole_campaign_is_ten_thousand_each() -> None:
    assert len(CAMPAIGNS) == len(PARSERS)
    assert {one.full for one in CAMPAIGNS.values()} == {10_000}
    assert {path.name for path in CORPUS.iterdir()} <= {folder_name(name) for name in PARSERS}


@pytest.mark.parametrize("mutators", [BYTES, TEXT, JSON])
def test_mutations_change_and_repeat(mutators: tuple) -> None:
    seeds = [json_bytes({"a": [1, 2, {"b": "c"}], "d": 0.5})]
    made = [[mutated(random.Random(number), seeds, mutators) for number in range(50)]] * 2
    assert made[0] == made[1]
    assert len(set(made[0])) > 40


def test_a_parser_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child sees what a parser does wrong: an exception, a crash, a foreign file."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "def wrong(folder, data):\n"
        "    kind = data[0] % 4\n"
        "    if kind == 0: raise KeyError('x')\n"
        "    if kind == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    if kind == 2: (folder.parents[1] / 'foreign').touch()\n"
        "import tests.campaigns.parsers as parsers\n"
        "from tests.campaigns.mutations import BYTES\n"
        "seeds = lambda folder: [bytes([number]) for number in range(4)]\n"
        "parsers.PARSERS['idx'] = parsers.Parser('idx', seeds, wrong, BYTES)\n"
    )
    places = [str(tmp_path), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, places)))
    (tmp_path / "work").mkdir()
    counts = campaign(0, 0, tmp_path / "work", ["idx"])
    assert counts.injected == 4
    assert counts.survived == 1
    assert counts.crashes == 3
    key_error, crash, foreign = sorted(counts.failures)
    assert "input 0: KeyError" in key_error
    assert "input 1: process ended with -9" in crash
    assert f"input 2: writes '{tmp_path / 'foreign'}'" in foreign
