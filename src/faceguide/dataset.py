"""A cache as a map-style torch Dataset, for DataLoader, Lightning and Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from faceguide.cache.reader import FaceCache


class Dataset(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows of a cache by their place; `Stream` is faster where the order is yours to leave.

    A DataLoader fetches each batch in one read (`__getitems__`). May be pickled for its workers:
    every process opens the files for itself, when it first needs them.

    Args:
        cache: an open cache.
        rows: (N,) row numbers, such as `cache.select()`; None = every row with a face.
        columns: column names, e.g. ("image", "regions", "label").

    Raises:
        CacheError: for columns the cache lacks.
        IndexError: for a row outside the cache.
    """

    def __init__(
        self,
        cache: FaceCache,
        rows: NDArray[np.integer] | Sequence[int] | None = None,
        *,
        columns: Sequence[str] = ("image", "label"),
    ) -> None:
        self.cache = cache
        self.columns = tuple(columns)
        for name in self.columns:
            cache.require(name)
        self.rows = cache.select() if rows is None else cache.check_rows(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """One sample: the columns as numpy values, and `row`, its number in the cache."""
        return self.__getitems__([place])[0]

    def __getitems__(self, places: Sequence[int]) -> list[dict[str, Any]]:
        """The samples at these places, in their order, out of one read."""
        rows = self.rows[np.asarray(places, np.int64)]
        values = {**self.cache.read(rows, self.columns), "row": rows}
        return [{name: column[i] for name, column in values.items()} for i in range(len(rows))]
