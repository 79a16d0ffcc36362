"""RecordIO against a small writer of the same format, and against damage."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.core.formats.recordio_writer import MAGIC_BYTES, part, record, write

from faceguide.core.formats.recordio import (
    MAGIC,
    MAXIMUM_PARTS,
    RecordError,
    declared_images,
    entries,
    read_index,
    read_record,
)


@pytest.fixture
def rec(tmp_path: Path) -> Path:
    """insightface's layout: header record, three images, two identity records."""
    path = tmp_path / "train.rec"
    images = [record(b"one", 5.0), record(b"two!", [5.0, 1.0]), record(b"three", 9.0)]
    write(
        path, [record(b"", [4.0, 6.0]), *images, record(b"", [1.0, 3.0]), record(b"", [3.0, 4.0])]
    )
    return path


def test_the_header_says_which_keys_are_images(rec: Path) -> None:
    assert [(entry.key, entry.label) for entry in entries(rec)] == [(1, 5.0), (2, 5.0), (3, 9.0)]
    images = [read_record(rec, entry.offset).image for entry in entries(rec)]
    assert images == [b"one", b"two!", b"three"]


def test_without_an_index_the_file_is_walked(rec: Path) -> None:
    indexed = list(entries(rec))
    rec.with_suffix(".idx").unlink()
    assert list(entries(rec)) == indexed


def test_without_a_header_every_key_is_an_image(tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    write(path, [record(b"one", 5.0), record(b"two", [6.0, 1.0])])
    assert [(entry.key, entry.label) for entry in entries(path)] == [(0, 5.0), (1, 6.0)]
    write(path, [record(b"one", [2.0, 2.0]), record(b"two", 6.0)])
    assert [(entry.key, entry.label) for entry in entries(path)] == [(0, 2.0), (1, 6.0)]


def test_the_header_may_come_last_in_the_index(rec: Path) -> None:
    lines = rec.with_suffix(".idx").read_text().splitlines()
    rec.with_suffix(".idx").write_text("\n".join([*lines[1:], lines[0]]))
    assert [entry.key for entry in entries(rec)] == [1, 2, 3]


@pytest.mark.parametrize("end", [math.nan, math.inf, -3.0])
def test_a_senseless_header_hides_no_image(tmp_path: Path, end: float) -> None:
    path = tmp_path / "train.rec"
    write(path, [record(b"", [end, 0.0]), record(b"one", 5.0)])
    assert [entry.key for entry in entries(path)] == [1]


def test_the_magic_number_inside_an_image_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    image = b"abcd" + MAGIC_BYTES + b"ef"
    data = record(image, 3.0)
    assert data.count(MAGIC_BYTES) == 2  # two parts, and the image's own was dropped
    offsets = write(path, [data, record(b"next", 4.0)])
    assert read_record(path, offsets[0]).image == image
    assert read_record(path, offsets[1]).image == b"next"
    path.with_suffix(".idx").unlink()
    assert [entry.offset for entry in entries(path)] == offsets


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from([b"x", b"yyyy", MAGIC_BYTES]), min_size=1, max_size=6),
            st.one_of(
                st.floats(width=32, allow_nan=False),
                st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=4),
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_round_trip(tmp_path: Path, content: list[tuple[list[bytes], float | list[float]]]) -> None:
    path = tmp_path / "set.rec"
    offsets = write(path, [record(b"".join(image), label) for image, label in content])
    for offset, (image, label) in zip(offsets, content, strict=True):
        found = read_record(path, offset)
        assert found.image == b"".join(image)
        assert found.labels == (tuple(label) if isinstance(label, list) else (label,))
    indexed = list(entries(path))
    path.with_suffix(".idx").unlink()
    assert [entry.offset for entry in indexed] == offsets
    assert list(entries(path)) == indexed


def test_a_truncated_file_loses_only_its_end(rec: Path) -> None:
    *_, last = list(entries(rec))
    rec.write_bytes(rec.read_bytes()[: last.offset + 20])
    found = list(entries(rec))
    assert [entry.key for entry in found] == [1, 2, 3]
    assert [bool(entry.fault) for entry in found] == [False, False, True]
    with pytest.raises(RecordError, match=r"truncated"):
        read_record(rec, last.offset)
    rec.with_suffix(".idx").unlink()
    walked = list(entries(rec))
    assert [entry.key for entry in walked] == [1, 2, 3]
    assert walked[-1].fault.endswith("what follows it cannot be found")


@pytest.mark.parametrize("offset", [-4, 10**9, 10**30])
def test_an_offset_outside_the_file(rec: Path, offset: int) -> None:
    with pytest.raises(RecordError, match="lies beyond the file's"):
        read_record(rec, offset)


def test_an_offset_between_records(rec: Path) -> None:
    with pytest.raises(RecordError, match=r"expected a record .0xced7230a., found 0x"):
        read_record(rec, 4)


def test_lengths_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    path.write_bytes(struct.pack("<II", MAGIC, (1 << 29) - 1) + bytes(40))
    with pytest.raises(RecordError, match="it is truncated"):
        read_record(path, 0)
    path.write_bytes(part(0, struct.pack("<IfQQ", 0xFFFFFFFF, 0.0, 0, 0)))
    with pytest.raises(RecordError, match="claims 4294967295 labels in 24 bytes"):
        read_record(path, 0)
    path.write_bytes(part(0, b"short"))
    with pytest.raises(RecordError, match="has 5 bytes and no header"):
        read_record(path, 0)


def test_parts_out_of_order(tmp_path: Path) -> None:
    path = tmp_path / "train.rec"
    path.write_bytes(part(3, bytes(24)))
    with pytest.raises(RecordError, match="part flag 3"):
        read_record(path, 0)
    path.write_bytes(part(1, bytes(24)) + part(0, bytes(24)))
    with pytest.raises(RecordError, match="part flag 0"):
        read_record(path, 0)
    path.write_bytes(part(1, b"") + part(2, b"") * (2 * MAXIMUM_PARTS))
    with pytest.raises(RecordError, match=f"has over {MAXIMUM_PARTS} parts"):
        read_record(path, 0)


@pytest.mark.parametrize("line", ["one\t0", "1", "1\t2\t3", "1\t-4", "9" * 200 + "\t0"])
def test_an_index_of_something_else(rec: Path, line: str) -> None:
    rec.with_suffix(".idx").write_text("0\t0\n" + line + "\n")
    with pytest.raises(RecordError, match=r"train.idx, line 2: expected key<TAB>offset, found"):
        list(entries(rec))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(part, st.integers(0, 7), st.binary(max_size=40)),
            st.builds(record, st.binary(max_size=9), st.floats(width=32)),
        ),
        max_size=6,
    ),
    index=st.one_of(
        st.none(),
        st.binary(max_size=40),
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 300))),
    ),
)
def test_any_bytes_give_entries_or_one_error(
    tmp_path: Path, data: list[bytes], index: bytes | list[tuple[int, int]] | None
) -> None:
    path = tmp_path / "train.rec"
    path.write_bytes(b"".join(data))
    path.with_suffix(".idx").unlink(missing_ok=True)
    if isinstance(index, list):
        index = "".join(f"{key}\t{offset}\n" for key, offset in index).encode()
    if index is not None:
        path.with_suffix(".idx").write_bytes(index)
    try:
        found = list(entries(path))
        if index is not None:
            list(read_index(path.with_suffix(".idx")))
    except RecordError:
        return
    for entry in found:
        if entry.fault:
            assert math.isnan(entry.label)
            continue
        labels = read_record(path, entry.offset).labels
        assert labels[:1] == (entry.label,) or math.isnan(entry.label)


# An index that is not the file's


def lines_of(rec: Path) -> list[str]:
    return rec.with_suffix(".idx").read_text().splitlines()


def with_index(rec: Path, *lines: str) -> None:
    rec.with_suffix(".idx").write_text("".join(f"{line}\n" for line in lines))


def test_blank_lines_of_an_index_are_none(rec: Path) -> None:
    wanted = list(entries(rec))
    with_index(rec, *lines_of(rec), "")
    assert list(entries(rec)) == wanted
    with_index(rec, *lines_of(rec)[:2], "  ", *lines_of(rec)[2:], "", "")
    assert list(entries(rec)) == wanted
    rec.with_suffix(".idx").write_bytes("\r\n".join(lines_of(rec)).encode())
    assert list(entries(rec)) == wanted


@pytest.mark.parametrize("text", ["", "\n", " \n\n"])
def test_an_empty_index_is_refused(rec: Path, text: str) -> None:
    rec.with_suffix(".idx").write_text(text)
    with pytest.raises(RecordError, match=r"train\.idx: holds no line"):
        list(entries(rec))


@pytest.mark.parametrize(
    "kept", [range(2), range(3), (0, 1, 3, 4, 5), (0, 2, 3, 4, 5), (3, 1, 0), (2, 3)]
)
def test_an_index_that_leaves_an_image_out_is_refused(rec: Path, kept: range | tuple[int]) -> None:
    lines = lines_of(rec)
    with_index(rec, *(lines[at] for at in kept))
    with pytest.raises(RecordError, match=r"train\.idx: .*byte \d+"):
        list(entries(rec))


@pytest.mark.parametrize("kept", [range(4), range(5), (5, 3, 1, 2, 4, 0)])
def test_an_index_may_leave_out_what_is_no_image(rec: Path, kept: range | tuple[int]) -> None:
    wanted = {entry.key: entry for entry in entries(rec)}
    lines = lines_of(rec)
    with_index(rec, *(lines[at] for at in kept))
    assert {entry.key: entry for entry in entries(rec)} == wanted


def test_one_key_or_one_offset_for_all_is_refused(rec: Path) -> None:
    fields = [line.split("\t") for line in lines_of(rec)]
    with_index(rec, *(f"1\t{offset}" for _, offset in fields))
    with pytest.raises(RecordError, match="5 lines repeat the key of another, 1 the first"):
        list(entries(rec))
    with_index(rec, *(f"{key}\t{fields[2][1]}" for key, _ in fields))
    with pytest.raises(RecordError, match="5 lines repeat the offset of another"):
        list(entries(rec))
    with_index(rec, *lines_of_last_twice(fields))
    with pytest.raises(RecordError, match="1 lines repeat the key of another, 5 the first"):
        list(entries(rec))


def lines_of_last_twice(fields: list[list[str]]) -> list[str]:
    return ["\t".join(field) for field in [*fields, fields[-1]]]


@pytest.mark.parametrize("shift", [4, 1, 1000])
def test_an_index_of_another_file_is_refused(rec: Path, shift: int) -> None:
    fields = [line.split("\t") for line in lines_of(rec)]
    with_index(rec, *(f"{key}\t{int(offset) + shift}" for key, offset in fields))
    with pytest.raises(RecordError, match=r"train\.idx: .*train\.rec"):
        list(entries(rec))
    # The beginning of a file fits every index.
    with_index(rec, *(f"{k}\t{int(o) + shift if int(o) else 0}" for k, o in fields))
    with pytest.raises(RecordError, match=r"train\.idx: "):
        list(entries(rec))


def test_offsets_beyond_all_files_are_no_index(rec: Path) -> None:
    with_index(rec, "0\t0", "1\t" + "9" * 30)
    with pytest.raises(RecordError, match="line 2: expected key<TAB>offset"):
        list(entries(rec))


@pytest.mark.parametrize("with_an_index", [True, False])
def test_big_endian_is_said(rec: Path, with_an_index: bool) -> None:
    data = rec.read_bytes()
    words = struct.unpack(f"<{len(data) // 4}I", data)
    rec.write_bytes(struct.pack(f">{len(words)}I", *words))
    if not with_an_index:
        rec.with_suffix(".idx").unlink()
    with pytest.raises(RecordError, match="big-endian; write it little-endian"):
        list(entries(rec))


@pytest.mark.parametrize("begin", [b"\x1f\x8b\x08\0", b"<!DOCTYPE html>", b"\0" * 64])
def test_a_file_that_begins_with_no_record_is_refused(rec: Path, begin: bytes) -> None:
    rec.write_bytes(begin + rec.read_bytes())
    rec.with_suffix(".idx").unlink()
    with pytest.raises(RecordError, match=r"train\.rec: byte 0: expected a record"):
        list(entries(rec))


def test_what_the_header_promises(rec: Path) -> None:
    assert declared_images(rec) == 3
    rec.with_suffix(".idx").unlink()
    assert declared_images(rec) == 3
    write(rec, [record(b"one", 5.0)])
    assert declared_images(rec) is None
