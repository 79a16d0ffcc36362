"""FaceCache: what is read is what was written."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from tests.cache.builder import build, image_of, number
from tests.conftest import TORCH

import faceguide as fg
from faceguide.cache import CacheError, FaceCache
from faceguide.cache.manifest import seal
from faceguide.cache.plan import read_sources
from faceguide.cache.planning.new_plan import make_plan
from faceguide.cache.planning.spooled_listing import Row
from faceguide.cache.schema import Column, columns
from faceguide.cache.shard import write_shard


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reader") / "cache"
    build(path)
    return path


def test_a_row_is_what_was_written(directory: Path) -> None:
    cache = FaceCache.open(directory)
    assert len(cache) == 100
    for sample in cache:
        if sample["status"] == 0:
            assert np.array_equal(sample["image"], image_of(sample["key"]))
        assert cache.identities[sample["label"]] == Path(sample["key"]).parent.name
        assert sample["split"] == f"s{number(sample['key']) % 3}"
    assert {"heatmap", "regions", "visibility", "known"} <= set(cache.columns)


def test_reading_many_rows_equals_reading_each(directory: Path) -> None:
    cache = FaceCache.open(directory)
    rows = np.random.default_rng(0).permutation(len(cache))
    many = cache.read(rows, ["image", "landmarks", "visibility", "label"])
    for position, row in enumerate(rows):
        one = cache[int(row)]
        for name, values in many.items():
            assert np.array_equal(values[position], one[name], equal_nan=name == "landmarks")


def test_rows_are_chosen_like_items_of_a_list(directory: Path) -> None:
    cache = FaceCache.open(directory)
    names = [sample["key"] for sample in cache]
    keys = [sample["key"] for sample in cache[[3, 8, -1]]]
    assert keys == [names[3], names[8], names[-1]]
    assert cache[-1]["row"] == cache[np.int64(99)]["row"] == 99
    assert [sample["row"] for sample in cache[10:2:-3]] == [10, 7, 4]
    assert [sample["row"] for sample in cache[cache.select()[:2]]] == cache.select()[:2].tolist()
    chosen = np.arange(100) % 40 == 1
    assert [sample["row"] for sample in cache[chosen]] == [1, 41, 81]
    assert cache[[]] == cache[5:5] == []
    many, one = cache[[8, 3]][1], cache[3]
    assert many.keys() == one.keys()
    for name, value in one.items():
        assert np.array_equal(many[name], value, equal_nan=name in ("landmarks", "pose")), name
    for wrong in (100, [0, -101], "key", [1.5], chosen[:50]):
        with pytest.raises(IndexError):
            cache[wrong]


def test_filters(directory: Path) -> None:
    cache = FaceCache.open(directory)
    good = cache.select()
    assert len(good) == 90
    assert len(cache.select(status="no_face")) == 10
    assert len(cache.select(status=None)) == 100
    train = cache.select(meta={"split": "s1"})
    assert all(number(key) % 3 == 1 for key in cache.texts("key", train))
    known = set(cache.select(known_occlusion=True).tolist())
    unknown = set(cache.select(known_occlusion=False).tolist())
    assert known | unknown == set(good.tolist())
    assert not known & unknown
    assert len(cache.select(origin=["detected", "retried"])) == 90
    assert len(cache.select(status=None, origin="none")) == 10


def test_unknown_names_say_what_there_is(directory: Path) -> None:
    cache = FaceCache.open(directory)
    with pytest.raises(CacheError, match=r"'fine'.*ok, no_face"):
        cache.select(status="fine")
    with pytest.raises(CacheError, match=r"'age'.*split"):
        cache.select(meta={"age": "3"})
    with pytest.raises(CacheError, match="no column 'depth'"):
        cache.read([0], ["depth"])
    with pytest.raises(IndexError, match=r"100.*0 … 99"):
        cache.read([5, 100], ["image"])
    with pytest.raises(IndexError):
        cache.read([-1], ["image"])


def test_a_missing_group_names_the_command_that_makes_it(tmp_path: Path) -> None:
    build(tmp_path / "cache", rows=20, occlusion=False)
    cache = FaceCache.open(tmp_path / "cache")
    with pytest.raises(CacheError, match=r"'visibility'.*`prep masks`"):
        cache.read([0], ["visibility"])


def test_find_gives_rows_of_keys(directory: Path) -> None:
    cache = FaceCache.open(directory)
    keys = [f"person_{i % 7:02d}/{i:05d}.jpg" for i in (3, 77, 99)]
    found = cache.find([*keys, "nobody.jpg"])
    assert cache.texts("key", [found[key] for key in keys]) == keys
    assert "nobody.jpg" not in found


def test_jpeg_storage_keeps_the_picture(tmp_path: Path) -> None:
    build(tmp_path / "cache", store="jpeg")
    cache = FaceCache.open(tmp_path / "cache")
    for row in cache.select().tolist():
        sample = cache[row]
        error = np.abs(sample["image"].astype(int) - image_of(sample["key"]).astype(int))
        assert error.mean() < 4
    failed = cache.select(status="no_face")
    assert not cache.read(failed, ["image"])["image"].any()


def test_a_truncated_shard_is_an_error_not_a_crash(tmp_path: Path) -> None:
    build(tmp_path / "cache")
    path = tmp_path / "cache" / "faces-00001.h5"
    os.truncate(path, path.stat().st_size - 5000)
    cache = FaceCache.open(tmp_path / "cache")
    with pytest.raises(CacheError, match=r"faces-00001\.h5: \d+ bytes, the manifest says"):
        cache.read([0], ["image"])


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 8
    path.write_bytes(data)


@pytest.mark.parametrize("store", ["raw", "jpeg"])
@pytest.mark.parametrize(
    "name", ["image", "landmarks", "heatmap", "regions", "visibility", "label", "known"]
)
def test_a_changed_byte_is_found_by_what_reads_it(tmp_path: Path, store: str, name: str) -> None:
    build(tmp_path / "cache", store=store)
    volume = FaceCache.open(tmp_path / "cache").volumes[0]
    group = volume.group_of[name]
    offset = volume.groups[group]["shards"][1]["offsets"][name]
    # Row 2 of 32: rows 0, 10 and 21 are looked at when the shard is opened.
    place = 800 if store == "jpeg" and name == "image" else 2 * volume.specs[name].row_bytes + 1
    flip(tmp_path / "cache" / f"{group}-00001.h5", offset + place)
    rows = np.arange(100)
    others = [column for column in volume.specs if column not in (name, "digest")]
    with pytest.raises(CacheError, match=rf"{group}-00001\.h5: "):
        FaceCache.open(tmp_path / "cache").read(rows, [name])
    cache = FaceCache.open(tmp_path / "cache")
    if TORCH:
        with pytest.raises(CacheError, match=rf"{group}-00001\.h5: "):
            list(fg.Stream(cache, rows, columns=(name,), batch_size=25))
    if volume.specs[name].large:
        cache = FaceCache.open(tmp_path / "cache")
        cache.read(rows, others)
        if store == "raw":
            cache.read(rows, [name], check=False)


def test_changed_texts_are_found(tmp_path: Path) -> None:
    build(tmp_path / "cache")
    volume = FaceCache.open(tmp_path / "cache").volumes[0]
    for name in ("key", "meta/split", "offset/key", "offset/meta/split"):
        shutil.copytree(tmp_path / "cache", tmp_path / name.replace("/", "-"))
        path = tmp_path / name.replace("/", "-")
        place = volume.groups["faces"]["shards"][1]["offsets"][name] + 17
        flip(path / "faces-00001.h5", place)
        cache = FaceCache.open(path)
        assert cache.texts("key", [0, 31])
        with pytest.raises(CacheError, match=r"faces-00001\.h5: .*(digest|offset table)"):
            cache.texts(name.removeprefix("offset/"), [0, 40])


def test_texts_of_any_bytes_come_back(tmp_path: Path) -> None:
    names = ["a/\udcff.jpg", "ü/日本.jpg", "b\n.jpg", "long" * 500]
    rows = [Row(name, "A", meta=("", "x" * number)) for number, name in enumerate(names)]
    recipe = {"size": 8, "store": "jpeg"}
    meta = ("empty", "some")
    plan = make_plan(tmp_path, lambda: rows, recipe=recipe, meta=meta, shard_rows=4)
    planned = read_sources(tmp_path, plan, 0)
    with write_shard(
        tmp_path, "faces", 0, recipe, rows=4,
        texts={"key": [row.key for row in planned],
               "meta/empty": [row.meta[0] for row in planned],
               "meta/some": [row.meta[1] for row in planned]},
        encoded={"image": [b""] * 4},
        report={"status": {"no_face": 4}, "origin": {"none": 4}, "failures": []},
    ) as writer:  # fmt: skip
        for spec in columns("faces", recipe):
            if spec.name not in ("image", "digest"):
                writer.write(spec.name, 0, np.zeros((4, *spec.shape), spec.dtype))
    seal(tmp_path, "faces")
    cache = FaceCache.open(tmp_path)
    assert sorted(cache.texts("key", range(4))) == sorted(names)
    assert cache.texts("meta/empty", range(4)) == [""] * 4
    assert {cache[row]["key"]: cache[row]["some"] for row in range(4)} == {
        name: "x" * number for number, name in enumerate(names)
    }
    assert not cache.read(range(4), ["image"])["image"].any()
    with pytest.raises(CacheError, match="no texts 'meta/other'"):
        cache.texts("meta/other", [0])


def test_optional_columns_need_no_other_schema(tmp_path: Path) -> None:
    second = Column("second", np.dtype("|u1"), (8, 8, 3), encoded=True)
    presence = Column("presence", np.dtype("<f2"), (478,))
    age = Column("age", np.dtype("<i2"))
    recipe = {
        "size": 8, "columns": {c.name: c.described() for c in (second, presence, age)},
    }  # fmt: skip
    plan = make_plan(tmp_path, lambda: [Row(f"{i}.jpg") for i in range(5)], recipe=recipe)
    picture = np.full((8, 8, 3), 90, np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    with write_shard(
        tmp_path, "faces", 0, recipe, rows=5,
        texts={"key": [row.key for row in read_sources(tmp_path, plan, 0)]},
        encoded={"second": [jpeg, b"", jpeg, jpeg, jpeg]},
        report={"status": {"ok": 5}, "origin": {"detected": 5}, "failures": []},
    ) as writer:  # fmt: skip
        for spec in columns("faces", recipe):
            if not spec.encoded and spec.name != "digest":
                writer.write(spec.name, 0, np.ones((5, *spec.shape), spec.dtype))
    assert [column["name"] for column in seal(tmp_path, "faces")["columns"]] == [
        "key", "image", "landmarks", "presence", "second", "transform", "source", "pose",
        "source_size", "label", "faces", "status", "origin", "age", "digest",
    ]  # fmt: skip
    cache = FaceCache.open(tmp_path)
    assert {"second", "presence", "age"} < set(cache.columns)
    assert "quality" not in cache.columns
    values = cache.read(range(5), ["second", "presence", "age"])
    assert values["second"].mean((1, 2, 3)).tolist() == [90, 0, 90, 90, 90]
    assert values["presence"].dtype == np.float16
    assert values["age"].tolist() == [1] * 5
    pytest.importorskip("torch")
    batch = next(iter(fg.Stream(cache, range(5), columns=("second", "age"), batch_size=5)))
    assert batch["second"].shape == (5, 8, 8, 3)


@pytest.mark.parametrize(
    "listed",
    [
        {"label": {"dtype": "<i8", "shape": []}}, {"Big": {"dtype": "<i8", "shape": []}},
        {"a": {"dtype": "O", "shape": []}}, {"a": {"dtype": "<f4", "shape": [1 << 30]}},
        {"a": {"dtype": "<f4", "shape": [0]}}, {"a": {"dtype": "jpeg", "shape": [8, 8]}},
        {"a": {"dtype": "<f4"}}, {"a": 3}, [1], {"key": {"dtype": "|u1", "shape": []}},
    ],
)  # fmt: skip
def test_an_optional_column_that_is_not_sound_is_refused(listed: object) -> None:
    with pytest.raises(CacheError, match="its optional columns are not sound"):
        columns("faces", {"size": 8, "columns": listed})


def test_a_shard_is_not_finished_while_a_column_lacks_rows(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, lambda: [Row("a"), Row("b")], recipe={"size": 8})
    report = {"status": {"ok": 2}, "failures": []}

    def write() -> None:
        with write_shard(
            tmp_path, "guidance", 0, {"grid": 4}, rows=2, texts={}, report=report
        ) as writer:
            writer.write("heatmap", 0, np.zeros((2, 4, 4), np.uint8))
            writer.write("regions", 0, np.zeros((1, 3, 4, 4), np.uint8))

    with pytest.raises(ValueError, match="regions: not written whole"):
        write()
    assert plan.shards == 1
    assert not list(tmp_path.glob("guidance-*"))


def test_not_a_cache_and_not_finished_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no cache here .*prep landmarks"):
        FaceCache.open(tmp_path)
    build(tmp_path / "cache", rows=20)
    (tmp_path / "cache" / "manifest-faces.json").unlink()
    with pytest.raises(CacheError, match="rerun"):
        FaceCache.open(tmp_path / "cache")


def _sum(cache: FaceCache, results: object) -> None:
    results.put(int(cache.read(range(100), ["image"])["image"].sum()))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_cache_crosses_fork_and_pickle(directory: Path) -> None:
    cache = FaceCache.open(directory)
    expected = int(cache.read(range(100), ["image"])["image"].sum())
    cache.texts("key", [0])
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        results = context.Queue()
        children = [context.Process(target=_sum, args=(cache, results)) for _ in range(2)]
        for child in children:
            child.start()
        assert [results.get(timeout=60) for _ in children] == [expected] * 2
        for child in children:
            child.join()
    copy = pickle.loads(pickle.dumps(cache))
    assert copy.texts("key", [5]) == cache.texts("key", [5])
