"""Several caches as one: rows one volume behind another, identities by name."""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cache.builder import RECIPE, build, image_of, write_faces

import faceguide as fg
from faceguide.cache import CacheError, FaceCache
from faceguide.cache.cli import main
from faceguide.cache.manifest import seal
from faceguide.cache.order import Order
from faceguide.cache.pairs.name_rows import find_rows
from faceguide.cache.planning.new_plan import make_plan
from faceguide.cache.planning.spooled_listing import Row
from faceguide.cache.volumes.joined import JoinedVolumes, first_rows
from faceguide.cache.volumes.mixture import mixture_of


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def add(directory: Path, numbers: range, names: list[str], **recipe: object) -> None:
    """A cache of faces alone, one identity after another."""
    rows = [Row(f"{names[i % len(names)]}/{i:05d}.jpg", names[i % len(names)], meta=("new",))
            for i in numbers]  # fmt: skip
    plan = make_plan(directory, lambda: rows, recipe={**RECIPE, **recipe}, meta=("split",))
    for shard in range(plan.shards):
        write_faces(directory, plan, shard)
    seal(directory, "faces")


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("union")
    build(place / "old", rows=40, shard_rows=16)
    add(place / "new", range(100, 125), ["Zoe", "person_03", "Ann"], source={"name": "elsewhere"})
    return [place / "old", place / "new"]


def test_rows_of_a_union_are_those_of_its_volumes(volumes: list[Path]) -> None:
    union = FaceCache.open(volumes)
    old, new = (FaceCache.open(path) for path in volumes)
    assert len(union) == len(old) + len(new) == 65
    for row in range(65):
        ours, theirs = union[row], old[row] if row < 40 else new[row - 40]
        assert ours["key"] == theirs["key"]
        assert ours["split"] == theirs["split"]
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        assert union.identities[ours["label"]] == Path(ours["key"]).parent.name
    assert len(union.identities) == 9
    assert union.identities[: len(old.identities)] == old.identities
    assert union.columns == new.columns, "guidance and occlusion are in one volume only"
    with pytest.raises(CacheError, match=r"new: .*'heatmap'.*`prep guidance`"):
        union.read([0], ["heatmap"])


def test_a_union_is_selected_found_and_streamed_as_one_cache(volumes: list[Path]) -> None:
    union = FaceCache.open(volumes)
    assert (union.select(meta={"split": "new"}) >= 40).all()
    assert len(union.select()) == 36 + 22
    found = union.find(["Ann/00104.jpg", "person_03/00003.jpg"])
    assert union.texts("key", list(found.values())) == list(found)
    pytest.importorskip("torch")
    rows = union.select()
    seen = []
    for batch in fg.Stream(union, rows, columns=("image", "label"), batch_size=8, ragged="exact"):
        keys = union.texts("key", batch["row"].numpy())
        for key, image, label in zip(keys, batch["image"], batch["label"], strict=True):
            np.testing.assert_array_equal(image.numpy(), image_of(key))
            assert union.identities[label] == Path(key).parent.name
        seen += batch["row"].tolist()
    assert sorted(seen) == rows.tolist()
    copy = pickle.loads(pickle.dumps(union))
    assert copy.texts("key", [3, 60]) == union.texts("key", [3, 60])
    assert set(union.groups) == {"faces"}


def test_recipes_must_agree_and_the_message_says_where_they_do_not(
    volumes: list[Path], tmp_path: Path
) -> None:
    add(tmp_path / "other", range(10), ["Ann"], size=24, margin=0.5)
    with pytest.raises(
        CacheError,
        match=r"old and .*other: their faces were made with other settings "
        r"\(margin None and 0.5, size 16 and 24\); rebuild one of them",
    ):
        FaceCache.open([*volumes, tmp_path / "other"])
    with pytest.raises(CacheError, match="no cache given"):
        FaceCache.open([])
    with pytest.raises(CacheError, match="no cache here"):
        FaceCache.open([volumes[0], tmp_path])


def test_a_union_is_named_in_every_way(volumes: list[Path], tmp_path: Path) -> None:
    union = FaceCache.open(volumes)
    assert union.names == ("old", "new")
    assert str(union.directory) == ",".join(map(str, volumes))
    file = tmp_path / "volumes.json"
    result = run("volumes", *volumes, "--out", file, "--json")
    assert result.exit_code == 0, result.output
    about = json.loads(result.stdout)
    assert about == {
        "volumes": ["old", "new"], "rows": 65, "identities": 9, "joined_identities": 1,
        "doubts": {},
    }  # fmt: skip
    for place in (file, str(file), str(union.directory), union.directory):
        again = FaceCache.open(place)
        assert len(again) == 65
        assert again.identities == union.identities
        assert again.groups == union.groups
    # The file may move together with its caches.
    (tmp_path / "moved").mkdir()
    record = json.loads(file.read_text())
    record["volumes"] = [{"name": n, "path": f"../{n}"} for n in ("old", "new")]
    for path in volumes:
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "moved" / "v.json").write_text(json.dumps(record))
    assert len(FaceCache.open(tmp_path / "moved" / "v.json")) == 65


def test_equal_names_may_be_two_identities(volumes: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "volumes.json"
    assert run("volumes", *volumes, "--out", file, "--prefix-identities").exit_code == 0
    cache = FaceCache.open(file)
    assert len(cache.identities) == 7 + 3
    row = cache.find(["person_03/00103.jpg"])["person_03/00103.jpg"]
    assert cache.identities[cache[row]["label"]] == "new:person_03"
    assert cache.groups["faces"] != FaceCache.open(volumes).groups["faces"]
    assert pickle.loads(pickle.dumps(cache)).identities == cache.identities


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "not a list of volumes"),
        ("{", "not JSON"),
        ('{"format": 1, "volumes": []}', "not a list of volumes"),
        ('{"format": 1, "volumes": ["old"]}', "has a name and a path"),
        ('{"format": 1, "volumes": [{"name": "a", "path": "x"}]}', "is gone"),
        ('{"format": 1, "volumes": [{"name": "a", "path": "."}], "seed": 1}', "unknown"),
    ],
)
def test_a_list_that_is_none_is_one_line(content: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "volumes.json"
    file.write_text(content)
    result = run("info", file)
    assert result.exit_code == 1
    assert says in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_cache_counts_once(volumes: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="given twice"):
        FaceCache.open([volumes[0], volumes[0].parent / "new" / ".." / "old"])
    entries = [{"name": n, "path": str(volumes[0])} for n in ("a", "b")]
    (tmp_path / "v.json").write_text(json.dumps({"format": 1, "volumes": entries}))
    with pytest.raises(CacheError, match="twice"):
        FaceCache.open(tmp_path / "v.json")


def test_a_key_of_two_volumes_is_never_guessed(volumes: list[Path], tmp_path: Path) -> None:
    add(tmp_path / "more", range(104, 110), ["Ann", "Bob"])
    union = FaceCache.open([volumes[1], tmp_path / "more"])
    shared, own = "Ann/00104.jpg", "Bob/00105.jpg"
    assert union.find([shared, own]).keys() == {own}
    qualified = union.find([f"new:{shared}", f"more:{shared}"])
    assert union.texts("key", list(qualified.values())) == [shared, shared]
    assert qualified[f"new:{shared}"] < 25 <= qualified[f"more:{shared}"]
    rows = find_rows(union, [shared, own, "more:Ann/00104", "new:Ann/00104", "new:Bob/00105"])
    assert rows == {
        shared: "ambiguous",
        own: union.find([own])[own],
        "more:Ann/00104": qualified[f"more:{shared}"],
        "new:Ann/00104": qualified[f"new:{shared}"],
        "new:Bob/00105": "missing",
    }
    result = run("volumes", volumes[1], tmp_path / "more", "--out", tmp_path / "v.json")
    assert "1 key stands in more than one cache" in result.stderr


def test_commands_take_several_caches(volumes: list[Path], tmp_path: Path) -> None:
    several = ",".join(map(str, volumes))
    about = json.loads(run("info", several, "--json").stdout)
    assert about["rows"] == 65
    assert [about["volumes"][name]["rows"] for name in ("old", "new")] == [40, 25]
    assert "together: 65 rows of 9 identities" in run("info", several).stdout
    assert "0 problems in 65 rows" in run("verify", several).stdout
    failures = list(csv.DictReader(run("failures", several).stdout.splitlines()))
    union = FaceCache.open(volumes)
    for failure in failures:
        name, _, key = failure["key"].partition(":")
        assert union.texts("key", [int(failure["row"])]) == [key]
        assert (int(failure["row"]) >= 40) == (name == "new")
    assert len(failures) == 4 + 3
    result = run("preview", several, "--out", tmp_path / "p.png", "--faces", 3)
    assert result.exit_code == 0, result.output
    assert run("export", "landmarks", several, "--out", tmp_path / "l.txt").exit_code == 0
    assert len((tmp_path / "l.txt").read_text().splitlines()) == 58
    assert run("info", f"{several},{tmp_path}/absent").exit_code == 2


def test_volumes_that_are_not_alike_are_a_problem(volumes: list[Path], tmp_path: Path) -> None:
    add(tmp_path / "other", range(10), ["Ann"], size=24)
    result = run("verify", f"{volumes[0]},{tmp_path / 'other'}")
    assert result.exit_code == 1
    assert "size 16 and 24" in result.stdout


def test_a_column_of_two_shapes_is_refused(volumes: list[Path], tmp_path: Path) -> None:
    add(tmp_path / "other", range(10), ["Ann"],
        columns={"quality": {"dtype": "<f8", "shape": []}})  # fmt: skip
    with pytest.raises(CacheError, match=r"column 'quality' is .*<f4.* and .*<f8"):
        FaceCache.open([volumes[1], tmp_path / "other"])


def test_optional_columns_need_not_be_in_all(volumes: list[Path], tmp_path: Path) -> None:
    """Digests of rows stand in tables of different widths then, and are compared all the same."""
    add(tmp_path / "wide", range(10), ["Ann"],
        columns={"deep": {"dtype": "<f8", "shape": [20]}})  # fmt: skip
    union = FaceCache.open([volumes[1], tmp_path / "wide"])
    assert "quality" not in union.columns
    assert "deep" not in union.columns
    rows = union.select()
    images = union.read(rows, ["image"])["image"]
    for key, image in zip(union.texts("key", rows), images, strict=True):
        np.testing.assert_array_equal(image, image_of(key))


def test_a_volume_that_vanishes_is_one_line(volumes: list[Path], tmp_path: Path) -> None:
    for path in volumes:
        shutil.copytree(path, tmp_path / path.name)
    union = FaceCache.open([tmp_path / "old", tmp_path / "new"])
    images = union.read([1, 45], ["image"])["image"]
    shutil.rmtree(tmp_path / "new")
    # What is mapped stays what it was; what is not is named.
    np.testing.assert_array_equal(union.read([1, 45], ["image"])["image"], images)
    with pytest.raises(CacheError, match=r"new/faces-00000\.h5: cannot be opened"):
        union.read([1, 45], ["pose"])


@pytest.mark.parametrize("store", ["raw", "jpeg"])
def test_a_changed_row_of_a_volume_is_named(store: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(tmp_path / name, rows=30, shard_rows=16, store=store, seed=1)
    path = tmp_path / "two" / "faces-00001.h5"
    entry = FaceCache.open(tmp_path / "two").volumes[0].groups["faces"]["shards"][1]
    with path.open("r+b") as file:  # an image that opening does not look at
        if store == "raw":
            place = entry["offsets"]["image"] + 6 * 768 + 5
        else:
            file.seek(entry["offsets"]["offset/image"] + 6 * 8)
            place = entry["offsets"]["image"] + int.from_bytes(file.read(8), "little") + 9
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 255]))
    union = FaceCache.open([tmp_path / "one", tmp_path / "two"])
    assert len(union.read(range(50), ["image"])["image"]) == 50
    with pytest.raises(CacheError, match=r"two/faces-00001\.h5: image of row 6 differs"):
        union.read(range(60), ["image"])


@given(
    shape=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 9)), min_size=2, max_size=6),
    seed=st.integers(0, 99),
)
def test_rows_are_located_as_by_hand(shape: list[tuple[int, int]], seed: int) -> None:
    joined = object.__new__(JoinedVolumes)
    joined._first_rows = first_rows(shape)
    by_hand = []
    first = 0
    for rows, per in shape:
        by_hand += [(first + row // per, row % per) for row in range(rows)]
        first += -(-rows // per)
    order = np.random.default_rng(seed).permutation(len(by_hand))
    shards, slots = joined.locate(order)
    assert list(zip(shards.tolist(), slots.tolist(), strict=True)) == [by_hand[i] for i in order]


@given(
    sizes=st.lists(st.integers(1, 60), min_size=2, max_size=4),
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 3.0]), min_size=4, max_size=4),
    world=st.integers(1, 4),
)
@settings(max_examples=30)
def test_volumes_come_by_weight_and_their_rows_evenly(
    sizes: list[int], weights: list[float], world: int
) -> None:
    names = [f"v{number}" for number in range(len(sizes))]
    wanted = dict(zip(names, weights, strict=False))
    if not sum(wanted.values()):
        return
    cache: Any = SimpleNamespace(names=names, directory="x", starts=np.cumsum([0, *sizes]))
    rows = np.arange(sum(sizes))
    mixture = mixture_of(cache, rows, wanted)
    assert mixture is not None
    total = sum(wanted.values())
    for count, weight in zip(mixture.counts, wanted.values(), strict=True):
        assert abs(count - len(rows) * weight / total) < 1
    assert sum(mixture.counts) == len(rows)
    epochs, seen = 5, np.zeros(len(rows), int)
    for epoch in range(epochs):
        orders = [
            Order(rows, 3, 7, rank, world, ragged="exact", mixture=mixture) for rank in range(world)
        ]
        taken = np.concatenate([batch for order in orders for batch in order.batches(epoch)])
        owners = np.searchsorted(cache.starts, taken, side="right") - 1
        assert np.bincount(owners, minlength=len(sizes)).tolist() == list(mixture.counts)
        np.add.at(seen, taken, 1)
    for number, (first, size) in enumerate(zip(cache.starts, sizes, strict=False)):
        part = seen[first : first + size]
        assert part.max() - part.min() <= 1
        assert part.sum() == epochs * mixture.counts[number]


def test_a_mixture_resumes_and_another_is_refused(volumes: list[Path]) -> None:
    pytest.importorskip("torch")
    union = FaceCache.open(volumes)
    rows = union.select()

    def stream(new: float, state: dict[str, object] | None = None, world: int = 1) -> fg.Stream:
        return fg.Stream(
            union, rows, batch_size=6 // world, weights={"old": 1, "new": new}, world=world,
            state=state,
        )  # fmt: skip

    whole = stream(3)
    expected = [batch["row"].tolist() for _ in range(2) for batch in whole]
    share = np.mean(np.concatenate(expected) >= 40)
    assert 0.7 < share < 0.8
    broken = stream(3)
    got = [batch["row"].tolist() for _, batch in zip(range(4), broken, strict=False)]
    got += [batch["row"].tolist() for batch in stream(3, broken.state_dict())]
    assert got == expected[: len(whole)]
    with pytest.raises(CacheError, match=r"mixture \[15, 43\] → \[29, 29\]"):
        stream(1, broken.state_dict())
    for weights in ({"old": 1}, {"old": 1, "young": 1}, {"old": -1, "new": 1}):
        with pytest.raises(CacheError, match="weights are"):
            fg.Stream(union, rows, weights=weights)
    with pytest.raises(CacheError, match="for several caches"):
        fg.Stream(FaceCache.open(volumes[0]), rows[:3], weights={"old": 1})
