"""Other ways to feed the samples of bench/stream.py to a trainer: h5py, LMDB, WebDataset …"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from stream_samples import (
    BATCH,
    CELLS,
    FIELDS,
    GRID,
    JPEG_QUALITY,
    NAMES,
    SIZE,
    Batch,
    Epoch,
    picture,
    unpack,
)


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

    def __init__(self, samples: NDArray[np.uint8], size: int) -> None:
        self.samples, self.size = samples, size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Any, ...]:
        fields = unpack(np.array(self.samples[row]))
        if self.size != SIZE:
            fields["image"] = picture(row, self.size)
        fields["visibility"] = fields["visibility"].view(np.uint8)
        return tuple(int(fields[n]) if n == "label" else fields[n].copy() for n in NAMES)


def build_ffcv(
    folder: Path, samples: NDArray[np.uint8], mode: str = "raw", size: int = SIZE
) -> None:
    from ffcv.fields import IntField, NDArrayField, RGBImageField
    from ffcv.writer import DatasetWriter

    shapes = {"heatmap": (GRID, GRID), "regions": (3, GRID, GRID), "visibility": (CELLS, 2 * CELLS)}
    kinds = {
        "label": IntField(),
        "image": RGBImageField(write_mode=mode, jpeg_quality=JPEG_QUALITY),
        **{name: NDArrayField(np.dtype(np.uint8), shape) for name, shape in shapes.items()},
    }
    writer = DatasetWriter(str(folder / "samples.beton"), kinds, num_workers=2)
    writer.from_indexed_dataset(FfcvSamples(samples, size))


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
