"""Verification sets such as lfw.bin: pairs of face images in a Python pickle.

The file is a pickle of (images, issame): a list of encoded images, two for each pair, and a list
of bool, one for each pair. Some copies hold uint8 arrays instead of encoded bytes.

A pickle from outside can run any program when it is loaded as it stands. Here only the opcodes
that such a set needs are interpreted, and the few names that it may ask for are answered with
stand-ins of this module: no code that the file names is ever looked up.
"""

from __future__ import annotations

import functools
import math
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from faceguide.core.errors import FaceguideError
from faceguide.core.formats.pickles import GuardedUnpickler, RefusedError

Image = bytes | NDArray[np.uint8]

_FRAMING = pickle.PROTO + pickle.FRAME + pickle.STOP + pickle.MARK + pickle.REDUCE + pickle.BUILD
_LISTS = pickle.EMPTY_LIST + pickle.LIST + pickle.APPEND + pickle.APPENDS
_TUPLES = pickle.EMPTY_TUPLE + pickle.TUPLE + pickle.TUPLE1 + pickle.TUPLE2 + pickle.TUPLE3
_FLAGS = pickle.NONE + pickle.NEWTRUE + pickle.NEWFALSE
_INTEGERS = pickle.INT + pickle.BININT + pickle.BININT1 + pickle.BININT2 + pickle.LONG1
_STRINGS = pickle.STRING + pickle.BINSTRING + pickle.SHORT_BINSTRING + pickle.UNICODE
_TEXTS = pickle.BINUNICODE + pickle.SHORT_BINUNICODE + pickle.BINUNICODE8
_BYTES = pickle.BINBYTES + pickle.SHORT_BINBYTES + pickle.BINBYTES8 + pickle.BYTEARRAY8
_WRITES = pickle.PUT + pickle.BINPUT + pickle.LONG_BINPUT + pickle.MEMOIZE
_READS = pickle.GET + pickle.BINGET + pickle.LONG_BINGET
_NAMED = pickle.GLOBAL + pickle.STACK_GLOBAL
_OPCODES = frozenset(_FRAMING + _LISTS + _TUPLES + _FLAGS + _INTEGERS + _STRINGS)
_OPCODES |= frozenset(_TEXTS + _BYTES + _WRITES + _READS + _NAMED)
_NAMES = {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}
_KINDS = {"u1": np.uint8, "b1": np.bool_}


class VerificationBinError(FaceguideError):
    """A .bin file that is no verification set, or one that wants more than data."""


@dataclass(frozen=True)
class VerificationSet:
    """Images 2i and 2i + 1 are pair i; arrays are taken to be RGB."""

    images: list[Image]
    same: list[bool]


def image_key(number: int) -> str:
    """The row key of image `number`."""
    return f"{number:08d}"


def read_pairs(path: Path) -> list[tuple[str, str, bool]]:
    """(row key, row key, same identity) of each pair, in the file's order.

    Raises:
        VerificationBinError: as `load`.
    """
    same = load(path).same
    return [(image_key(2 * i), image_key(2 * i + 1), flag) for i, flag in enumerate(same)]


def load(path: Path) -> VerificationSet:
    """Read the whole set; the last one read is kept, so that a process reads it once.

    Raises:
        VerificationBinError: when the file is damaged, no such set, or asks for anything but
            bytes, booleans and uint8 arrays.
        OSError: when the file cannot be read.
    """
    stat = path.stat()
    return _load(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _load(path: Path, size: int, modified: int) -> VerificationSet:
    with path.open("rb") as file:
        try:
            content = _Reader(_Bounded(file, size), size).load()
        except (VerificationBinError, RefusedError) as error:
            raise VerificationBinError(f"{path}: {error}") from None
        except Exception as error:  # a damaged pickle raises almost anything
            raise VerificationBinError(
                f"{path}: expected a pickled verification set, found a damaged or other file "
                f"({type(error).__name__}); fetch a fresh copy"
            ) from error
    try:
        images, same = content
        return _checked(_sequence(images), _sequence(same))
    except (TypeError, ValueError) as error:
        raise VerificationBinError(
            f"{path}: expected (list of images, list of bool), two images a pair; {error}"
        ) from error


def _sequence(value: Any) -> list[Any]:
    if isinstance(value, _Array):
        return value.array().tolist() if len(value.shape) == 1 else list(value.array())
    if not isinstance(value, list | tuple):
        raise TypeError(f"found {type(value).__name__} in place of a list")
    return list(value)


def _checked(images: list[Any], same: list[Any]) -> VerificationSet:
    if len(images) != 2 * len(same):
        raise ValueError(f"found {len(images)} images for {len(same)} pairs")
    for number, image in enumerate(images):
        if isinstance(image, _Array):
            # Encoded bytes are sometimes kept as a one-dimensional array.
            images[number] = image.raw if len(image.shape) == 1 else image.array()
        elif not isinstance(image, bytes | bytearray | np.ndarray):
            raise TypeError(f"image {number} is {type(image).__name__}")
    for number, flag in enumerate(same):
        if not isinstance(flag, bool | int) or flag not in (0, 1):
            raise TypeError(f"the answer of pair {number} is not a bool")
    return VerificationSet(
        [bytes(image) if isinstance(image, bytearray) else image for image in images],
        [bool(flag) for flag in same],
    )


class _Bounded:
    """A file that never hands out, or reserves memory for, more than it has."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def read(self, count: int) -> bytes:
        if count < 0:
            raise VerificationBinError(f"the pickle claims a length of {count}")
        data = self._file.read(min(count, self._size - self._file.tell()))
        if len(data) < count:
            raise VerificationBinError(
                f"ends at byte {self._size} in the middle of an item; the file is truncated"
            )
        return data

    def readline(self) -> bytes:
        return self._file.readline()


class _Dispatch(dict[int, Callable[..., None]]):
    """The opcodes that are obeyed, and how many of them.

    One byte of a pickle can make an object of a hundred; the count keeps the memory within a few
    times the size of the file.
    """

    def __init__(self, size: int) -> None:
        table = pickle._Unpickler.dispatch
        super().__init__({code: table[code] for code in table if code in _OPCODES})
        self._left = 10_000 + size // 16

    def __getitem__(self, code: int) -> Callable[..., None]:
        self._left -= 1
        if self._left < 0:
            raise VerificationBinError("too many objects for a file of this size; refused")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable[..., None]:
        name = _NAMES.get(code, f"0x{code:02x}")
        raise VerificationBinError(
            f"the pickle uses {name}, which a verification set does not need; refused"
        )


class _Dtype:
    def __init__(self, kind: Any, *_: Any) -> None:
        name = kind.decode("ascii", "replace") if isinstance(kind, bytes) else str(kind)
        self.kind = name.lstrip("|<>=")
        if self.kind not in _KINDS:
            raise VerificationBinError(f"expected uint8 arrays, found {name[:20]!r}")

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment mean nothing for one byte."""


class _Array:
    """What a pickled numpy array says of itself."""

    shape: tuple[int, ...] = (0,)
    raw: bytes = b""
    kind = "u1"
    order = "C"

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self._fill(raw, dtype, shape, "F" if fortran else "C")

    def _fill(self, raw: Any, dtype: Any, shape: Any, order: str) -> None:
        if not (
            isinstance(dtype, _Dtype)
            and isinstance(raw, bytes | bytearray)
            and isinstance(shape, tuple)
            and all(isinstance(side, int) and side >= 0 for side in shape)
            and 1 <= len(shape) <= 4
            and math.prod(shape) == len(raw)
        ):
            raise VerificationBinError("an array's shape does not fit its data")
        self.shape, self.raw, self.kind, self.order = shape, bytes(raw), dtype.kind, order

    def array(self) -> NDArray[Any]:
        flat: NDArray[Any] = np.frombuffer(self.raw, _KINDS[self.kind])
        return flat.reshape(self.shape, order="F" if self.order == "F" else "C")


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array._fill(raw, dtype, shape, order)
    return array


def _scalar(dtype: Any, raw: Any) -> bool:
    if not isinstance(dtype, _Dtype) or raw not in (b"\0", b"\1"):
        raise VerificationBinError("a number instead of a bool")
    return raw == b"\1"


def _latin1(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise VerificationBinError("bytes in an unknown encoding")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


_STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _latin1,
    ("builtins", "bytes"): _no_bytes,
}


class _Reader(GuardedUnpickler):
    makers = _STAND_INS

    def __init__(self, file: _Bounded, size: int) -> None:
        super().__init__(file, encoding="bytes")  # Python 2 wrote images as str
        self.dispatch = _Dispatch(size)  # type: ignore[misc]
