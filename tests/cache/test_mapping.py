"""Columns over many shards: where each shard lies, and what is read when it cannot lie there."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cache.builder import build

from faceguide.cache import FaceCache, mapping
from faceguide.cache.mapping import MappedColumn, SplitColumn, place_shards
from faceguide.cache.shard import ALIGNMENT
from faceguide.cache.shard_files import ShardFiles
from faceguide.core.errors import CacheError

HUGE = 2 << 20


@given(
    row_bytes=st.sampled_from([1, 4, 8, 98, 784, 5736, 36963, 37632, 150528, 602112]),
    pages=st.lists(st.integers(0, 2000), min_size=1, max_size=20),
    shard_rows=st.integers(1, 3000),
    alignment=st.sampled_from([ALIGNMENT, 1 << 16, HUGE]),
)
def test_shards_lie_apart_and_agree_with_their_files(
    row_bytes: int, pages: list[int], shard_rows: int, alignment: int
) -> None:
    starts = [page * ALIGNMENT for page in pages]
    places = place_shards(starts, [shard_rows] * len(starts), row_bytes, alignment)
    if places is None:  # only where no row of a whole number of big pages can begin
        assert alignment > ALIGNMENT
        assert row_bytes % ALIGNMENT == 0 or len(pages) * row_bytes * alignment > 1 << 40
        return
    free = -alignment
    for start, place in zip(starts, places, strict=True):
        address = place * row_bytes
        assert (address - start) % alignment == 0
        assert address // alignment * alignment >= free
        free = -(-(address + shard_rows * row_bytes) // alignment) * alignment


def test_a_row_of_big_pages_cannot_begin_anywhere() -> None:
    assert place_shards([ALIGNMENT], [10], 3 << 18, HUGE) is None
    assert place_shards([ALIGNMENT], [10], 3 << 18, ALIGNMENT) is not None


@pytest.mark.parametrize(
    ("shard_rows", "names", "alignment"),
    [
        (32, ("image", "landmarks", "label", "visibility"), mmap.PAGESIZE),
        (1500, ("landmarks",), HUGE),  # 8.2 MiB a shard
        (1500, ("image", "label"), mmap.PAGESIZE),
    ],
)
def test_addresses_and_file_offsets_agree_modulo_pages(
    shard_rows: int, names: tuple[str, ...], alignment: int, tmp_path: Path
) -> None:
    """Huge pages, which the system can use then, where the shards' columns are some of them."""
    build(tmp_path / "cache", rows=3 * shard_rows, shard_rows=shard_rows)
    cache = FaceCache.open(tmp_path / "cache")
    for name in names:
        cache.read([0], [name])
        volume = cache.volumes[0]
        column = volume.column(volume.group_of[name], volume.specs[name])
        assert isinstance(column, MappedColumn)
        starts = [shard["offsets"][name] for shard in cache.groups[volume.group_of[name]]["shards"]]
        places = place_shards(starts, [shard_rows] * 3, column.spec.row_bytes, alignment)
        assert column._first_rows.tolist() == places
        base = column.view.__array_interface__["data"][0]
        for start, first in zip(starts, column._first_rows.tolist(), strict=True):
            assert (base + first * column.spec.row_bytes - start) % alignment == 0


def test_every_way_to_read_gives_the_same_rows(tmp_path: Path) -> None:
    build(tmp_path / "cache", rows=100, shard_rows=32)
    cache = FaceCache.open(tmp_path / "cache")
    rows = np.random.default_rng(0).integers(0, 100, 257)
    shards, slots = np.divmod(rows, 32)
    for name in ("image", "landmarks", "label", "visibility"):
        group = cache.volumes[0].group_of[name]
        files = ShardFiles(cache.directory, group, cache.groups[group])
        split = SplitColumn(files, cache.specs[name])
        expected = np.zeros((257, *cache.specs[name].shape), cache.specs[name].dtype)
        split.take(shards, slots, expected)
        np.testing.assert_array_equal(cache.read(rows, [name])[name], expected)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize(("store", "way"), [("raw", "all"), ("raw", "split"), ("jpeg", "all")])
def test_a_map_that_the_system_refuses_names_the_shard(
    store: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, rows=20, shard_rows=8, store=store)
    if way == "split":
        monkeypatch.setattr(mapping, "place_shards", lambda *_: None)

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    # A file that may be written only cannot be mapped for reading; numpy opens it by itself.
    monkeypatch.setattr(
        ShardFiles, "open", lambda files, shard: os.open(files.path(shard), os.O_WRONLY)
    )
    monkeypatch.setattr(mmap, "mmap", refused)
    cache = FaceCache.open(tmp_path)
    with pytest.raises(CacheError, match=r"faces-0000\d\.h5: cannot read: .*(rerun|owner)"):
        cache.read(np.arange(20), ["image"])


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_eight_columns_fit_into_the_maps_of_a_process() -> None:
    allowed = int(Path("/proc/sys/vm/max_map_count").read_text())
    assert allowed - 8 < 8 * mapping.maps_per_column() <= allowed


def test_more_shards_than_maps_give_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for store in ("raw", "jpeg"):
        build(tmp_path / store, rows=100, shard_rows=8, store=store)
        rows = np.random.default_rng(0).integers(0, 100, 257)
        expected = FaceCache.open(tmp_path / store).read(rows, ["image", "label"])
        with monkeypatch.context() as patch:
            patch.setattr(mapping, "maps_per_column", lambda: 3)
            found = FaceCache.open(tmp_path / store).read(rows, ["image", "label"])
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere shards are mapped one by one")
def test_a_billion_crops_have_addresses() -> None:
    rows, row_bytes = 10**9, 112 * 112 * 3
    lengths = [rows // 8000] * 8000
    places = place_shards([mmap.PAGESIZE] * 8000, lengths, row_bytes, HUGE)
    assert places is not None
    mapping._AddressRange((places[-1] + lengths[-1]) * row_bytes)


def test_few_addresses_are_enough(tmp_path: Path) -> None:
    """A batch system that limits the address space of a process still gets its rows."""
    build(tmp_path / "cache", rows=200, shard_rows=32)
    program = """
import resource, sys
import numpy as np
from faceguide.cache import FaceCache
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
cache = FaceCache.open(sys.argv[1])
landmarks = cache.read(range(200), ["landmarks"])["landmarks"]
mapped = cache.volumes[0].column("faces", cache.specs["landmarks"])
print(type(mapped).__name__, np.isfinite(landmarks).all((1, 2)).sum())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "cache")], capture_output=True, text=True
    )
    assert done.stdout.split() == ["MappedColumn", "180"], done.stderr
    # Aligned to huge pages the same column takes more than the limit.
    places = place_shards([mmap.PAGESIZE] * 7, [32] * 7, 478 * 12, HUGE)
    assert places is not None
    assert places[-1] * 478 * 12 > 300 << 20
