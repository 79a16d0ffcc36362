"""Small caches with random content, written by the functions that prep uses."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tests.conftest import kept_folder

from faceguide.cache import manifest
from faceguide.cache.plan import Plan, read_sources
from faceguide.cache.planning.new_plan import make_plan
from faceguide.cache.planning.spooled_listing import Row
from faceguide.cache.reader import FaceCache
from faceguide.cache.schema import ESTIMATED, QUALITY, STATUS_CODE, columns
from faceguide.cache.shard import write_shard
from faceguide.preprocess.detect.pose import mean_landmarks
from faceguide.preprocess.guidance.drawing import GuidanceSettings, render

RECIPE: dict[str, Any] = {
    "revision": 1, "size": 16, "store": "raw", "columns": {"quality": QUALITY.described()},
}  # fmt: skip
FAILED_EVERY = 10


def key(number: int) -> str:
    """The key of picture `number` in a cache of `build`; 0, 10, 20 … have no face."""
    return f"person_{number % 7:02d}/{number:05d}.jpg"


def build(
    directory: Path,
    rows: int = 100,
    shard_rows: int = 32,
    *,
    store: str = "raw",
    occlusion: bool = True,
    seed: int = 0,
    size: int = 16,
) -> Plan:
    """A sealed cache: every tenth key failed, every second visibility is known."""
    made = _made(rows, shard_rows, store, occlusion, seed, size)
    shutil.copytree(made, directory, dirs_exist_ok=True)
    return manifest.require_plan(directory)


@functools.cache  # hundreds of tests ask for a few caches, and making one waits for the disk
def _made(rows: int, shard_rows: int, store: str, occlusion: bool, seed: int, size: int) -> Path:
    directory = kept_folder() / "cache"
    recipe = {**RECIPE, "store": store, "size": size}

    def listing() -> list[Row]:
        return [Row(key(i), f"person_{i % 7:02d}", meta=(f"s{i % 3}",)) for i in range(rows)]

    plan = make_plan(
        directory, listing, recipe=recipe, meta=("split",), seed=seed, shard_rows=shard_rows
    )
    for shard in range(plan.shards):
        write_faces(directory, plan, shard)
    manifest.seal(directory, "faces")
    groups: list[tuple[str, dict[str, Any]]] = [("guidance", {"grid": 4})]
    if occlusion:
        groups.append(("occlusion", {"grid": 7}))
    for group, settings in groups:
        manifest.set_recipe(directory, plan, group, settings, replace=False)
        group_recipe = manifest.group_recipe(directory, plan, group)
        assert group_recipe is not None
        for shard in range(plan.shards):
            write_group(directory, plan, group, group_recipe, shard)
        manifest.seal(directory, group)
    return directory


def build_keys(
    directory: Path,
    keys: Sequence[str],
    identity: Callable[[str], str] = lambda key: key.rpartition("/")[0],
    *,
    size: int = 16,
    regions: bool = False,
    landmarks: NDArray[np.float32] | None = None,
) -> FaceCache:
    """A sealed cache of these keys; equal last numbers are equal pictures, 0, 10, … failed.

    Every face has these (478, 3) landmarks, or random ones. With `regions`, the regions are those
    of the mean face, moved a little.
    """
    plan = make_plan(
        directory,
        lambda: [Row(key, identity(key), meta=("s",)) for key in keys],
        recipe={**RECIPE, "size": size},
        meta=("split",),
        seed=0,
        shard_rows=8,
    )
    for shard in range(plan.shards):
        write_faces(directory, plan, shard, landmarks)
    manifest.seal(directory, "faces")
    if regions:
        manifest.set_recipe(directory, plan, "guidance", {"grid": 28}, replace=False)
        recipe = manifest.group_recipe(directory, plan, "guidance")
        assert recipe is not None
        for shard in range(plan.shards):
            mean = mean_landmarks()[None, :, :2].repeat(plan.rows_of(shard), 0)
            mean += np.random.default_rng([3, shard]).normal(0, 0.02, (len(mean), 1, 2))
            drawn = render(mean.astype(np.float32), GuidanceSettings(grid=28), size=size)
            values = dict(zip(("heatmap", "regions"), drawn, strict=True))
            _write(directory, "guidance", recipe, shard, values)
        manifest.seal(directory, "guidance")
    return FaceCache.open(directory)


def number(key: str) -> int:
    """The number in a key of `build`."""
    return int((re.findall(r"\d+", Path(key).stem) or ["1"])[-1])


def image_of(key: str, size: int = 16) -> NDArray[np.uint8]:
    """The picture that `build` stores for a key: smooth, so that JPEG keeps it."""
    rng = np.random.default_rng(number(key))
    coarse = rng.integers(40, 216, (2, 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)


def pose_of(key: str) -> NDArray[np.float32]:
    """The pose that `build` stores for a key: pictures that are equal have equal poses."""
    return np.random.default_rng([1, number(key)]).normal(0, 20, 3).astype(np.float32)


def write_faces(
    directory: Path, plan: Plan, shard: int, landmarks: NDArray[np.float32] | None = None
) -> None:
    """One shard of faces."""
    rows = read_sources(directory, plan, shard)
    n, size = len(rows), plan.recipe["size"]
    rng = np.random.default_rng([1, shard])
    failed = np.array([number(row.key) % FAILED_EVERY == 0 for row in rows])
    images = np.stack([image_of(row.key, size) for row in rows])
    images[failed] = 0
    values: dict[str, NDArray[Any]] = {
        "landmarks": rng.random((n, 478, 3), np.float32),
        "transform": np.tile(np.eye(2, 3, dtype=np.float32), (n, 1, 1)),
        "source_size": np.full((n, 2), 16, np.int32),
        "label": np.array([row.label for row in rows], np.int64),
        "pose": np.stack([pose_of(row.key) for row in rows]),
        "quality": rng.random(n, np.float32),
        "faces": np.ones(n, np.uint8),
        "status": np.where(failed, STATUS_CODE["no_face"], STATUS_CODE["ok"]).astype(np.uint8),
        "origin": np.where(failed, 0, 1).astype(np.uint8),
    }
    if landmarks is not None:
        values["landmarks"][:] = landmarks
    values["landmarks"][failed] = np.nan
    values["source"] = np.frombuffer(
        b"".join(hashlib.sha256(row.key.encode()).digest()[:16] for row in rows), np.uint8
    ).reshape(n, 16)
    encoded = None
    if plan.recipe["store"] == "jpeg":
        pieces = [
            b"" if bad else cv2.imencode(".jpg", image[:, :, ::-1], [1, 95])[1].tobytes()
            for image, bad in zip(images, failed, strict=True)
        ]
        encoded = {"image": pieces}
    texts = {"key": [row.key for row in rows], "meta/split": [row.meta[0] for row in rows]}
    report = {
        "status": {"ok": int((~failed).sum()), "no_face": int(failed.sum())},
        "origin": {"detected": int((~failed).sum()), "none": int(failed.sum())},
        "failures": [
            {"row": slot, "key": row.key, "status": "no_face", "reason": "no face was found"}
            for slot, row in enumerate(rows)
            if failed[slot]
        ],
    }
    with write_shard(
        directory, "faces", shard, plan.recipe, rows=n, texts=texts, encoded=encoded, report=report
    ) as writer:
        if encoded is None:
            writer.write("image", 0, images)
        for spec in columns("faces", plan.recipe):
            if spec.name not in ("image", "digest"):  # further columns of a recipe are zero
                column = values.get(spec.name, np.zeros((n, *spec.shape)))
                writer.write(spec.name, 0, column.astype(spec.dtype))


def write_group(
    directory: Path, plan: Plan, group: str, recipe: dict[str, Any], shard: int
) -> None:
    """One shard of guidance or occlusion."""
    n, grid = plan.rows_of(shard), recipe["grid"]
    rng = np.random.default_rng([2, shard])
    values: dict[str, NDArray[Any]]
    if group == "guidance":
        heatmap = rng.integers(0, 255, (n, grid, grid), dtype=np.uint8)
        heatmap[:, 0, 0] = 255
        regions = rng.integers(0, 256, (n, 3, grid, grid), dtype=np.uint8)
        values = {"heatmap": heatmap, "regions": regions}
    else:
        known = np.arange(n) % 2 == 0
        visibility = rng.random((n, grid, grid)).astype(np.float16)
        visibility[~known] = 1
        values = {"visibility": visibility, "known": known, "status": np.zeros(n, np.uint8)}
    _write(directory, group, recipe, shard, values)


def estimate_unknown(directory: Path) -> None:
    """Half-visible maps, marked as estimated, for the rows whose visibility is unknown."""
    plan, cache = manifest.require_plan(directory), FaceCache.open(directory)
    if "visibility" in cache.columns:
        found = cache.read(np.arange(len(cache)), ["visibility", "known"])
    else:
        unseen = np.zeros(len(cache), bool)
        found = {"visibility": np.ones((len(unseen), 7, 7), np.float16), "known": unseen}
    recipe = {"grid": 7, "columns": {ESTIMATED.name: ESTIMATED.described()}}
    manifest.set_recipe(directory, plan, "occlusion", recipe, replace=True)
    written = manifest.group_recipe(directory, plan, "occlusion")
    assert written is not None
    for shard in range(plan.shards):
        first = shard * plan.shard_rows
        rows = slice(first, first + plan.rows_of(shard))
        known, visibility = found["known"][rows], found["visibility"][rows].copy()
        visibility[~known, 4:] = 0
        values = {
            "visibility": visibility, "known": np.ones(len(known), bool),
            "status": np.zeros(len(known), np.uint8), "estimated": ~known,
        }  # fmt: skip
        _write(directory, "occlusion", written, shard, values)
    manifest.seal(directory, "occlusion")


def _write(
    directory: Path, group: str, recipe: dict[str, Any], shard: int, values: dict[str, Any]
) -> None:
    n = len(next(iter(values.values())))
    report = {"status": {"ok": n}, "failures": []}
    with write_shard(directory, group, shard, recipe, rows=n, texts={}, report=report) as writer:
        for name, column in values.items():
            writer.write(name, 0, column)
