"""The one container for arrays outside of shards: safetensors that tell when a byte has changed.

Scores, embeddings, neighbours and exported weights lie in it. The header's metadata says what the
arrays are, in order, and holds the xxh3_128 of the file, taken with zeros in its own place; any
reader of safetensors reads these files. The package `safetensors` checks the header before a value
is believed: sizes, types, and that the arrays fill the file without gap or overlap.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from faceguide.core.errors import CacheError
from faceguide.core.files import reading, replacing

SUFFIX = ".safetensors"
_DIGEST = "xxh3_128"
_ZEROS = b"0" * 32
_PLACE = re.compile(rb'^\{"__metadata__":\{"xxh3_128":"([0-9a-f]{32})"')
_TYPES = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "I16": "<i2", "U16": "<u2", "F16": "<f2",
    "I32": "<i4", "U32": "<u4", "F32": "<f4", "I64": "<i8", "U64": "<u8", "F64": "<f8",
}  # fmt: skip


@dataclass(frozen=True)
class Container:
    """What a file holds.

    Attributes:
        about: the metadata, without the digest.
    """

    about: dict[str, str]
    arrays: dict[str, NDArray[Any]]


def sealed(plain: bytes, about: Mapping[str, str]) -> tuple[bytes, memoryview]:
    """Header and arrays of a file: equal arrays and metadata give equal bytes."""
    start = 8 + int.from_bytes(plain[:8], "little")
    arrays = memoryview(plain)[start:]
    metadata = {_DIGEST: _ZEROS.decode(), **dict(sorted(about.items()))}
    table = json.loads(plain[8:start])
    table.pop("__metadata__", None)
    described = {"__metadata__": metadata, **table}
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the arrays begin at a multiple of 8
    header = len(text).to_bytes(8, "little") + text
    found = xxhash.xxh3_128(header)
    found.update(arrays)
    return header.replace(_ZEROS, found.hexdigest().encode(), 1), arrays


def intact(whole: Any) -> bool | None:
    """Whether the bytes of a file are those that were sealed; None for a file of another writer."""
    view = memoryview(whole)
    header = bytes(view[8:128])
    place = _PLACE.match(header)
    if place is None:
        return None
    first = 8 + place.start(1)
    found = xxhash.xxh3_128(view[:first])
    found.update(_ZEROS)
    found.update(view[first + len(_ZEROS) :])
    return found.hexdigest().encode() == place[1]


def metadata_of(whole: bytes) -> dict[str, str]:
    """The metadata of a file that safetensors has read, without the digest."""
    start = 8 + int.from_bytes(whole[:8], "little")
    about = dict(json.loads(whole[8:start]).get("__metadata__") or {})
    about.pop(_DIGEST, None)
    return about


def write_sealed(path: Path, plain: bytes, about: Mapping[str, str]) -> None:
    """Write what a `save` of safetensors gave, sealed, whole or not at all.

    Raises:
        CacheError: when the system refuses the write.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        for part in sealed(plain, about):
            file.write(part)


def write_arrays(
    path: Path, arrays: Mapping[str, NDArray[Any]], about: Mapping[str, str] | None = None
) -> None:
    """Write arrays of numbers as one file, whole or not at all.

    Raises:
        CacheError: when the system refuses the write.
    """
    contiguous = {name: np.asarray(values, order="C") for name, values in arrays.items()}
    write_sealed(path, save(contiguous), about or {})


def read_about(path: Path, remedy: str) -> dict[str, str]:
    """The metadata of a file; its arrays are not looked at.

    Args:
        remedy: what to do about a file that cannot be used, for the error.

    Raises:
        CacheError: when the file is no container.
        FileNotFoundError: when there is none.
    """
    return _header(path, remedy)[0]


def read_array(path: Path, name: str, remedy: str) -> NDArray[Any]:
    """One array, mapped; the digest of the file is not looked at.

    Raises:
        CacheError: when the file is no container, or lacks the array.
        FileNotFoundError: when there is none.
    """
    _, table = _header(path, remedy)
    if name not in table:
        raise CacheError(f"{path}: has no {name}; {remedy}")
    return _view(_mapped(path), table[name])


def read_arrays(path: Path, remedy: str, names: Iterable[str] = ()) -> Container:
    """All of a file, mapped, once it was compared with its digest.

    Args:
        remedy: what to do about a file that cannot be used, for the error.
        names: arrays that it must hold.

    Raises:
        CacheError: when the file is no container, was changed since it was written, or lacks an
            array.
        FileNotFoundError: when there is none.
    """
    about, table = _header(path, remedy)
    whole = _mapped(path)
    if not intact(whole):
        raise CacheError(f"{path}: changed since it was written; {remedy}")
    if lacking := [name for name in names if name not in table]:
        raise CacheError(f"{path}: has no {lacking[0]}; {remedy}")
    return Container(about, {name: _view(whole, entry) for name, entry in table.items()})


def _mapped(path: Path) -> mmap.mmap:
    with reading(path), path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def _header(path: Path, remedy: str) -> tuple[dict[str, str], dict[str, dict[str, Any]]]:
    """Metadata, and type, shape and place of each array, once safetensors believes them."""
    try:
        with safe_open(path, framework="np") as file:
            about = dict(file.metadata() or {})
        with reading(path), path.open("rb") as plain:
            length = int.from_bytes(plain.read(8), "little")
            table = json.loads(plain.read(length))
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError) as error:
        text = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CacheError(f"{path}: not readable as safetensors ({text}); {remedy}") from None
    table.pop("__metadata__", None)
    for entry in table.values():
        if entry["dtype"] not in _TYPES:
            raise CacheError(f"{path}: holds {entry['dtype']}; {remedy}")
        entry["start"] = 8 + length + entry["data_offsets"][0]
    about.pop(_DIGEST, None)
    return about, table


def _view(whole: mmap.mmap, entry: Mapping[str, Any]) -> NDArray[Any]:
    dtype, shape = np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"])
    return np.ndarray(shape, dtype, whole, entry["start"])
