"""Verification sets as every Python wrote them, and pickles that want more than data."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceguide.core.formats.verification_bin import VerificationBinError, load, read_pairs

IMAGES = [f"image {number}".encode() * (number + 1) for number in range(6)]
SAME = [True, False, True]


@pytest.mark.parametrize("protocol", range(6))
def test_encoded_images_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((IMAGES, SAME), protocol))
    found = load(path)
    assert found.images == IMAGES
    assert found.same == SAME


def test_as_python_2_wrote_it(tmp_path: Path) -> None:
    # Protocol 2 with str as bytes: ']' list, 'U' short and 'T' long strings, then the flags.
    data = b"\x80\x02]q\x00(U\x04\xff\xd8\xff\xe0T" + struct.pack("<i", 300) + bytes(300) + b"e"
    data += b"]q\x01\x88a\x86."
    path = tmp_path / "lfw.bin"
    path.write_bytes(data)
    assert load(path).images == [b"\xff\xd8\xff\xe0", bytes(300)]
    assert read_pairs(path) == [("00000000", "00000001", True)]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays(tmp_path: Path, protocol: int, order: Any) -> None:
    generator = np.random.default_rng(0)
    images = [
        np.asarray(generator.integers(0, 256, (8, 6, 3)), np.uint8, order=order) for _ in IMAGES
    ]
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((images, np.array(SAME)), protocol))
    found = load(path)
    for image, expected in zip(found.images, images, strict=True):
        assert np.array_equal(image, expected)
    assert found.same == SAME


def test_arrays_of_numpy_2_and_of_encoded_bytes(tmp_path: Path) -> None:
    images = [np.frombuffer(image, np.uint8) for image in IMAGES]
    data = pickle.dumps((images, [np.bool_(flag) for flag in SAME]), 3)
    older = data.replace(b"cnumpy._core.", b"cnumpy.core.")  # whichever numpy runs the test
    newer = older.replace(b"cnumpy.core.", b"cnumpy._core.")
    assert newer != older
    for content in (older, newer):
        path = tmp_path / f"{len(content)}.bin"
        path.write_bytes(content)
        assert load(path).images == IMAGES
        assert load(path).same == SAME


def test_pairs(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((IMAGES, SAME)))
    assert read_pairs(path)[1:] == [
        ("00000002", "00000003", False),
        ("00000004", "00000005", True),
    ]


def test_a_process_reads_a_file_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((IMAGES, SAME)))
    assert load(path) is load(path)
    path.write_bytes(pickle.dumps((IMAGES[:2], SAME[:1])))
    assert len(load(path).images) == 2


class Runs:
    """Pickles into a call of whatever it was given."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.reduced = call, arguments

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("call", "name"),
    [(os.system, "system"), (subprocess.check_call, "check_call"), (eval, "eval"), (exec, "exec")],
)
def test_a_payload_does_nothing(tmp_path: Path, call: Any, name: str, protocol: int) -> None:
    touched = tmp_path / "touched"
    shell = f"touch {touched}"
    python = f"open({str(touched)!r}, 'w')"
    argument = {"system": shell, "check_call": shell.split()}.get(name, python)
    payload = pickle.dumps((Runs(call, argument), SAME), protocol)
    path = tmp_path / "lfw.bin"
    path.write_bytes(payload)
    with pytest.raises(VerificationBinError, match=rf"asks for \S+\.{name}, .*nothing was run"):
        load(path)
    assert not touched.exists()
    # The payload is a real one: the plain reader, in its own process, obeys it.
    obey = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    if protocol == 4:
        subprocess.run([sys.executable, "-c", obey, str(path)], check=True)
        assert touched.exists()


@pytest.mark.parametrize(
    ("call", "arguments", "name"),
    [
        (bytes, (10**13,), "damaged or other file"),
        (bytearray, (10**13,), r"builtin\w*.bytearray"),
        (np.zeros, ((10**13,),), "zeros"),
        (np.ndarray, ((10**13,),), "damaged or other file"),
        (getattr, ("x", "join"), "getattr"),
        (np.load, ("x", None, True), "load"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, call: Any, arguments: Any, name: str) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps((Runs(call, *arguments), SAME), 2))
    with pytest.raises(VerificationBinError, match=name):
        load(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x04}.", "uses EMPTY_DICT, which a verification set does not need"),
        (b"\x80\x04\x8f.", "uses EMPTY_SET"),
        (b"Pname\n.", "uses PERSID"),
        (b"\x82\x01.", "uses EXT1"),
        (b"(ios\nsystem\n.", "uses INST"),
        (b"\xfe.", "uses 0xfe"),
        (b"cos\nsystem\n.", "asks for os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for os.system"),
        (b"c\x1b[31m\nx\n.", r"asks for \\x1b\[31m.x"),
        (b"\x80\x04B\xff\xff\xff\xff", "the file is truncated"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x", "the file is truncated"),
        (b"\x80\x04\x95" + struct.pack("<Q", 1 << 60), "the file is truncated"),
        (b"T\xff\xff\xff\xff", "damaged or other file"),
        (b"", "the file is truncated"),
        (b"hello, world", "uses|damaged|truncated"),
        (b"]" * 20_000 + b".", "too many objects for a file of this size"),
        (b"(" * 20_000 + b".", "too many objects for a file of this size"),
        (b"Nr\xff\xff\xff\x7f.", r"expected \(list of images, list of bool\)"),
    ],
)
def test_hostile_opcodes(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(VerificationBinError, match=message):
        load(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGES, "expected .list of images, list of bool."),
        ((IMAGES, SAME[:2]), "found 6 images for 2 pairs"),
        ((IMAGES, "yes"), "found str in place of a list"),
        (([*IMAGES[:5], 3], SAME), "image 5 is int"),
        (([*IMAGES[:5], [b"x"]], SAME), "image 5 is list"),
        ((IMAGES, [True, 2, False]), "the answer of pair 1 is not a bool"),
        ((IMAGES, [True, "no", False]), "the answer of pair 1 is not a bool"),
        (([np.zeros((4, 4, 3))] * 6, SAME), "expected uint8 arrays, found 'f8'"),
        (([np.array([None])] * 6, SAME), "expected uint8 arrays, found 'O8'"),
    ],
)
def test_other_content(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(content, 2))
    with pytest.raises(VerificationBinError, match=message):
        load(path)


def test_an_array_whose_shape_does_not_fit(tmp_path: Path) -> None:
    data = pickle.dumps(([np.zeros((8, 8, 3), np.uint8)] * 2, [True]), 2)
    path = tmp_path / "lfw.bin"
    path.write_bytes(data.replace(b"K\x08K\x08K\x03\x87", b"K\xffK\xffK\xff\x87"))
    assert path.read_bytes() != data
    with pytest.raises(VerificationBinError, match="shape"):
        load(path)


VALID = [pickle.dumps((IMAGES[:2], SAME[:1]), protocol) for protocol in (0, 2, 4)] + [
    pickle.dumps(([np.zeros((2, 2, 3), np.uint8)] * 2, [np.True_]), p) for p in (2, 5)
]


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    data=st.sampled_from(VALID),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=3)), max_size=6
    ),
)
def test_damaged_sets_load_or_are_refused(
    tmp_path: Path, data: bytes, changes: list[tuple[float, bytes]]
) -> None:
    content = bytearray(data)
    for place, value in changes:
        at = int(place * len(content))
        content[at : at + 1] = value
    path = tmp_path / "lfw.bin"
    path.write_bytes(content)
    os.utime(path, ns=(0, hash(bytes(content)) & 0xFFFFFFFFFFFF))  # the last one read is kept
    try:
        found = load(path)
    except VerificationBinError:
        return
    assert len(found.images) == 2 * len(found.same)
    assert all(isinstance(image, bytes | np.ndarray) for image in found.images)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=60))
def test_any_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(data)
    os.utime(path, ns=(0, hash(data) & 0xFFFFFFFFFFFF))
    with pytest.raises(VerificationBinError):
        load(path)
