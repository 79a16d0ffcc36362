"""What a cache holds: groups, columns, units. docs/formats.md says the same in prose.

A column group is one HDF5 file per shard, so that a new group never rewrites an old one. The
layout below is schema 1; a reader refuses any other number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from faceguide.core.errors import CacheError
from faceguide.core.faces import LANDMARKS

SCHEMA = 1

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

REGIONS = ("eyes", "nose", "mouth")


@dataclass(frozen=True)
class Column:
    """One fixed-size column: the same number of bytes for every row."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape)


def _column(name: str, dtype: str, *shape: int) -> Column:
    return Column(name, np.dtype(dtype), shape)


def columns(group: str, recipe: dict[str, Any]) -> tuple[Column, ...]:
    """The fixed-size columns of a group under its recipe, in the order of the file and the crc.

    Raises:
        CacheError: when the recipe lacks the sizes that the group needs, or they are absurd.
    """
    if group == "faces":
        size = _size(recipe, "size", 4096)
        image = (
            (_column("image", "|u1", size, size, 3),) if recipe.get("store") != "jpeg" else ()
        )  # an encoded image lives in `jpeg`, cut by `offset`
        return (
            *image,
            _column("landmarks", "<f4", LANDMARKS, 3),
            _column("transform", "<f4", 2, 3),
            _column("source_size", "<i4", 2),
            _column("label", "<i8"),
            _column("pose", "<f4", 3),
            _column("quality", "<f4"),
            _column("faces", "|u1"),
            _column("status", "|u1"),
            _column("origin", "|u1"),
            _column("crc", "<u4"),
        )
    grid = _size(recipe, "grid", 1024)
    if group == "guidance":
        return (
            _column("heatmap", "|u1", grid, grid),
            _column("regions", "|u1", len(REGIONS), grid, grid),
            _column("crc", "<u4"),
        )
    return (
        _column("visibility", "<f2", grid, grid),
        _column("known", "|b1"),
        _column("status", "|u1"),
        _column("crc", "<u4"),
    )


def _size(recipe: dict[str, Any], name: str, limit: int) -> int:
    value = recipe.get(name)
    if type(value) is not int or not 1 <= value <= limit:  # True is an int too
        raise CacheError(f"recipe: {name} must be a whole number from 1 to {limit}, found {value}")
    return value
