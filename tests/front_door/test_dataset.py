"""Dataset: the rows of a cache as torch's DataLoader takes them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from tests.cache.builder import build

from faceguide.cache import CacheError, FaceCache
from faceguide.dataset import Dataset

COLUMNS = ("image", "regions", "visibility", "label")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FaceCache:
    path = tmp_path_factory.mktemp("dataset") / "cache"
    build(path)
    return FaceCache.open(path)


def test_a_sample_is_the_row_of_the_cache(cache: FaceCache) -> None:
    rows = cache.select(labelled=True)[::-1]
    dataset = Dataset(cache, rows, columns=COLUMNS)
    assert len(dataset) == 90
    sample = dataset[7]
    assert sample.keys() == {*COLUMNS, "row"}
    assert sample["row"] == rows[7]
    for name in COLUMNS:
        np.testing.assert_array_equal(sample[name], cache[int(rows[7])][name])
    assert dataset[-1]["row"] == rows[-1]
    assert len(Dataset(cache)) == 90, "without rows, those that have a face"


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_deliver_what_was_read_here(cache: FaceCache, start: str) -> None:
    dataset = Dataset(cache, columns=COLUMNS)
    assert dataset[3]["row"] == dataset.rows[3]  # files are open when the workers start
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=32, num_workers=1, multiprocessing_context=start
    )
    batches = list(loader)
    assert [len(batch["image"]) for batch in batches] == [32, 32, 26]
    for name in COLUMNS:
        found = torch.cat([batch[name] for batch in batches])
        np.testing.assert_array_equal(found, cache.read(dataset.rows, [name])[name])


def test_a_batch_is_one_read(cache: FaceCache, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, read, reads = Dataset(cache), cache.read, []

    def counted(rows: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
        reads.append(len(rows))
        return read(rows, names)

    monkeypatch.setattr(cache, "read", counted)
    batch = next(iter(torch.utils.data.DataLoader(dataset, batch_size=24)))
    assert batch["image"].shape == (24, 16, 16, 3)
    assert batch["image"].dtype == torch.uint8
    assert reads == [24]


def test_a_pickled_dataset_carries_no_open_file(cache: FaceCache) -> None:
    dataset = Dataset(cache, cache.select()[:5])
    assert dataset[0]["image"].any()
    again = pickle.loads(pickle.dumps(dataset))
    assert len(pickle.dumps(dataset)) < 2000
    np.testing.assert_array_equal(again[0]["image"], dataset[0]["image"])


def test_what_is_not_there_is_said(cache: FaceCache) -> None:
    with pytest.raises(CacheError, match="no column 'heat'"):
        Dataset(cache, columns=("heat",))
    with pytest.raises(IndexError, match="the cache has 0 … 99"):
        Dataset(cache, [100])
    with pytest.raises(IndexError):
        Dataset(cache, [3])[1]
