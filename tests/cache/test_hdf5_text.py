"""Text is read as it was written, and never on the word of a damaged file."""

from __future__ import annotations

import resource
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceguide.core.formats.hdf5 import (
    attribute,
    open_dataset,
)
from faceguide.core.formats.hdf5_text import require_bounded_text

TEXT = h5py.string_dtype("utf-8")
LAYOUTS = ({}, {"chunks": (3,)}, {"chunks": (3,), "compression": "gzip"})


def write(path: Path, values: list[str], **layout: object) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("key", data=[value.encode() for value in values], dtype=TEXT, **layout)


@given(
    values=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=3),
    layout=st.sampled_from(LAYOUTS),
)
def test_whatever_was_written_is_read(
    values: list[str], layout: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("text") / "file.h5"
    write(path, values, **layout)
    with h5py.File(path) as file:
        found = open_dataset(file, "key", (len(values),), None)[:]
    assert [value.decode() for value in found] == values


def test_lengths_and_heaps_that_the_file_cannot_hold_are_refused_before_any_room_is_made(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file.h5"
    write(path, ["first", "second!"])
    with h5py.File(path) as file:
        start = file["key"].id.get_offset()
    pristine = path.read_bytes()
    first = np.frombuffer(pristine[start : start + 16], "<u4,<u8,<u4")[0]
    place = int(first[1])
    assert (int(first[0]), pristine[place : place + 4]) == (5, b"GCOL")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for at, width, value, message in (
        (start, 4, 2**32 - 1, "claims text of 4294967295 bytes"),
        (start + 4, 8, 2**40, "points to no text at byte 1099511627776"),
        (start + 4, 8, place + 8, f"points to no text at byte {place + 8}"),
        (place + 8, 8, 2**33, f"points to no text at byte {place}"),
        # The third object is what is free: with no length its end would never be reached.
        (place + 16 + 24 + 24 + 8, 8, 0, f"its texts at byte {place} are damaged"),
        (place + 16 + 8, 8, 2**20, f"its texts at byte {place} are damaged"),
    ):
        damaged = bytearray(pristine)
        damaged[at : at + width] = value.to_bytes(width, "little")
        path.write_bytes(damaged)
        with h5py.File(path) as file, pytest.raises(ValueError, match=message):
            open_dataset(file, "key", (2,), None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_other_layouts_and_text_of_fixed_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    write(path, ["a", "b", "c"], chunks=(3,), compression="gzip", shuffle=True)
    with h5py.File(path) as file, pytest.raises(ValueError, match="packed otherwise than by gzip"):
        require_bounded_text(file["key"])
    with h5py.File(path, "w") as file:
        file["key"] = np.array([b"a", b"b"], "S5")
    with h5py.File(path) as file, pytest.raises(ValueError, match=r"is \|S5 \(2,\), expected text"):
        open_dataset(file, "key", (2,), None)


def test_attributes_of_variable_or_great_length_are_none(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "file.h5", "w") as file:
        file.attrs["fixed"] = np.bytes_(b"key")
        file.attrs["number"] = np.uint32(7)
        file.attrs["text"] = "of variable length"
        file.attrs["long"] = np.bytes_(b"a" * 5000)
        assert attribute(file, "fixed") == b"key"
        assert attribute(file, "number") == 7
        assert attribute(file, "text") is attribute(file, "long") is attribute(file, "no") is None
