"""Published test sets as sources of `prep`, by the layouts that `evaluate suite` knows."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result
from tests.prep_command import prep
from tests.preprocess.public_sets.set_builder import lfw, rfw, tinyface, verification_bin

from faceguide.cache.plan import load_plan, read_identities, read_sources
from faceguide.preprocess.sources.image_sources import open_source


def plan(*words: object) -> Result:
    return prep("plan", *words)


def test_sets_are_planned_with_the_identities_of_their_layouts(tmp_path: Path) -> None:
    sets, cache = tmp_path / "sets", tmp_path / "cache"
    paths = lfw(sets / "lfw_home")
    rfw(sets / "rfw", ["Asian", "Indian"])
    tinyface(sets / "tinyface")
    done = plan(sets, "--out", cache, "--source-layout", "auto", "--json")
    assert done.exit_code == 0, done.output
    made = load_plan(cache)
    assert made is not None
    assert made.meta == ("set", "part")
    names = read_identities(cache)
    rows = {
        row.key: (names[row.label], *row.meta)
        for shard in range(made.shards)
        for row in read_sources(cache, made, shard)
    }
    listed = {key for key in rows if key.startswith("lfw_home/")}
    assert listed <= {f"lfw_home/lfw/{path}" for path in paths}
    assert rows["lfw_home/lfw/P00/P00_0001.jpg"] == ("P00", "lfw", "")
    assert rows["rfw/test/data/Asian/m.0a0/m.0a0_0001.jpg"] == ("m.0a0", "rfw", "Asian")
    assert rows["tinyface/Testing_Set/Probe/1_2.jpg"] == ("1", "tinyface", "Probe")
    assert rows["tinyface/Testing_Set/Gallery_Distractor/0000_9.jpg"][1:] == (
        "tinyface",
        "Gallery_Distractor",
    )
    source = open_source(sets, layout="auto")
    key = "rfw/test/data/Asian/m.0a0/m.0a0_0001.jpg"
    assert source.read(key, -1) == (sets / key).read_bytes()


def test_what_is_no_set_is_refused_or_noted(tmp_path: Path) -> None:
    (tmp_path / "photos" / "ann").mkdir(parents=True)
    refused = plan(tmp_path / "photos", "--out", tmp_path / "a", "--source-layout", "auto")
    assert refused.exit_code == 1
    assert "Traceback" not in refused.output
    assert "--source-layout" in refused.output
    sets = tmp_path / "sets"
    tinyface(sets / "tinyface")
    verification_bin(sets / "agedb_30.bin", people=3)
    noted = plan(sets, "--out", tmp_path / "b", "--source-layout", "auto")
    assert noted.exit_code == 0, noted.output
    assert "agedb_30.bin" in noted.output
    for words in ((sets, "--flat"), (sets / "agedb_30.bin",)):
        wrong = plan(*words, "--out", tmp_path / "c", "--source-layout", "auto")
        assert wrong.exit_code == 1
        assert "folders" in wrong.output
