"""Batches per second: the stream next to other ways to feed the same samples to a trainer.

    pip install -e . lmdb webdataset mosaicml-streaming ffcv      (what is missing is left out)
    python bench/stream.py --json stream.json
    python bench/stream.py --quick

One sample is a 112×112 RGB crop, a 28×28 heatmap, three 28×28 region masks, a 7×7 visibility
and a label: 40,874 bytes. Every contender delivers all samples once per epoch, shuffled, in
batches of 256, from files that are in memory already: written, dropped and read back once, as
after a start of the machine. Each contender has a process of its own; in every round each has
one short turn, so that a change of the machine's load meets all of them, and a ratio is the
median of the rounds' ratios. Peers get the better of 0 and 2 workers. Before the rounds every
batch of every contender is compared with the samples, bit by bit.

memcpy is the limit: one thread copies blocks of a batch's size, in order, from memory into a
ring of four buffers.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import cv2
import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache import FaceCache, Stream
from faceguide.cache.manifest import group_recipe, seal, set_recipe
from faceguide.cache.new_plan import Row, make_plan
from faceguide.cache.plan import read_sources
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


# The samples --------------------------------------------------------------------------------------


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


# faceguide ----------------------------------------------------------------------------------------


def build_cache(
    folder: Path, samples: NDArray[np.uint8], *, shards: int | None, size: int = SIZE,
    store: str = "raw",
) -> None:  # fmt: skip
    """A cache of the samples, through the functions that `prep` writes caches with."""
    fields = unpack(samples)
    recipe = {"size": size, "store": store}
    pixels = 3 * size * size
    plan = make_plan(
        folder,
        lambda: (Row(f"{number:06d}.jpg") for number in range(len(samples))),
        recipe=recipe,
        shard_rows=len(samples) if shards == 1 else None,
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
                if spec.name in fields:
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


def open_cache(folder: Path, workers: int, **options: Any) -> Epoch:
    cache = FaceCache.open(folder)
    stream = Stream(
        cache, cache.select(), columns=NAMES, batch_size=BATCH, ragged="exact", **options
    )
    return lambda: iter(stream)


# The limit and the peers --------------------------------------------------------------------------


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


def loader(dataset: Any, workers: int, **options: Any) -> Any:
    """A DataLoader as PyTorch's documentation advises for epochs that are short."""
    if workers:
        options["persistent_workers"] = True
    return torch.utils.data.DataLoader(dataset, num_workers=workers, **options)


def shuffled(dataset: Any, workers: int, **options: Any) -> Epoch:
    batches = loader(dataset, workers, batch_size=BATCH, shuffle=True, **options)
    return lambda: iter(batches)


def build_h5py(folder: Path, samples: NDArray[np.uint8]) -> None:
    with h5py.File(folder / "samples.h5", "w") as file:
        for name, values in unpack(samples).items():
            file.create_dataset(name, data=values)


class H5Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """One contiguous dataset per field, read row by row; opened in the process that reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.datasets: dict[str, h5py.Dataset] | None = None
        with h5py.File(path, "r") as file:
            self.length = len(file["label"])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, row: int) -> Batch:
        if self.datasets is None:
            file = h5py.File(self.path, "r")
            self.datasets = {name: file[name] for name in NAMES}
        return {name: dataset[row] for name, dataset in self.datasets.items()}


def build_lmdb(folder: Path, samples: NDArray[np.uint8]) -> None:
    import lmdb

    with lmdb.open(str(folder), map_size=4 * samples.nbytes + (1 << 24)) as environment:
        for start in range(0, len(samples), 1000):
            with environment.begin(write=True) as transaction:
                for number, row in enumerate(samples[start : start + 1000], start):
                    transaction.put(b"%08d" % number, row.tobytes())


class LmdbRows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Packed records, opened as py-lmdb advises for many readers of a file in memory."""

    def __init__(self, folder: Path, length: int) -> None:
        self.folder, self.length = folder, length
        self.transaction: Any = None

    def __len__(self) -> int:
        return self.length

    def record(self, row: int) -> NDArray[np.uint8]:
        if self.transaction is None:
            import lmdb

            environment = lmdb.open(
                str(self.folder), readonly=True, lock=False, readahead=False, meminit=False
            )
            self.transaction = environment.begin(buffers=True)
        return np.frombuffer(self.transaction.get(b"%08d" % row), np.uint8)

    def __getitem__(self, row: int) -> Batch:
        return unpack(self.record(row))


class LmdbBatches(LmdbRows):
    """A whole batch at a time, each record copied once, to its place in the batch."""

    def __getitems__(self, rows: list[int]) -> Batch:
        batch = {name: np.empty((len(rows), *shape), dtype) for name, dtype, shape in FIELDS}
        for place, row in enumerate(rows):
            for name, value in unpack(self.record(row)).items():
                batch[name][place] = value
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def open_lmdb(folder: Path, workers: int, *, batched: bool) -> Epoch:
    length = len(np.load(folder.parent / "samples.npy", mmap_mode="r"))
    if batched:
        return shuffled(LmdbBatches(folder, length), workers, collate_fn=lambda batch: batch)
    return shuffled(LmdbRows(folder, length), workers)


def build_webdataset(folder: Path, samples: NDArray[np.uint8]) -> None:
    import webdataset

    pattern = str(folder / "samples-%02d.tar")
    with webdataset.ShardWriter(pattern, maxcount=-(-len(samples) // 16), verbose=0) as sink:
        for number, row in enumerate(samples):
            sink.write({"__key__": f"{number:06d}", "bin": row.tobytes()})


def open_webdataset(folder: Path, workers: int) -> Epoch:
    import webdataset

    shards = sorted(map(str, folder.glob("*.tar")))
    dataset = (
        webdataset.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(1000)
        .map(lambda sample: unpack(np.frombuffer(sample["bin"], np.uint8)))
        .batched(BATCH, collation_fn=torch.utils.data.default_collate)
    )
    batches = webdataset.WebLoader(
        dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: iter(batches)


def build_mosaicml(folder: Path, samples: NDArray[np.uint8]) -> None:
    from streaming import MDSWriter

    kinds = {
        name: f"ndarray:{dtype}:{','.join(map(str, shape))}" if shape else str(dtype)
        for name, dtype, shape in FIELDS
    }
    with MDSWriter(out=str(folder), columns=kinds) as out:
        for row in samples:
            fields = unpack(row)
            out.write({**fields, "label": np.int64(fields["label"])})


def open_mosaicml(folder: Path, workers: int) -> Epoch:
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)
    batches = loader(dataset, workers, batch_size=BATCH)
    return lambda: iter(batches)


class FfcvSamples:
    """float16 travels as bytes: FFCV's compiler knows no half precision."""

    def __init__(self, samples: NDArray[np.uint8]) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        fields = unpack(np.array(self.samples[row]))
        fields["visibility"] = fields["visibility"].view(np.uint8)
        return tuple(int(fields[n]) if n == "label" else fields[n].copy() for n in NAMES)


def build_ffcv(folder: Path, samples: NDArray[np.uint8]) -> None:
    from ffcv.fields import IntField, NDArrayField, RGBImageField
    from ffcv.writer import DatasetWriter

    shapes = {"heatmap": (GRID, GRID), "regions": (3, GRID, GRID), "visibility": (CELLS, 2 * CELLS)}
    kinds = {
        "label": IntField(),
        "image": RGBImageField(write_mode="raw"),
        **{name: NDArrayField(np.dtype(np.uint8), shape) for name, shape in shapes.items()},
    }
    writer = DatasetWriter(str(folder / "samples.beton"), kinds, num_workers=2)
    writer.from_indexed_dataset(FfcvSamples(samples))


def open_ffcv(folder: Path, workers: int) -> Epoch:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.decoders import NDArrayDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import ToTensor

    decoders = {"label": IntDecoder, "image": SimpleRGBImageDecoder}
    batches = Loader(
        str(folder / "samples.beton"),
        batch_size=BATCH,
        num_workers=workers,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=False,
        pipelines={name: [decoders.get(name, NDArrayDecoder)(), ToTensor()] for name in NAMES},
    )

    def epoch() -> Iterator[Batch]:
        for values in batches:
            batch = dict(zip(NAMES, values, strict=True))
            batch["label"] = batch["label"][:, 0]
            batch["visibility"] = batch["visibility"].view(torch.float16)
            yield batch

    return epoch


# The contest --------------------------------------------------------------------------------------


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
        note: printed next to its figures.
    """

    open: Callable[[Path, int], Epoch]
    files: str
    build: Callable[[Path, NDArray[np.uint8]], None] | None = None
    workers: tuple[int, ...] = (0, 2)
    module: str | None = None
    size: int = SIZE
    lossy: bool = False
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


def check(epoch: Epoch, samples: NDArray[np.uint8], contender: Contender) -> None:
    """Compare every row of an epoch with its sample.

    Raises:
        SystemExit: when a value differs, or the epoch lacks a sample.
    """
    truth, seen = unpack(samples), []
    for batch in epoch():
        if "packed" in batch:
            batch = unpack(batch["packed"])
        batch = {name: np.asarray(batch[name]) for name in NAMES}
        rows = batch["label"].astype(np.int64)
        seen.append(rows.copy())
        for name, values in batch.items():
            if name == "image" and contender.lossy:
                pictures = [
                    truth["image"][row] if contender.size == SIZE else picture(row, contender.size)
                    for row in rows.tolist()
                ]
                wanted = np.stack(
                    [
                        cv2.imdecode(np.frombuffer(jpeg(image), np.uint8), cv2.IMREAD_COLOR_RGB)
                        for image in pictures
                    ]
                )
            else:
                wanted = truth[name][rows]
            if not np.array_equal(values, wanted):
                sys.exit(f"{name} differs from the samples")
    delivered = np.concatenate(seen)
    distinct = len(np.unique(delivered))
    if distinct != len(samples):
        sys.exit(f"{len(delivered)} rows, {distinct} of {len(samples)} samples")


def measure(epoch: Epoch, seconds: float) -> float:
    """Samples per second over whole epochs."""
    delivered, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for batch in epoch():
            delivered += len(next(iter(batch.values())))
    return delivered / (time.perf_counter() - start)


def serve(folder: Path, name: str, workers: int) -> None:
    """A contender's process: check, then one measurement per line of seconds on stdin."""
    warnings.filterwarnings("ignore", "The given NumPy array is not writable")
    torch.set_num_threads(1)  # collating with several lets them wait for each other
    contender = CONTENDERS[name]
    epoch = contender.open(folder if name == "memcpy" else folder / contender.files, workers)
    samples = np.load(folder / "samples.npy", mmap_mode="r")
    check(epoch, samples if contender.size == SIZE else samples[: len(samples) // 10], contender)
    del samples
    print("checked", flush=True)
    for line in sys.stdin:
        print(measure(epoch, float(line)), flush=True)


class Process:
    """A contender in an interpreter of its own, idle between its turns."""

    def __init__(self, folder: Path, name: str, workers: int) -> None:
        self.name = f"{name} with {workers} workers"
        command = [sys.executable, __file__, "--only", name, "--workers", str(workers)]
        self.log = folder / f"{name}-{workers}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--folder", str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        self.answer()

    def turn(self, seconds: float) -> float:
        """Samples per second of one measurement."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        return float(self.answer())

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            reason = self.log.read_text().strip()[-2000:]
            raise click.ClickException(f"{self.name} failed: {reason}")
        return line

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def stored_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def present_contenders() -> tuple[dict[str, Contender], dict[str, str]]:
    """The contenders whose modules import, and why the others do not."""
    present, absent = {}, {}
    for name, contender in CONTENDERS.items():
        try:
            if contender.module is not None:
                importlib.import_module(contender.module)
            present[name] = contender
        except ModuleNotFoundError:
            absent[name] = "not installed"
        except Exception as error:  # whatever a package raises that does not fit its neighbours
            absent[name] = f"does not import: {error}".splitlines()[0]
    return present, absent


def build(folder: Path, count: int, present: dict[str, Contender]) -> None:
    """Write the samples and every contender's files, and leave them in memory as reads do."""
    write_samples(folder / "samples.npy", count)
    samples = np.load(folder / "samples.npy", mmap_mode="r")
    for name, contender in present.items():
        if contender.build is None:
            continue
        click.echo(f"building {name}", err=True)
        (folder / contender.files).mkdir()
        own = samples if contender.size == SIZE else samples[: count // 10]
        with contextlib.redirect_stderr(io.StringIO()):  # their progress bars
            contender.build(folder / contender.files, own)
    del samples
    for path in filter(Path.is_file, folder.rglob("*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.read(1 << 16):
                pass


def contest(folder: Path, count: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Build, check and time every contender that is installed."""
    present, absent = present_contenders()
    build(folder, count, present)
    runs = [(name, workers) for name, c in present.items() for workers in c.workers]
    speeds: dict[tuple[str, int], list[float]] = {run: [] for run in runs}
    with contextlib.ExitStack() as stack:
        processes = {}
        for name, workers in runs:
            click.echo(f"checking {name}, {workers} workers", err=True)
            processes[name, workers] = Process(folder, name, workers)
            stack.callback(processes[name, workers].close)
        for number in range(rounds):
            click.echo(f"round {number + 1} of {rounds}", err=True)
            for run, process in processes.items():
                speeds[run].append(process.turn(seconds))
    reference = speeds["faceguide", *CONTENDERS["faceguide"].workers]
    results = []
    for name, contender in CONTENDERS.items():
        result: dict[str, Any] = {"name": name, "samples_per_s": None, "bytes_per_sample": None}
        results.append(result)
        if name in absent:
            result["note"] = absent[name]
            continue
        best = max(contender.workers, key=lambda w: statistics.median(speeds[name, w]))
        mine = speeds[name, best]
        rows = count if contender.size == SIZE else count // 10
        stored = ROW_BYTES * rows if name == "memcpy" else stored_bytes(folder / contender.files)
        result |= {
            "samples_per_s": statistics.median(mine),
            "bytes_per_sample": stored / rows,
            "min": min(mine),
            "max": max(mine),
            "faceguide_ratio": statistics.median(
                a / b for a, b in zip(reference, mine, strict=True)
            ),
            "workers": best,
            "rounds": {str(w): speeds[name, w] for w in contender.workers},
            "note": contender.note,
        }
    return results


def show(results: list[dict[str, Any]]) -> None:
    head = ("contender", "samples/s", "min", "max", "B/sample", "faceguide ÷", "workers")
    click.echo("{:<20}{:>11}{:>10}{:>10}{:>10}{:>13}{:>9}  note".format(*head))
    for r in results:
        if r["samples_per_s"] is None:
            click.echo(f"{r['name']:<20}{'–':>11}  {r['note']}")
            continue
        click.echo(
            f"{r['name']:<20}{r['samples_per_s']:>11,.0f}{r['min']:>10,.0f}{r['max']:>10,.0f}"
            f"{r['bytes_per_sample']:>10,.0f}{r['faceguide_ratio']:>13.2f}"
            f"{r['workers']:>9}  {r['note']}"
        )
    click.echo(
        f"B/sample: on disk, of {ROW_BYTES:,} delivered; faceguide's files also hold landmarks "
        "(5,736 B), transform, pose, digests and key."
    )


@click.command()
@click.option("--json", "report", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="2,000 samples, one short round: does it run?")
@click.option("--samples", default=20_000, show_default=True, help="Samples of the contest.")
@click.option("--rounds", default=9, show_default=True, help="Times that each contender is timed.")
@click.option("--seconds", default=0.5, show_default=True, help="Least time of a turn.")
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
@click.option("--only", hidden=True)
@click.option("--workers", default=0, hidden=True)
def main(
    report: Path | None, quick: bool, samples: int, rounds: int, seconds: float,
    folder: Path | None, only: str | None, workers: int,
) -> None:  # fmt: skip
    """Time the stream next to its peers: samples per second, from warm files."""
    if only is not None and folder is not None:
        serve(folder, only, workers)
        return
    if quick:
        samples, rounds, seconds = 2_000, 1, 0.1
    with tempfile.TemporaryDirectory(prefix="faceguide-bench-") as temporary:
        results = contest(Path(temporary), samples, rounds, seconds)
    show(results)
    if report:
        facts = {"samples": samples, "batch": BATCH, "delivered_bytes": ROW_BYTES}
        facts |= {"rounds": rounds, "cores": os.cpu_count(), "python": platform.python_version()}
        facts |= {"torch": torch.__version__, "numpy": np.__version__, "h5py": h5py.__version__}
        report.write_text(json.dumps({**facts, "contenders": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
