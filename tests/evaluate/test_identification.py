from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cache.builder import build_keys, key
from tests.evaluate.builder import small_cache, training_run, weights_file

from faceguide.cache.reader import FaceCache
from faceguide.core.errors import EvaluationError, ListError
from faceguide.evaluate import identification
from faceguide.evaluate.cli import main
from faceguide.evaluate.galleries import from_lists, one_per_identity
from faceguide.evaluate.identification import Search, cmc, search, search_blocks, summarise
from faceguide.evaluate.metrics import strata
from faceguide.evaluate.score.face_reader import FaceReader
from faceguide.evaluate.score.face_store import FaceStore
from faceguide.evaluate.score.scores import Cosine


def blocks_of(scores: np.ndarray, step: int):
    def blocks(block: slice):
        for first in range(0, scores.shape[1], step):
            part = slice(first, min(first + step, scores.shape[1]))
            yield part, scores[block, part]

    return blocks


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))
def test_blocks_find_what_the_whole_matrix_shows(seed, probes, step_gallery, step_probe) -> None:
    rng = np.random.default_rng(seed)
    person = np.sort(rng.integers(0, 6, 9))
    wanted = rng.integers(0, 7, probes)  # 6 is never enrolled
    scores = np.round(rng.normal(size=(probes, 9)), 1).astype(np.float32)  # with ties
    found = search_blocks(blocks_of(scores, step_gallery), person, wanted, step_probe)
    for place in range(probes):
        best = {p: scores[place, person == p].max() for p in set(person.tolist())}
        assert found.top[place] == max(best.values())
        assert best[int(found.top_person[place])] == found.top[place]
        mate = best.pop(int(wanted[place]), None)
        if mate is None:
            assert found.rank[place] == 0
            assert np.isnan(found.mate[place])
        else:
            assert found.mate[place] == mate
            assert found.rank[place] == 1 + sum(other >= mate for other in best.values())


def a_search(rank, mate, top) -> Search:
    return Search(
        np.array(rank), np.array(mate, np.float32), np.array(top, np.float32), np.zeros(len(rank))
    )


def test_rates_by_hand() -> None:
    mated = [(1, 0.9), (1, 0.5), (2, 0.8), (7, 0.1)]
    strangers = np.linspace(0.0, 0.6, 101)  # the tenth highest is 0.546, the eleventh 0.54
    found = a_search(
        [rank for rank, _ in mated] + [0] * 101,
        [mate for _, mate in mated] + [np.nan] * 101,
        [0.9, 0.5, 0.85, 0.7, *strangers],
    )
    record = summarise(found, np.arange(105), replicates=0, seed=0)
    assert record["rank"] == {"1": 0.5, "5": 0.75, "10": 1.0, "20": 1.0}
    assert record["enrolled_probes"] == 4
    assert record["stranger_probes"] == 101
    # Of the two at rank 1, the one with 0.5 is below what 10 of 101 strangers reach.
    assert record["tpir"]["1e-1"] == 0.25
    assert record["tpir"]["1e-2"] is None
    assert record["refused"]["tpir 1e-2"].endswith("found 101")
    np.testing.assert_allclose(cmc(found.rank)[[0, 1, 6]], [0.5, 0.75, 1.0])


@given(st.integers(0, 2**31), st.integers(100, 400))
def test_open_set_rate_accepts_no_more_strangers_than_allowed(seed: int, strangers: int) -> None:
    rng = np.random.default_rng(seed)
    top = np.round(rng.normal(size=strangers), 1)
    mate = np.round(rng.normal(size=50) + 2, 1)
    found = a_search([1] * 50 + [0] * strangers, [*mate, *[np.nan] * strangers], [*mate, *top])
    tpir = summarise(found, np.arange(50 + strangers), replicates=0, seed=0)["tpir"]["1e-1"]
    thresholds = [t for t in [*top, *mate, np.inf] if np.mean(top >= t) <= 0.1]
    assert tpir == max(np.mean(mate >= t) for t in thresholds)


def test_intervals_are_of_persons() -> None:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(30), 20)
    hit = np.repeat(rng.random(30) < 0.7, 20)  # an identity is found always or never
    found = a_search(np.where(hit, 1, 2), np.ones(600), np.ones(600))
    low, high = summarise(found, person, replicates=300, seed=0)["intervals"]["rank 1"]
    assert low < hit.mean() < high
    assert high - low > 0.2  # 600 independent probes would give 0.07


def test_strata_suppress_small_cells() -> None:
    occlusion = np.repeat([0, 2, -1], [30, 19, 25])
    pose = np.tile([0, 1], 37)
    hit = np.arange(74) % 3 > 0
    found = strata.table(occlusion, pose, hit)
    by_name = {cell["occlusion"]: cell for cell in found["occlusion"]}
    assert by_name["0"]["rate"] == pytest.approx(hit[:30].mean())
    assert by_name["0"]["interval"][0] < hit[:30].mean() < by_name["0"]["interval"][1]
    assert by_name["≤30 %"] == {"occlusion": "≤30 %", "n": 19, "rate": None, "interval": None}
    assert by_name["unknown"]["n"] == 25
    assert sum(cell["n"] for cell in found["both"]) == 74
    assert sum(cell["n"] for cell in found["pose"]) == 74


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("identification")
    small_cache(folder / "cache")
    weights_file(folder / "weights.pt")
    training_run(folder / "run")
    return folder


def test_bins_come_from_the_cache(place: Path) -> None:
    cache = FaceCache.open(place / "cache")
    rows = cache.select()
    pose, occlusion = strata.pose_bins(cache, rows), strata.occlusion_bins(cache, rows)
    found = cache.read(rows, ["pose", "visibility", "known"])
    for place_, yaw in enumerate(np.abs(found["pose"][:, 0])):
        assert pose[place_] == sum(yaw >= edge for edge in (15, 30, 45))
    np.testing.assert_array_equal(occlusion == -1, ~found["known"])
    hidden = 1 - found["visibility"].astype(float).mean((1, 2))
    known = found["known"]
    expected = [sum(h > edge for edge in (0.005, 0.1, 0.3)) for h in hidden[known]]
    np.testing.assert_array_equal(occlusion[known], expected)


def test_the_first_image_of_each_person_is_enrolled(place: Path) -> None:
    cache = FaceCache.open(place / "cache")
    task = one_per_identity(cache, cache.select())
    assert sorted(cache.texts("key", task.gallery)) == [
        f"person_{person:02d}/{number:05d}.jpg"
        for person, number in enumerate([7, 1, 2, 3, 4, 5, 6])
    ]
    assert len(task.probe) == 54 - 7
    open_set = one_per_identity(cache, cache.select(), 0.3, seed=1)
    assert len(open_set.gallery) == 5
    assert len(set(open_set.probe_person) - set(open_set.gallery_person)) == 2
    assert len(open_set.gallery) + len(open_set.probe) == 54


def invoke(folder: Path, out: str, *more: str):
    return CliRunner().invoke(
        main,
        [
            *("identification", str(folder / "cache"), "--out", str(folder / out), "--json"),
            *("--bootstrap", "20", "--weights", str(folder / "run"), *more),
        ],
    )


@pytest.mark.parametrize("matcher", ["cosine", "qaconv+occlusion", "visible-embedding"])
def test_the_command_by_rule(place: Path, matcher: str) -> None:
    result = invoke(place, f"rule-{matcher}", "--matcher", matcher)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["gallery"], record["probes"], record["stranger_probes"]) == (7, 47, 0)
    assert record["rank"]["10"] == 1.0  # seven identities
    assert 0 <= record["rank"]["1"] <= record["rank"]["5"] <= 1
    assert sum(cell["n"] for cell in record["strata"]["both"]) == 47


def lists(folder: Path, gallery: list[int], probes: list[int]) -> tuple[str, ...]:
    for name, numbers in (("g.csv", gallery), ("p.csv", probes)):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["key"], *([key(number)] for number in numbers)])
    return ("--gallery", str(folder / "g.csv"), "--probes", str(folder / "p.csv"))


def test_the_command_with_lists_and_strangers(place: Path) -> None:
    options = lists(place, [1, 2, 3], [8, 9, 11, 22, 20])  # 20 has no face, 11 is identity 4
    result = invoke(place, "lists", *options)
    assert result.exit_code == 3
    record = json.loads(result.stdout)
    assert (record["gallery"], record["probes"], record["stranger_probes"]) == (3, 4, 1)
    assert record["left_out"]["reasons"] == {"no_face": 1}
    assert "1 of 8 images left out" in result.stderr


def test_list_faults(place: Path, tmp_path: Path) -> None:
    cache = FaceCache.open(place / "cache")
    lists(tmp_path, [1, 2], [2, 3])
    with pytest.raises(EvaluationError, match="1 probes are in the gallery too"):
        from_lists(cache, tmp_path / "g.csv", tmp_path / "p.csv")
    lists(tmp_path, [1], [10])
    with pytest.raises(EvaluationError, match="1 gallery images and 0 probes"):
        from_lists(cache, tmp_path / "g.csv", tmp_path / "p.csv")
    (tmp_path / "p.csv").write_text("path\nx\n")
    with pytest.raises(ListError, match="expected a header with key"):
        from_lists(cache, tmp_path / "g.csv", tmp_path / "p.csv")
    result = invoke(place, "half", "--gallery", str(tmp_path / "g.csv"))
    assert result.exit_code == 2
    assert "--gallery and --probes belong together" in result.stderr


def rows_of(folder: Path, gallery: str, probes: str) -> tuple[Path, Path]:
    """Two lists as they stand."""
    for name, text in (("g.csv", gallery), ("p.csv", probes)):
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "g.csv", folder / "p.csv"


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> FaceCache:
    keys = [f"{n}.jpg" for n in range(1, 10)] + ["copy_3.jpg"]
    return build_keys(tmp_path_factory.mktemp("unlabelled") / "cache", keys, lambda key: "")


def test_lists_without_header_and_with_other_separators(
    unlabelled: FaceCache, tmp_path: Path
) -> None:
    head = "key;identity\n1.jpg;Ann \n2.jpg; Bob\n"
    task = from_lists(unlabelled, *rows_of(tmp_path, head, "4.jpg,Ann\n5.jpg,Bob\n6.jpg,Eve\n"))
    assert unlabelled.texts("key", task.probe) == ["4.jpg", "5.jpg", "6.jpg"]
    assert task.probe_person.tolist() == [0, 1, 2]  # blanks around a name are no part of it
    assert task.gallery_person.tolist() == [0, 1]
    assert (task.left_out, task.doubts.counts()) == ([], {})
    labelled = rows_of(tmp_path, "1\n2\n", "4\n")
    with pytest.raises(EvaluationError, match=r"1.* no identity"):
        from_lists(unlabelled, *labelled)


def test_identities_that_are_none_two_or_spelt_in_two_ways(
    unlabelled: FaceCache, tmp_path: Path
) -> None:
    gallery = "key,identity\n1.jpg,Zoë\n2.jpg,Bob\n3.jpg,Eve\n4.jpg,\n"
    probes = "key,identity\n5.jpg,Zoe\u0308\n6.jpg,bob\ncopy_3.jpg,Ann\n7.jpg,nan\n8.jpg,-1\n"
    task = from_lists(unlabelled, *rows_of(tmp_path, gallery, probes))
    assert unlabelled.texts("key", task.gallery) == ["1.jpg", "2.jpg"]
    assert unlabelled.texts("key", task.probe) == ["5.jpg", "6.jpg"]
    assert task.probe_person[0] == task.gallery_person[0]  # two Unicode forms of one name
    reasons = sorted(entry.reason for entry in task.left_out)
    assert reasons == [
        "3.jpg: two identities",
        "4.jpg: no identity",
        "7.jpg: no identity",
        "8.jpg: no identity",
        "copy_3.jpg: two identities",  # equal pixels
    ]
    assert task.doubts.counts() == {"spellings": 1, "two_identities": 2}


def test_repeated_probes_count_once(unlabelled: FaceCache, tmp_path: Path) -> None:
    probes = "key,identity\n3.jpg,Ann\n4.jpg,Ann\n3.jpg,Ann\n./3.jpg,Ann\ncopy_3.jpg,Ann\n"
    task = from_lists(unlabelled, *rows_of(tmp_path, "key,identity\n1.jpg,Ann\n", probes))
    assert unlabelled.texts("key", task.probe) == ["3.jpg", "4.jpg", "copy_3.jpg"]
    assert [entry.reason for entry in task.left_out] == ["3.jpg: repeated", "./3.jpg: repeated"]
    assert task.doubts.counts() == {"repeated_images": 3}


def test_a_search_in_which_nobody_is_enrolled_ends_with_3(place: Path, tmp_path: Path) -> None:
    gallery, probes = rows_of(
        tmp_path,
        f"key,identity\n{key(1)},person_01\n{key(2)},person_02\n",
        f"key,identity\n{key(8)},1\n{key(9)},2\n",
    )
    result = invoke(place, "nobody", "--gallery", str(gallery), "--probes", str(probes))
    assert result.exit_code == 3
    record = json.loads(result.stdout)
    assert record["doubts"] == {"not_enrolled": 1}
    assert record["rank"]["1"] is None
    assert "No probe's identity is enrolled" in result.stderr
    sound = lists(tmp_path, [1, 2, 3], [8, 9])
    assert json.loads(invoke(place, "sound", *sound).stdout)["doubts"] == {}


def random_store(folder: Path, count: int, size: int) -> FaceStore:
    """`count` images, four of each identity, near their identity's direction."""
    store = FaceStore.open(folder, {"random": count})
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(count // 4, size)).astype(np.float32)
    for first in range(0, count, 1024):
        rows = np.arange(first, min(first + 1024, count))
        noise = rng.normal(size=(len(rows), size)).astype(np.float32)
        vectors = centres[rows // 4] + 1.2 * noise
        norm = np.linalg.norm(vectors, axis=1)
        store.add("embedding", rows, {"embedding": vectors / norm[:, None], "norm": norm})
    return store


def test_search_equals_the_whole_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = random_store(tmp_path, 400, 16)
    gallery, probe = np.arange(0, 400, 2), np.arange(1, 400, 2)
    reader = FaceReader(store)
    whole = search(reader, Cosine(), gallery, gallery // 4, probe, probe // 4)
    vectors = store.read("embedding", np.arange(400))
    scores = vectors[probe] @ vectors[gallery].T
    best = np.stack([scores[:, gallery // 4 == p].max(1) for p in range(100)], 1)
    own = best[np.arange(200), probe // 4]
    np.testing.assert_array_equal(whole.rank, (best >= own[:, None] - 1e-7).sum(1))
    monkeypatch.setattr(identification, "_BLOCK_BYTES", 7 * 4 * 100)
    blocked = search(reader, Cosine(), gallery, gallery // 4, probe, probe // 4)
    np.testing.assert_array_equal(whole.rank, blocked.rank)


def test_ten_thousand_by_ten_thousand_within_two_gibibytes(tmp_path: Path) -> None:
    random_store(tmp_path, 20_000, 512)
    script = r"""
import re, sys
from pathlib import Path
import numpy as np
from faceguide.evaluate.identification import search, summarise
from faceguide.evaluate.score.face_reader import FaceReader
from faceguide.evaluate.score.scores import Cosine
from faceguide.evaluate.score.face_store import FaceStore
reader = FaceReader(FaceStore(next(Path(sys.argv[1]).glob("embeddings-*"))))
gallery, probe = np.arange(0, 20_000, 2), np.arange(1, 20_000, 2)
found = search(reader, Cosine(), gallery, gallery // 4, probe, probe // 4)
rate = summarise(found, probe // 4, replicates=100, seed=0)["rank"]["1"]
# Since it was started; getrusage counts what the process was forked from, too.
print(rate, re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
"""
    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    rate, kibibytes = map(float, result.stdout.split())
    assert rate > 0.99
    assert kibibytes < 2 * 1024**2
