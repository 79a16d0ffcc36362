from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from faceguide.core.errors import CacheError, EvaluationError, FaceguideError
from faceguide.evaluate.score.face_store import FaceStore

KEY = {"cache": "c", "weights": "w"}


def embeddings(rows: np.ndarray) -> dict[str, np.ndarray]:
    values = rows.astype(np.float32)[:, None] + np.arange(4, dtype=np.float32) / 10
    return {"embedding": values, "norm": values[:, 0].copy()}


def test_rows_come_back_in_any_order_from_any_block(tmp_path: Path) -> None:
    store = FaceStore.open(tmp_path, KEY)
    for rows in (np.array([7, 3]), np.array([11, 0, 5])):
        store.add("embedding", rows, embeddings(rows))
    wanted = np.array([5, 7, 0, 5])
    for again in (store, FaceStore.open(tmp_path, KEY)):
        np.testing.assert_array_equal(
            again.read("embedding", wanted), embeddings(wanted)["embedding"]
        )
        np.testing.assert_array_equal(again.read("norm", wanted), [5, 7, 0, 5])
        np.testing.assert_array_equal(again.missing("embedding", np.array([1, 3, 5, 6])), [1, 6])
        np.testing.assert_array_equal(again.rows("embedding"), [0, 3, 5, 7, 11])
        np.testing.assert_array_equal(again.missing("map", np.array([3])), [3])


def test_another_cache_or_network_is_another_store(tmp_path: Path) -> None:
    store = FaceStore.open(tmp_path, KEY)
    store.add("embedding", np.array([1]), embeddings(np.array([1])))
    other = FaceStore.open(tmp_path, {**KEY, "weights": "other"})
    assert other.directory != store.directory
    assert len(other.rows("embedding")) == 0


def test_a_row_that_two_runs_wrote_is_there_once(tmp_path: Path) -> None:
    first, second = FaceStore.open(tmp_path, KEY), FaceStore.open(tmp_path, KEY)
    first.add("embedding", np.array([1, 2]), embeddings(np.array([1, 2])))
    second.add("embedding", np.array([2, 3]), embeddings(np.array([2, 3])))
    both = FaceStore.open(tmp_path, KEY)
    np.testing.assert_array_equal(both.rows("embedding"), [1, 2, 3])
    np.testing.assert_array_equal(both.read("norm", np.array([2, 3])), [2, 3])


def blocks_of_two(directory: Path, starts: range) -> FaceStore:
    store = FaceStore.open(directory, KEY)
    for start in starts:
        store.add("embedding", np.array([start, start + 1]), embeddings(np.arange(2) + start))
    return store


def test_many_blocks_are_listed_and_not_opened_again(tmp_path: Path) -> None:
    store = blocks_of_two(tmp_path, range(0, 140, 2))
    np.testing.assert_array_equal(FaceStore(store.directory).rows("embedding"), np.arange(140))
    later = np.array([200, 150])  # a block that the list does not know
    store.add("embedding", later, embeddings(later))
    store._blocks("embedding")[0].path.write_bytes(b"damaged")
    again = FaceStore(store.directory)
    np.testing.assert_array_equal(again.rows("embedding"), [*range(140), 150, 200])
    sound = np.array([139, 2, 200, 77])
    np.testing.assert_array_equal(again.read("norm", sound), sound)
    with pytest.raises(FaceguideError, match="remove the file"):
        again.read("norm", np.array([1]))


def calls(directory: Path) -> Counter[str]:
    """What opening a store in a process of its own asks the system for, below its folder."""
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from faceguide.evaluate.score.face_store import FaceStore\n"
        "def heard(event, found):\n"
        "    if event in ('os.scandir', 'os.listdir', 'open') and sys.argv[1] in str(found[0]):\n"
        "        print(event)\n"
        "sys.addaudithook(heard)\n"
        "print(len(FaceStore(Path(sys.argv[1])).rows('embedding')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(directory)], capture_output=True, text=True, check=True
    )
    return Counter(done.stdout.split())


def test_a_folder_that_has_not_changed_is_not_listed(tmp_path: Path) -> None:
    store = blocks_of_two(tmp_path, range(0, 200, 2))
    folder = store.directory / "embedding"
    first = calls(store.directory)  # written this very moment: another block may follow unseen
    assert first["200"] == 1
    assert first["open"] >= 100
    assert calls(store.directory)["os.scandir"] == 1
    ago = time.time_ns() - 10_000_000_000
    os.utime(folder, ns=(ago, ago))
    assert calls(store.directory)["os.scandir"] == 1
    settled = calls(store.directory)
    assert settled["os.scandir"] + settled["os.listdir"] == 0
    assert settled["open"] < 5
    blocks_of_two(tmp_path, range(300, 302, 2))
    assert calls(store.directory)["202"] == 1
    os.utime(folder, ns=(ago + 1, ago + 1))
    assert calls(store.directory)["202"] == 1
    next(folder.glob("*.safetensors")).unlink()  # as an error message may have advised
    assert calls(store.directory)["200"] == 1


def test_a_row_that_is_not_there_is_named(tmp_path: Path) -> None:
    store = FaceStore.open(tmp_path, KEY)
    store.add("embedding", np.array([1, 2]), embeddings(np.array([1, 2])))
    with pytest.raises(EvaluationError, match="row 9 has no embedding"):
        store.read("norm", np.array([1, 9]))


@pytest.mark.parametrize("part", ["row", "embedding"])
def test_a_flipped_bit_is_refused(tmp_path: Path, part: str) -> None:
    rows = np.arange(200)
    FaceStore.open(tmp_path, KEY).add("embedding", rows, embeddings(rows))
    (path,) = tmp_path.glob("*/embedding/*.safetensors")
    data = bytearray(path.read_bytes())
    values = rows if part == "row" else embeddings(rows)["embedding"]
    place = data.index(values.tobytes())
    data[place + 5] ^= 4
    path.write_bytes(data)
    with pytest.raises(
        FaceguideError,
        match=r"changed since it was written",
    ):
        FaceStore.open(tmp_path, KEY).read("embedding", rows)


def test_a_truncated_block_is_refused(tmp_path: Path) -> None:
    rows = np.arange(200)
    FaceStore.open(tmp_path, KEY).add("embedding", rows, embeddings(rows))
    (path,) = tmp_path.glob("*/embedding/*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CacheError, match="not readable as safetensors"):
        FaceStore.open(tmp_path, KEY).rows("embedding")


def test_a_failed_write_leaves_the_earlier_blocks(tmp_path: Path) -> None:
    store = FaceStore.open(tmp_path, KEY)
    store.add("embedding", np.array([1]), embeddings(np.array([1])))
    store.directory.rename(tmp_path / "moved")
    with pytest.raises((CacheError, OSError)):
        store.add("embedding", np.array([2]), embeddings(np.array([2])))
    (tmp_path / "moved").rename(store.directory)
    np.testing.assert_array_equal(FaceStore.open(tmp_path, KEY).rows("embedding"), [1])
    assert not list(store.directory.glob(".*"))


def test_a_changed_key_is_refused(tmp_path: Path) -> None:
    store = FaceStore.open(tmp_path, KEY)
    path = store.directory / "key.json"
    path.write_text(path.read_text().replace('"c"', '"d"'))
    with pytest.raises(CacheError, match="changed since it was written"):
        FaceStore.open(tmp_path, KEY)
