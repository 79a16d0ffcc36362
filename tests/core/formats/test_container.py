"""Arrays outside of shards: what was written comes back, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from faceguide.core.errors import CacheError
from faceguide.core.formats.container import read_about, read_array, read_arrays, write_arrays

ARRAYS = {
    "rank": np.arange(1000),
    "score": np.linspace(0, 1, 7),
    "half": np.ones((2, 3), np.float16),
    "same": np.array([True, False]),
    "none": np.empty((0, 4), np.float32),
    "one": np.array(3),
    "turned": np.arange(6).reshape(2, 3).T,
}


def test_what_was_written_comes_back_here_and_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_arrays(path, ARRAYS, {"key": "k", "é": 'ü"'})
    for found in (read_arrays(path, "again").arrays, load_file(path)):
        assert set(found) == set(ARRAYS)
        for name, values in ARRAYS.items():
            assert found[name].dtype == values.dtype
            np.testing.assert_array_equal(found[name], values)
    assert read_arrays(path, "again").about == read_about(path, "again") == {"key": "k", "é": 'ü"'}
    np.testing.assert_array_equal(read_array(path, "rank", "again"), ARRAYS["rank"])
    assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a", ARRAYS, {"x": "1", "y": "2"})
    write_arrays(tmp_path / "b", ARRAYS, {"y": "2", "x": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_changed_byte_and_every_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_arrays(path, {"rank": np.arange(9)}, {"key": "k"})
    whole = path.read_bytes()
    damaged = [whole[:end] for end in range(len(whole))] + [whole + b"\0"]
    for place, byte in enumerate(whole):
        damaged.append(whole[:place] + bytes([byte ^ 1]) + whole[place + 1 :])
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(CacheError, match=r"a: (changed since|not readable|holds).*; remake it"):
            read_arrays(path, "remake it")


def test_what_cannot_be_used_is_named_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with pytest.raises(FileNotFoundError):
        read_arrays(path, "again")
    write_arrays(path, {"y": np.arange(5)})
    with pytest.raises(CacheError, match=r"a: has no x; make it again"):
        read_arrays(path, "make it again", ["y", "x"])
    path.write_bytes(save({"y": np.arange(5)}))
    with pytest.raises(CacheError, match=r"a: changed since it was written"):
        read_arrays(path, "make it again")
    with pytest.raises(SafetensorError):
        write_arrays(path, {"objects": np.array([print], object)})
