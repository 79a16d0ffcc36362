"""Who takes part in the contest of bench/stream.py."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from stream_peers import (
    H5Rows,
    build_ffcv,
    build_h5py,
    build_lmdb,
    build_mosaicml,
    build_webdataset,
    open_ffcv,
    open_lmdb,
    open_mosaicml,
    open_webdataset,
    shuffled,
)
from stream_samples import (
    BATCH,
    NAMES,
    ROW_BYTES,
    SIZE,
    Batch,
    Epoch,
    build_cache,
    jpeg,
    picture,
    unpack,
)

from faceguide.cache import FaceCache, Stream
from faceguide.cache.plan import PLAN
from faceguide.cache.remote.mirror import mirror


def open_cache(folder: Path, workers: int, **options: Any) -> Epoch:
    cache = FaceCache.open(folder if (folder / PLAN).exists() else sorted(folder.iterdir()))
    stream = Stream(
        cache, cache.select(), columns=NAMES, batch_size=BATCH, ragged="exact", **options
    )
    return lambda: iter(stream)


def build_volumes(folder: Path, samples: NDArray[np.uint8], count: int) -> None:
    """As many caches, which together hold the samples."""
    ends = np.linspace(0, len(samples), count + 1).astype(int).tolist()
    for number, (start, end) in enumerate(itertools.pairwise(ends)):
        build_cache(folder / f"{number:03d}", samples[start:end], shards=None, first=start)


def open_memcpy(folder: Path, workers: int) -> Epoch:
    source = np.load(folder / "samples.npy")
    ring = [np.empty((BATCH, ROW_BYTES), np.uint8) for _ in range(4)]

    def epoch() -> Iterator[Batch]:
        for number, start in enumerate(range(0, len(source), BATCH)):
            rows = source[start : start + BATCH]
            out = ring[number % len(ring)][: len(rows)]
            np.copyto(out, rows)
            yield {"packed": out}

    return epoch


def open_imdecode(folder: Path, threads: int, size: int) -> Epoch:
    """The JPEG files of the samples, in memory and in order, decoded a batch per thread."""
    samples = np.load(folder.parent / "samples.npy", mmap_mode="r")
    count = len(samples) if size == SIZE else len(samples) // 10
    files = [np.frombuffer(jpeg(picture(row, size)), np.uint8) for row in range(count)]

    def batch(start: int) -> Batch:
        some = files[start : start + BATCH]
        images = [cv2.imdecode(file, cv2.IMREAD_COLOR_RGB) for file in some]
        others = unpack(samples[start : start + len(some)])
        del others["image"]
        return {"image": images, **others}

    def epoch() -> Iterator[Batch]:
        return Parallel(threads, backend="threading", return_as="generator")(
            delayed(batch)(start) for start in range(0, count, BATCH)
        )

    return epoch


@dataclass(frozen=True)
class Contender:
    """One way to feed the samples.

    Attributes:
        open: (folder, workers) → a function that starts an epoch.
        build: writes its files, or None when they are those of `files`.
        files: its folder; several contenders may share one.
        workers: the numbers of workers to try; the best one counts.
        module: what must be installed for it.
        size: side of its images; other than 112 means a tenth of the samples.
        lossy: its images went through JPEG.
        tolerance: by how much a pixel may then differ from what cv2.imdecode gives.
        note: printed next to its figures.
    """

    open: Callable[[Path, int], Epoch]
    files: str
    build: Callable[[Path, NDArray[np.uint8]], object] | None = None
    workers: tuple[int, ...] = (0, 2)
    module: str | None = None
    size: int = SIZE
    lossy: bool = False
    tolerance: int = 0
    note: str = "full shuffle"


def ours(files: str, note: str = "full shuffle", **options: Any) -> Contender:
    """A stream over one of our caches; its `workers` are threads."""
    facts = {name: options.pop(name) for name in ("build", "size", "lossy") if name in options}
    threads = options.get("threads", 2)

    def start(folder: Path, workers: int) -> Epoch:
        return open_cache(folder, workers, **options)

    return Contender(start, files, workers=(threads,), note=note, **facts)


# Neighbours here are neighbours in a round: those whose ratio matters most.
CONTENDERS = {
    "memcpy": Contender(open_memcpy, "memcpy", workers=(0,), note="the limit, not shuffled"),
    "faceguide": ours(
        "faceguide", build=lambda folder, samples: build_cache(folder, samples, shards=None)
    ),
    "ffcv": Contender(open_ffcv, "ffcv", build_ffcv, (1, 2), "ffcv", note="raw, full shuffle"),
    "faceguide-1shard": ours(
        "faceguide-1shard", build=lambda folder, samples: build_cache(folder, samples, shards=1)
    ),
    "faceguide-2volumes": ours(
        "faceguide-2volumes", "full shuffle over 2 caches",
        build=lambda folder, samples: build_volumes(folder, samples, 2),
    ),
    "faceguide-200volumes": ours(
        "faceguide-200volumes", "full shuffle over 200 caches",
        build=lambda folder, samples: build_volumes(folder, samples, 200),
    ),
    "faceguide-remote": ours(  # the check before the rounds is its first epoch
        "faceguide-remote", "full shuffle, shards fetched from file:// in the first epoch",
        build=lambda folder, samples: mirror(f"file://{folder.parent}/faceguide", folder),
    ),
    "faceguide-1thread": ours("faceguide", "full shuffle, threads=1", threads=1),
    "faceguide-blocks": ours("faceguide", 'shuffle="blocks"', shuffle="blocks"),
    "faceguide-unchecked": ours("faceguide", "full shuffle, check=False", check=False),
    "faceguide-jpeg": ours(
        "faceguide-jpeg", "full shuffle, 112×112 JPEG", lossy=True,
        build=lambda folder, samples: build_cache(folder, samples, shards=None, store="jpeg"),
    ),
    "faceguide-jpeg448": ours(
        "faceguide-jpeg448", "full shuffle, 448×448 JPEG", lossy=True, size=448,
        build=lambda folder, samples: build_cache(
            folder, samples, shards=None, store="jpeg", size=448
        ),
    ),
    "imdecode": Contender(
        lambda folder, threads: open_imdecode(folder, threads, SIZE), "faceguide-jpeg",
        workers=(2,), lossy=True, note="cv2.imdecode of 112×112 JPEG, not shuffled",
    ),
    "imdecode448": Contender(
        lambda folder, threads: open_imdecode(folder, threads, 448), "faceguide-jpeg448",
        workers=(2,), lossy=True, size=448, note="cv2.imdecode of 448×448 JPEG, not shuffled",
    ),
    "ffcv-jpeg": Contender(
        open_ffcv, "ffcv-jpeg", lambda folder, samples: build_ffcv(folder, samples, "jpg"),
        (1, 2), "ffcv", lossy=True, tolerance=8, note="full shuffle, 112×112 JPEG",
    ),
    "ffcv-jpeg448": Contender(
        open_ffcv, "ffcv-jpeg448",
        lambda folder, samples: build_ffcv(folder, samples, "jpg", 448),
        (1, 2), "ffcv", 448, lossy=True, tolerance=8, note="full shuffle, 448×448 JPEG",
    ),
    "lmdb-batched": Contender(
        lambda folder, workers: open_lmdb(folder, workers, batched=True),
        "lmdb", build_lmdb, module="lmdb", note="full shuffle, batches filled in place",
    ),
    "lmdb": Contender(
        lambda folder, workers: open_lmdb(folder, workers, batched=False), "lmdb", module="lmdb"
    ),
    "h5py": Contender(
        lambda folder, workers: shuffled(H5Rows(folder / "samples.h5"), workers),
        "h5py", build_h5py,
    ),
    "webdataset": Contender(
        open_webdataset, "webdataset", build_webdataset, module="webdataset",
        note="shuffles shards and a buffer of 1,000",
    ),
    "mosaicml-streaming": Contender(
        open_mosaicml, "mosaicml-streaming", build_mosaicml, module="streaming",
        note="its default shuffle, py1e",
    ),
}  # fmt: skip
