"""Archives of arrays with a digest behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from faceguide.core.errors import CacheError
from faceguide.core.files import append_digest
from faceguide.core.formats.npz import (
    read_npz,
    write_npz,
)


def test_numpy_reads_what_was_written_and_so_do_we(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, rank=np.arange(100_000), name=np.array("x"))
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["rank"], np.arange(100_000))
    found = read_npz(path, ["name", "rank"], "again")
    assert str(found["name"]) == "x"
    np.testing.assert_array_equal(found["rank"], np.arange(100_000))
    assert [one.name for one in tmp_path.iterdir()] == ["a.npz"]


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, values=np.arange(5))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_what_cannot_be_used_is_named_with_its_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError):
        read_npz(path, ["x"], "again")
    write_npz(path, y=np.arange(5))
    with pytest.raises(CacheError, match=r"a\.npz: not readable .*x.*; make it again"):
        read_npz(path, ["x"], "make it again")
    whole = bytearray(path.read_bytes())
    whole[150] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CacheError, match=r"a\.npz: changed since it was written; make it again"):
        read_npz(path, ["y"], "make it again")


@pytest.mark.parametrize("kind", ["packed", "pickle"])
def test_nothing_is_unpacked_or_executed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    if kind == "packed":
        np.savez_compressed(path, x=np.zeros(1 << 20))
    else:
        np.savez(path, x=np.array([print], dtype=object))
    append_digest(path)  # as an attacker would
    with pytest.raises(CacheError, match=r"packed|allow_pickle=False"):
        read_npz(path, ["x"], "make it again")
