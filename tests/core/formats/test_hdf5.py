"""HDF5 files that were laid out in memory are those that HDF5 would have written, or an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from faceguide.core.errors import CacheError
from faceguide.core.files import replacing
from faceguide.core.formats.hdf5 import new_hdf5

SHARD = {"libver": ("earliest", "v110"), "alignment_threshold": 1, "alignment_interval": 4096}


def fill(file: h5py.File, rows: int) -> None:
    """Text, a column that is written and one that only has its place."""
    file.attrs["format"] = "faceguide"
    file.create_dataset("key", data=[f"k{i}" for i in range(rows)], dtype=h5py.string_dtype())
    file.create_dataset("values", data=np.random.default_rng(rows).random((rows, 7)))
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    space = h5py.h5s.create_simple((rows, 100_000))
    h5py.h5d.create(file.id, b"later", h5py.h5t.NATIVE_UINT8, space, properties)


@pytest.mark.parametrize("rows", [1, 13, 4000])
def test_the_bytes_are_those_of_hdf5(rows: int, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "theirs", "w", **SHARD) as file:
        fill(file, rows)
    with new_hdf5(tmp_path / "ours", **SHARD) as file:
        fill(file, rows)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert ours.stat().st_size == theirs.stat().st_size > rows * 100_000
    if rows < 100:
        assert ours.read_bytes() == theirs.read_bytes()
    with h5py.File(ours) as one, h5py.File(theirs) as two:
        assert list(one["key"]) == list(two["key"])
        np.testing.assert_array_equal(one["values"], two["values"])
        assert one["later"].id.get_offset() == two["later"].id.get_offset()


def test_a_full_disk_is_an_error_and_not_the_end_of_the_process(tmp_path: Path) -> None:
    """In a process of its own: HDF5 itself dies of a segmentation fault."""
    code = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from faceguide.core.errors import CacheError\n"
        "from faceguide.core.files import replacing\n"
        "from faceguide.core.formats.hdf5 import new_hdf5\n"
        "try:\n"
        "    with replacing(Path(sys.argv[1])) as temporary:\n"
        "        temporary.symlink_to('/dev/full')\n"
        "        with new_hdf5(temporary) as file:\n"
        "            file['a'] = np.zeros(100000)\n"
        "except CacheError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "file"], capture_output=True, text=True, check=True
    )
    assert "the disk is full" in done.stdout
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    def stop() -> None:
        with replacing(tmp_path / "file") as path, new_hdf5(path) as file:
            file["a"] = [1]
            raise CacheError("stop")

    with pytest.raises(CacheError, match="stop"):
        stop()
    assert list(tmp_path.iterdir()) == []
