"""What a cache holds: groups, columns, units. docs/formats.md says the same in prose.

A column group is one HDF5 file per shard, so that a new group never rewrites an old one. The
layout below is schema 2; a reader refuses any other number. Every row has digests: xxh3, which
takes about as long as copying the row, so that every row that is read can be compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from faceguide.core.errors import CacheError
from faceguide.core.faces import LANDMARKS

SCHEMA = 2

GROUPS = ("faces", "guidance", "occlusion")

# The order is the code written to disk: append, never reorder.
STATUSES = (
    "ok",
    "no_face",
    "implausible",
    "empty",
    "not_an_image",
    "unreadable",
    "truncated",
    "too_large",
    "too_small",
    "missing",
    "outside",
    "damaged",
    "no_landmarks",
    "mask_refused",
)
ORIGINS = ("none", "detected", "retried", "imported", "template")

STATUS_CODE = {name: code for code, name in enumerate(STATUSES)}
ORIGIN_CODE = {name: code for code, name in enumerate(ORIGINS)}

SOURCE_BYTES = 16  # of the sha256 of a source file that a row keeps
REGIONS = ("eyes", "nose", "mouth")


# Rows of more bytes have a digest of their own; the others of a group share one.
_LARGE = 64
_MOST_BYTES = 1 << 26  # of a row in an optional column
_KINDS = ("|b1", "|u1", "|i1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<i8", "<u8", "<f8")
_ENCODED = "jpeg"
_RESERVED = ("key", "meta", "offset", "row", "digest")


@dataclass(frozen=True)
class Column:
    """One column as it is delivered: the same number of bytes for every row.

    Attributes:
        name: of the column and of its dataset.
        dtype, shape: of one row.
        encoded: the file holds one image file per row, cut by `offset/NAME`.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    encoded: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in memory."""
        return self.dtype.itemsize * math.prod(self.shape)

    @property
    def large(self) -> bool:
        """Whether its rows have a digest of their own."""
        return self.encoded or self.row_bytes > _LARGE

    def described(self) -> dict[str, Any]:
        """Type and shape, as a recipe and a manifest state them."""
        return {"dtype": _ENCODED if self.encoded else self.dtype.str, "shape": list(self.shape)}


def _column(name: str, dtype: str, *shape: int) -> Column:
    return Column(name, np.dtype(dtype), shape)


QUALITY = _column("quality", "<f4")
# Of the occlusion group, where a network filled in what no mask says.
ESTIMATED = _column("estimated", "|b1")
# What detection says of each face; imported landmarks have none of it.
OF_DETECTION = (QUALITY, _column("presence", "<f4"), _column("score", "<f4"))


def columns(group: str, recipe: dict[str, Any]) -> tuple[Column, ...]:
    """The columns of a group under its recipe, texts apart, in the order of the file.

    Large ones come first, then the small ones, then the digests: a shard's end then holds what
    decides whether a row counts. Columns that not every cache has stand in `recipe["columns"]`.

    Raises:
        CacheError: when the recipe lacks the sizes that the group needs, or they are absurd, or
            an optional column is not sound.
    """
    if group == "faces":
        size = _size(recipe, "size", 4096)
        always = [
            Column("image", np.dtype("|u1"), (size, size, 3), recipe.get("store") == "jpeg"),
            _column("landmarks", "<f4", LANDMARKS, 3),
            _column("transform", "<f4", 2, 3),
            _column("source", "|u1", SOURCE_BYTES),
            _column("pose", "<f4", 3),
            _column("source_size", "<i4", 2),
            _column("label", "<i8"),
            _column("faces", "|u1"),
            _column("status", "|u1"),
            _column("origin", "|u1"),
        ]
    elif group == "guidance":
        grid = _size(recipe, "grid", 1024)
        always = [
            _column("heatmap", "|u1", grid, grid),
            _column("regions", "|u1", len(REGIONS), grid, grid),
        ]
    else:
        grid = _size(recipe, "grid", 1024)
        always = [
            _column("visibility", "<f2", grid, grid),
            _column("known", "|b1"),
            _column("status", "|u1"),
        ]
    every = always + _optional(recipe, {*_RESERVED, *(column.name for column in always)})
    every.sort(key=lambda column: not column.large)
    return (*every, _column("digest", "<u8", len(digested(every))))


def digested(specs: Iterable[Column]) -> list[tuple[str, ...]]:
    """Which columns each digest of a row covers: every large one by itself, the small ones joined.

    Args:
        specs: what `columns` gives, with or without the digests themselves.
    """
    named = [spec for spec in specs if spec.name != "digest"]
    small = tuple(spec.name for spec in named if not spec.large)
    return [*((spec.name,) for spec in named if spec.large), *([small] if small else [])]


def _optional(recipe: dict[str, Any], taken: set[str]) -> list[Column]:
    """The columns that a recipe names besides those of every cache."""
    listed = recipe.get("columns", {})
    found = []
    try:
        for name, stated in sorted(listed.items()):
            kind, shape = stated["dtype"], tuple(stated["shape"])
            encoded = kind == _ENCODED
            sound = (
                re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name)
                and name not in taken
                and kind in (*_KINDS, _ENCODED)
                and len(shape) <= 8
                and all(type(side) is int and side >= 1 for side in shape)
                and (not encoded or (len(shape) == 3 and shape[2] == 3))
            )
            column = Column(name, np.dtype("|u1" if encoded else kind), shape, encoded)
            if not sound or column.row_bytes > _MOST_BYTES:
                raise ValueError(name)
            found.append(column)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CacheError(f"recipe: its optional columns are not sound ({error})") from None
    return found


def _size(recipe: dict[str, Any], name: str, limit: int) -> int:
    value = recipe.get(name)
    if type(value) is not int or not 1 <= value <= limit:  # True is an int too
        raise CacheError(f"recipe: {name} must be a whole number from 1 to {limit}, found {value}")
    return value


def row_digests(*columns: NDArray[Any]) -> NDArray[np.uint64]:
    """xxh3_64 of each row of the columns, one behind the other.

    Args:
        columns: (N, …) each.

    Returns:
        (N,).
    """
    flat = [
        np.ascontiguousarray(column).reshape(len(column), -1).view(np.uint8) for column in columns
    ]
    joined = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
    return piece_digests(joined)


def piece_digests(pieces: Sequence[Any] | NDArray[np.uint8]) -> NDArray[np.uint64]:
    """xxh3_64 of each piece of bytes, (N,)."""
    return np.fromiter(map(xxhash.xxh3_64_intdigest, pieces), np.uint64, len(pieces))


def bytes_digest(*parts: Any) -> str:
    """Hex xxh3_64 of bytes, one part behind the other."""
    found = xxhash.xxh3_64()
    for part in parts:
        found.update(part)
    return found.hexdigest()
