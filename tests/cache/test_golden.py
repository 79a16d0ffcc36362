"""The format, pinned: a small cache that an earlier commit wrote.

When a test here fails, the format has changed: every cache that exists is lost to this version, and
SCHEMA must be raised. `python -m tests.cache.test_golden` writes the files again.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from tests.conftest import REPOSITORY

from faceguide.cache import FaceCache, manifest
from faceguide.cache.inspect.verify import verify
from faceguide.cache.plan import read_sources
from faceguide.cache.planning.new_plan import make_plan
from faceguide.cache.planning.spooled_listing import Row
from faceguide.cache.schema import QUALITY, SCHEMA, Column, columns
from faceguide.cache.shard import write_shard
from faceguide.core.files import read_json

GOLDEN = REPOSITORY / "tests" / "data" / "golden_cache"
ROWS = 4
# An encoder's bytes differ from version to version: this is one grey picture of 8×8 pixels.
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABALDA4MChAODQ4SERATGCgaGBYWGDEjJR0oOjM9PDkzODdA"
    "SFxOQERXRTc4UG1RV19iZ2hnPk1xeXBkeFxlZ2P/2wBDARESEhgVGC8aGi9jQjhCY2NjY2NjY2NjY2Nj"
    "Y2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2NjY2P/wAARCAAIAAgDASIAAhEBAxEB/8QA"
    "HwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIh"
    "MUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVW"
    "V1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXG"
    "x8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAAAAAAECAwQF"
    "BgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAV"
    "YnLRChYkNOEl8RcYGRomJygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOE"
    "hYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExcbHyMnK0tPU1dbX2Nna4uPk5ebn6Onq"
    "8vP09fb3+Pn6/9oADAMBAAIRAxEAPwCOiiigD//Z"
)
SECOND = Column("second", np.dtype("|u1"), (8, 8, 3), encoded=True)
RECIPES: dict[str, dict[str, Any]] = {
    "faces": {
        "size": 8,
        "store": "raw",
        "columns": {column.name: column.described() for column in (QUALITY, SECOND)},
        "finder": {"tool": "face-mesh", "version": "mediapipe 0.10.21", "model": "0" * 32},
    },
    "guidance": {"grid": 4},
    "occlusion": {"grid": 2},
}


def values(spec: Column, start: int) -> np.ndarray:
    """Numbers that are the same everywhere: 1, 2, 3 … as far as the type goes."""
    count = ROWS * int(np.prod(spec.shape))
    numbers = (np.arange(count) + start) % 100
    if spec.name == "heatmap":
        numbers = np.where(np.arange(count) % 16 == 0, 255, numbers)
    if spec.name in ("visibility", "quality"):
        numbers = numbers / 100
    if spec.name in ("status", "faces", "origin", "label"):
        numbers = {"status": [0, 0, 1, 0], "faces": [1, 2, 0, 1], "origin": [1, 2, 0, 3],
                   "label": [0, 1, 0, -1]}[spec.name]  # fmt: skip
    if spec.name == "known":
        return np.array([True, False, False, True])
    made = np.array(numbers).astype(spec.dtype).reshape(ROWS, *spec.shape)
    if spec.name == "visibility":
        made[1:3] = 1
    return made


def write(directory: Path) -> None:
    """The golden cache, by the functions that `prep` writes with."""
    names = [("Ann/1.jpg", "Ann"), ("Bob/\udcff.jpg", "Bob"), ("Ann/ü.jpg", "Ann"), ("nobody", "")]
    rows = [Row(key, identity, meta=(f"s{len(key)}", "")) for key, identity in names]
    meta = ("split", "empty")
    plan = make_plan(directory, lambda: rows, recipe=RECIPES["faces"], meta=meta, seed=3)
    planned = read_sources(directory, plan, 0)
    for group in RECIPES:
        if group != "faces":
            manifest.set_recipe(directory, plan, group, RECIPES[group], replace=False)
        recipe = manifest.group_recipe(directory, plan, group)
        assert recipe is not None
        faces = group == "faces"
        texts = {"key": [row.key for row in planned]} if faces else {}
        for place, name in enumerate(meta if faces else ()):
            texts[f"meta/{name}"] = [row.meta[place] for row in planned]
        failure = {"row": 2, "key": planned[2].key, "status": "no_face", "reason": "none found"}
        report: dict[str, Any] = {"status": {"ok": 4}, "failures": []}
        if faces:
            report = {
                "status": {"ok": 3, "no_face": 1},
                "origin": {"none": 1, "detected": 1, "retried": 1, "imported": 1},
                "failures": [failure],
            }
        with write_shard(
            directory, group, 0, recipe, rows=ROWS, texts=texts, report=report,
            encoded={"second": [JPEG, JPEG, b"", JPEG]} if faces else None,
        ) as writer:  # fmt: skip
            for number, spec in enumerate(columns(group, recipe)):
                if not spec.encoded and spec.name != "digest":
                    writer.write(spec.name, 0, values(spec, number))
        manifest.seal(directory, group)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path)
    names = sorted(path.relative_to(GOLDEN) for path in GOLDEN.rglob("*") if path.is_file())
    assert names == sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    for name in names:
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes(), name


def test_what_an_earlier_commit_wrote_is_read(tmp_path: Path) -> None:
    assert read_json(GOLDEN / "plan.json")["schema"] == SCHEMA
    assert verify(GOLDEN) == ([], [])
    cache = FaceCache.open(GOLDEN)
    assert cache.identities == ["Ann", "Bob"]
    keys = cache.texts("key", range(ROWS))
    assert sorted(keys) == sorted(["Ann/1.jpg", "Bob/\udcff.jpg", "Ann/ü.jpg", "nobody"])
    assert cache.texts("meta/split", range(ROWS)) == [f"s{len(key)}" for key in keys]
    assert cache.texts("meta/empty", range(ROWS)) == [""] * ROWS
    for group, recipe in RECIPES.items():
        for number, spec in enumerate(columns(group, recipe)):
            if spec.name in cache.columns and spec.name not in ("second", "digest"):
                if spec.name == "status" and group != "faces":
                    continue
                found = cache.read(range(ROWS), [spec.name])[spec.name]
                np.testing.assert_array_equal(found, values(spec, number), spec.name)
    second = cache.read(range(ROWS), ["second"])["second"]
    assert [image.max() > 0 for image in second] == [True, True, False, True]


def test_a_row_is_a_byte_range_that_needs_no_hdf5() -> None:
    found = read_json(GOLDEN / "manifest-faces.json")
    (entry,) = found["shards"]
    data = (GOLDEN / "faces-00000.h5").read_bytes()
    assert hashlib.sha256(data).hexdigest() == entry["sha256"]
    start = entry["offsets"]["landmarks"] + 1 * 478 * 3 * 4
    row = data[start : start + 478 * 3 * 4]
    spec = columns("faces", RECIPES["faces"])[1]
    assert row == values(spec, 1)[1].tobytes()
    place = [column["name"] for column in found["columns"]].index(
        "landmarks"
    ) - 3  # texts have none
    digests = np.frombuffer(data, "<u8", ROWS * 4, entry["offsets"]["digest"]).reshape(ROWS, 4)
    assert xxhash.xxh3_64_intdigest(row) == digests[1, place]
    assert all(offset % 4096 == 0 for offset in entry["offsets"].values())


if __name__ == "__main__":
    shutil.rmtree(GOLDEN, ignore_errors=True)
    write(GOLDEN)
