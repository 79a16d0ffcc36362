"""The samples of bench/stream.py, and a cache of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceguide.cache.manifest import group_recipe, seal, set_recipe
from faceguide.cache.plan import read_sources
from faceguide.cache.planning.new_plan import make_plan
from faceguide.cache.planning.spooled_listing import Row
from faceguide.cache.schema import columns
from faceguide.cache.shard import write_shard

BATCH = 256
SIZE, GRID, CELLS = 112, 28, 7
JPEG_QUALITY = 95  # as `prep landmarks --store jpeg` writes
# The label is the number of the sample, so that a batch says which samples it must hold.
FIELDS = (
    ("label", np.dtype(np.int64), ()),
    ("image", np.dtype(np.uint8), (SIZE, SIZE, 3)),
    ("heatmap", np.dtype(np.uint8), (GRID, GRID)),
    ("regions", np.dtype(np.uint8), (3, GRID, GRID)),
    ("visibility", np.dtype(np.float16), (CELLS, CELLS)),
)
NAMES = tuple(name for name, _, _ in FIELDS)
ROW_BYTES = sum(dtype.itemsize * int(np.prod(shape)) for _, dtype, shape in FIELDS)

Batch = dict[str, Any]
Epoch = Callable[[], Iterator[Batch]]


def picture(number: int, size: int) -> NDArray[np.uint8]:
    """A (size, size, 3) pattern whose JPEG is about as large as that of a face crop."""
    random = np.random.default_rng([number, size])
    image = np.full((size, size, 3), 128, np.float32)
    for cells, strength in ((4, 40), (12, 25), (size // 4, 7)):
        coarse = random.standard_normal((cells, cells, 3), np.float32) * strength
        image += cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
    image += random.standard_normal((size, size, 1), np.float32) * 1.5
    return image.clip(0, 255).astype(np.uint8)


def unpack(packed: NDArray[np.uint8]) -> Batch:
    """Rows of ROW_BYTES bytes, (N, ROW_BYTES) or one (ROW_BYTES,), as one view per field."""
    fields, start = {}, 0
    for name, dtype, shape in FIELDS:
        stop = start + dtype.itemsize * int(np.prod(shape))
        fields[name] = packed[..., start:stop].view(dtype).reshape((*packed.shape[:-1], *shape))
        start = stop
    return fields


def write_samples(path: Path, count: int) -> None:
    """All samples in one .npy file, packed: what every contender is built from."""
    packed = np.lib.format.open_memmap(path, "w+", np.uint8, (count, ROW_BYTES))
    random = np.random.default_rng(0)
    for start in range(0, count, 1000):
        block = np.zeros((min(1000, count - start), ROW_BYTES), np.uint8)
        fields = unpack(block)
        numbers = range(start, start + len(block))
        # A field of one value per row is no view of the packed bytes: write it through its bytes.
        block[:, :8] = np.array(numbers, np.int64)[:, None].view(np.uint8)
        fields["image"][:] = [picture(number, SIZE) for number in numbers]
        for name in ("heatmap", "regions"):
            fields[name][:] = random.integers(0, 256, fields[name].shape, np.uint8)
        fields["visibility"][:] = random.random(fields["visibility"].shape)
        packed[start : start + len(block)] = block
    packed.flush()


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """As `prep landmarks --store jpeg` encodes."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def build_cache(
    folder: Path, samples: NDArray[np.uint8], *, shards: int | None, size: int = SIZE,
    store: str = "raw", first: int = 0,
) -> None:  # fmt: skip
    """A cache of the samples, through the functions that `prep` writes caches with.

    Each has an identity of its own, so that labels say which it is, in a union too.

    Args:
        first: number of the first sample, in the names of the identities.
    """
    fields = unpack(samples)
    recipe = {"size": size, "store": store}
    pixels = 3 * size * size
    plan = make_plan(
        folder,
        lambda: (
            Row(f"{number:06d}.jpg", f"{first + number:06d}") for number in range(len(samples))
        ),
        recipe=recipe,
        shard_rows=-(-len(samples) // shards) if shards else None,
        row_bytes=(pixels if store == "raw" else pixels // 6) + 12 * 478 + 128,
    )
    recipes = {"faces": recipe, "guidance": {"grid": GRID}, "occlusion": {"grid": CELLS}}
    for group in ("guidance", "occlusion"):
        set_recipe(folder, plan, group, recipes[group], replace=False)
        recipes[group] = group_recipe(folder, plan, group) or {}
    for shard in range(plan.shards):
        keys = [row.key for row in read_sources(folder, plan, shard)]
        numbers = np.array([int(key.removesuffix(".jpg")) for key in keys])
        for group, settings in recipes.items():
            encoded: dict[str, list[bytes]] = {}
            if group == "faces" and store == "jpeg":
                images = fields["image"] if size == SIZE else None
                encoded["image"] = [
                    jpeg(images[number] if images is not None else picture(int(number), size))
                    for number in numbers
                ]
            values = {}
            for spec in columns(group, settings):
                if spec.encoded or spec.name == "digest":
                    continue
                if spec.name == "label":
                    values[spec.name] = numbers
                elif spec.name in fields:
                    values[spec.name] = np.ascontiguousarray(fields[spec.name][numbers])
                else:
                    values[spec.name] = np.zeros((len(numbers), *spec.shape), spec.dtype)
            with write_shard(
                folder, group, shard, settings, rows=len(numbers),
                texts={"key": keys} if group == "faces" else {}, encoded=encoded,
                report={"status": {"ok": len(numbers)}, "failures": []},
            ) as writer:  # fmt: skip
                for name, column in values.items():
                    writer.write(name, 0, column)
    for group in recipes:
        seal(folder, group)
