"""FaceCache: what is read is what was written."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from tests.cache.builder import build, image_of, number

from faceguide.cache import CacheError, FaceCache


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
    with pytest.raises(CacheError, match="status 'fine' is unknown; choose from ok, no_face"):
        cache.select(status="fine")
    with pytest.raises(CacheError, match="no meta column 'age'; there are split"):
        cache.select(meta={"age": "3"})
    with pytest.raises(CacheError, match="no column 'depth'"):
        cache.read([0], ["depth"])
    with pytest.raises(IndexError, match="rows 5 … 100, the cache has 0 … 99"):
        cache.read([5, 100], ["image"])
    with pytest.raises(IndexError):
        cache.read([-1], ["image"])


def test_a_missing_group_names_the_command_that_makes_it(tmp_path: Path) -> None:
    build(tmp_path / "cache", rows=20, occlusion=False)
    cache = FaceCache.open(tmp_path / "cache")
    with pytest.raises(CacheError, match="no column 'visibility'; `prep masks` makes it"):
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


def test_a_changed_byte_is_found_by_the_row_checksum(tmp_path: Path) -> None:
    build(tmp_path / "cache")
    cache = FaceCache.open(tmp_path / "cache")
    cache.verify_rows(np.arange(100), ["faces", "guidance", "occlusion"])
    for group, column in (("faces", "image"), ("faces", "label"), ("guidance", "regions")):
        offset = cache.groups[group]["shards"][1]["offsets"][column]
        with (tmp_path / "cache" / f"{group}-00001.h5").open("r+b") as file:
            file.seek(offset + 3)
            byte = file.read(1)
            file.seek(offset + 3)
            file.write(bytes([byte[0] ^ 8]))
        again = FaceCache.open(tmp_path / "cache")
        with pytest.raises(CacheError, match=rf"{group}-00001\.h5: row 0 differs"):
            again.verify_rows(np.arange(100), [group])


def test_chunked_and_filtered_files_are_read_too(tmp_path: Path, directory: Path) -> None:
    build(tmp_path / "cache")
    contiguous = FaceCache.open(directory)
    shards = []
    for shard in range(4):
        path = tmp_path / "cache" / f"faces-{shard:05d}.h5"
        with h5py.File(path, "r+") as file:
            images = file["image"][:]
            del file["image"]
            file.create_dataset("image", data=images, chunks=(1, 16, 16, 3), compression="gzip")
        shards.append(path.stat().st_size)
    cache = FaceCache.open(tmp_path / "cache")
    for entry, size in zip(cache.groups["faces"]["shards"], shards, strict=True):
        entry["bytes"] = size
        del entry["offsets"]["image"]
    rows = np.random.default_rng(1).integers(0, 100, 64)
    assert np.array_equal(
        cache.read(rows, ["image"])["image"], contiguous.read(rows, ["image"])["image"]
    )


def test_not_a_cache_and_not_finished_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"no cache here .*prep landmarks"):
        FaceCache.open(tmp_path)
    build(tmp_path / "cache", rows=20)
    (tmp_path / "cache" / "manifest-faces.json").unlink()
    with pytest.raises(CacheError, match="not finished; run the same prep command again"):
        FaceCache.open(tmp_path / "cache")


def _sum(cache: FaceCache, results: object) -> None:
    results.put(int(cache.read(range(100), ["image"])["image"].sum()))  # type: ignore[attr-defined]


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
